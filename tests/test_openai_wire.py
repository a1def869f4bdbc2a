import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.builtin.openai.wire import HARMLESS, NOTHING, Completion, read_chat, read_text
from lllms_core.errors import InvalidRequest, RequestError, UnsupportedParameter
from lllms_core.parameters import PARAMETERS
from lllms_core.types import Message

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "Once"}

# From OpenAI's specification of POST /chat/completions and POST /completions.
CHAT_PARAMETERS = [
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort",
    "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
]
TEXT_PARAMETERS = [
    "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "model", "n", "presence_penalty",
    "prompt", "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user",
]


def chat(**changes: object) -> Completion:
    return read_chat(json.dumps({**CHAT, **changes}).encode())


def text(**changes: object) -> Completion:
    return read_text(json.dumps({**TEXT, **changes}).encode())


def message(**fields: object) -> Completion:
    return chat(messages=[fields])


def test_a_chat_is_read() -> None:
    """Model, messages and parameters arrive as they were sent, names of sampling parameters unchanged."""
    wanted = chat(temperature=0, seed=7, stop=["a"], top_k=3, stream=True, stream_options={"include_usage": True})
    parameters = {"temperature": 0, "seed": 7, "stop": ["a"], "top_k": 3}
    assert Completion("m", parameters, (Message("user", "Hi"),), None, stream=True, include_usage=True) == wanted


def test_a_text_is_read() -> None:
    """A prompt is kept as it is, also an empty one."""
    assert Completion("m", {}, None, "", stream=False, include_usage=False) == text(prompt="")


def test_roles_and_parts_are_read() -> None:
    """Every role is taken, the name is kept, and text parts are joined by line breaks."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": [], "annotations": [], "audio": None},
    ]
    assert chat(messages=messages).messages == (
        Message("system", "s"), Message("developer", "d"), Message("user", "a\nb", "Ann"), Message("assistant", ""),
    )


@pytest.mark.parametrize(
    ("task", "read", "names"), [("chat", chat, CHAT_PARAMETERS), ("text", text, TEXT_PARAMETERS)],
)
def test_every_parameter_of_the_specification_is_known(task: str, read: Any, names: list[str]) -> None:
    """No parameter of OpenAI's is called unknown, and null, which means left out, is taken for all but the needed."""
    for name in set(names) - {"model", "messages", "prompt"}:
        assert read(**{name: None}) == read()
        handled = {"stream", "stream_options", "max_completion_tokens"}
        assert name in {*PARAMETERS, *HARMLESS[task], *NOTHING[task], *handled}


@pytest.mark.parametrize(("task", "read"), [("chat", chat), ("text", text)])
def test_values_that_ask_for_nothing_are_taken(task: str, read: Any) -> None:
    """A parameter that is not built yet may be sent with the value that it has anyway."""
    for name, values in NOTHING[task].items():
        for value in values:
            assert read() == read(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2), ("n", True), ("n", 0), ("logprobs", True), ("logprobs", 0), ("tools", [{}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}), ("logit_bias", {"1": 2}), ("top_logprobs", 1), ("store", True),
        ("service_tier", "flex"), ("modalities", ["text", "audio"]), ("reasoning_effort", "low"), ("prediction", {}),
        ("parallel_tool_calls", 1), ("verbosity", "low"),
    ],
)
def test_what_is_not_built_is_refused_by_name(name: str, value: object) -> None:
    """A known parameter that asks for something more is a 400 that names it."""
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**{name: value})
    assert (name, "unsupported_parameter") == (caught.value.param, caught.value.code)


@pytest.mark.parametrize(
    ("name", "value"), [("echo", True), ("best_of", 2), ("suffix", "x"), ("logprobs", 0), ("n", 2)],
)
def test_what_is_not_built_for_texts_is_refused(name: str, value: object) -> None:
    """The parameters of /completions, too; 0 log probabilities is a wish for those of the chosen tokens."""
    with pytest.raises(UnsupportedParameter) as caught:
        text(**{name: value})
    assert name == caught.value.param


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"suffix": "x"}, "suffix", "unknown_parameter"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        ({"model": 1}, "model", "invalid_type"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
        ({"user": 1}, "user", "invalid_type"),
        ({"metadata": "x"}, "metadata", "invalid_type"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": "1"}, "max_completion_tokens", "invalid_type"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, object], param: str, code: str) -> None:
    """Each fault says which field it is in."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**body)
    assert (param, code) == (caught.value.param, caught.value.code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"content": "x"}, "role", "missing_required_parameter"),
        ({"role": "wizard", "content": "x"}, "role", "invalid_value"),
        ({"role": 1, "content": "x"}, "role", "invalid_type"),
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "role", "unsupported_parameter"),
        ({"role": "user"}, "content", "missing_required_parameter"),
        ({"role": "user", "content": 1}, "content", "invalid_type"),
        ({"role": "user", "content": []}, "content", "empty_array"),
        ({"role": "user", "content": ["x"]}, "content[0]", "invalid_type"),
        ({"role": "user", "content": [{"text": "x"}]}, "content[0].type", "missing_required_parameter"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text", "missing_required_parameter"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "content[0].text", "invalid_type"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}, "content[0].y", "unknown_parameter"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "content[0].type", "unsupported_parameter"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "content[0].type", "invalid_value"),
        ({"role": "user", "content": "x", "name": 1}, "name", "invalid_type"),
        ({"role": "user", "content": "x", "colour": 1}, "colour", "unknown_parameter"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "tool_calls", "unsupported_parameter"),
    ],
)
def test_a_wrong_message_is_named(fields: dict[str, object], param: str, code: str) -> None:
    """Each fault says in which field of which message it is."""
    with pytest.raises(RequestError) as caught:
        message(**fields)
    assert (f"messages[0].{param}", code) == (caught.value.param, caught.value.code)


def test_both_names_of_the_limit_are_taken() -> None:
    """`max_completion_tokens` is `max_tokens`; both may be given if they agree."""
    assert chat(max_completion_tokens=5).parameters == {"max_tokens": 5}
    assert chat(max_completion_tokens=5, max_tokens=5).parameters == {"max_tokens": 5}


def test_prompts_of_other_kinds_are_refused() -> None:
    """Several prompts, or tokens, are not supported yet; anything else is a wrong type."""
    for prompt in (["a"], [1, 2]):
        with pytest.raises(UnsupportedParameter) as caught:
            text(prompt=prompt)
        assert caught.value.param == "prompt"
    with pytest.raises(InvalidRequest, match="expected a string, but got an integer"):
        text(prompt=5)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"model": NaN}', b"\xff", b'{"a": "\\ud800"}', b'{"a": "\xed\xa0\x80"}',
        b"[" * 99999,
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Bad JSON is the client's fault, however bad it is: also half characters and bottomless nesting."""
    with pytest.raises(InvalidRequest) as caught:
        read_chat(body)
    assert caught.value.code == "invalid_json"


def test_escaped_characters_are_fine() -> None:
    """A character outside of the first plane may be written as two escapes."""
    body = b'{"model": "m", "prompt": "\\ud83d\\ude00"}'
    assert read_text(body).prompt == "\N{GRINNING FACE}"


NAMES = st.sampled_from(["role", "content", "type", "text", "name", "include_usage"]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # busy machines are slow
@given(st.dictionaries(st.sampled_from(sorted({*CHAT_PARAMETERS, *TEXT_PARAMETERS, "x"})), VALUES), st.booleans())
def test_any_json_is_read_or_refused(values: dict[str, object], complete: bool) -> None:
    """Whatever a client sends, it is taken or is a fault of the request, never of ours."""
    for read, base in ((read_chat, CHAT), (read_text, TEXT)):
        with contextlib.suppress(RequestError):
            read(json.dumps({**(base if complete else {}), **values}).encode())
