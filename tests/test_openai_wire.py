import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.builtin.openai.request_body import Completion, read_chat, read_text
from lllms_core.errors import InvalidRequest, RequestError
from lllms_core.parameters import ROUTES
from lllms_core.types import Media, Message, ToolCall

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "Once"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

def chat(**changes: object) -> Completion:
    return read_chat(json.dumps({**CHAT, **changes}).encode())


def text(**changes: object) -> Completion:
    return read_text(json.dumps({**TEXT, **changes}).encode())


def message(**fields: object) -> Completion:
    return chat(messages=[fields])


def test_a_chat_is_read() -> None:
    """Model, messages and parameters arrive as they were sent; nulls are left out."""
    wanted = chat(temperature=0, n=None, stop=["a"], top_k=3, stream=True, stream_options={"include_usage": True})
    parameters = {"temperature": 0, "stop": ["a"], "top_k": 3}
    messages = (Message("user", "Hi"),)
    assert wanted == Completion("m", parameters, messages, (), stream=True, include_usage=True)


@pytest.mark.parametrize(("body", "unused"), [
    ({"stream_options": {"include_usage": True}}, ("stream_options",)), ({"stream_options": {}}, ()),
    ({"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}, ()),
    ({"stream": True, "stream_options": {"include_obfuscation": True, "continuous_usage_stats": True}},
     ("stream_options.include_obfuscation", "stream_options.continuous_usage_stats")),
])
def test_options_without_effect_are_named(body: dict[str, object], unused: tuple[str, ...]) -> None:
    """Unsupported stream options, and stream options without a stream, are named."""
    assert chat(**body).unused == unused


def test_a_text_is_read() -> None:
    """A prompt is kept as it is, even an empty one."""
    assert Completion("m", {"echo": True}, None, ("",), stream=False, include_usage=False) == text(prompt="", echo=True)


def test_roles_and_parts_are_read() -> None:
    """Every role is accepted, the name is kept, and text parts are joined by line breaks."""
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


def test_calls_and_results_are_read() -> None:
    """An assistant's calls need no content, and a tool's message names the call that it answers."""
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "sum"},
        {"role": "tool", "content": [{"type": "text", "text": "3"}], "tool_call_id": "c1"},
    ]
    assert chat(messages=messages).messages == (
        Message("assistant", "", tool_calls=(ToolCall("c1", "add", '{"a": 1}'),), reasoning="sum"),
        Message("tool", "3", tool_call_id="c1"),
    )


def test_deprecated_calls_are_read() -> None:
    """`function_call` and the role `function` are a call and its result."""
    messages = [
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": "{}"}},
        {"role": "function", "name": "add", "content": None},
    ]
    call, result = chat(messages=messages).messages or ()
    assert [(one.name, one.arguments) for one in call.tool_calls] == [("add", "{}")]
    assert result == Message("tool", "", "add", tool_call_id=call.tool_calls[0].id)


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"refusal": "I cannot."}, "I cannot."), ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": "Well.", "refusal": "No."}, "Well.\nNo."),
        ({"content": [{"type": "text", "text": "Well."}, {"type": "refusal", "refusal": "No."}]}, "Well.\nNo."),
    ],
)
def test_a_refusal_is_what_the_assistant_said(fields: dict[str, object], content: str) -> None:
    """Templates have no refusals, so the text of one becomes the message's text."""
    assert message(role="assistant", **fields).messages == (Message("assistant", content),)


def test_media_stand_between_texts() -> None:
    """Images, sounds and files are read with their places; the text is available without them, too."""
    parts = [
        {"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}},
        {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}}, {"type": "text", "text": "this"},
        {"type": "file", "file": {"file_id": "f1"}},
    ]
    [read] = message(role="user", content=parts).messages or ()
    assert read.content == "See\nthis"
    assert read.parts == (
        "See", Media("image", "data:image/png;base64,eA==", param="messages[0].content[1].type"),
        Media("audio", "eA==", "wav", "messages[0].content[2].type"), "this",
        Media("file", "f1", param="messages[0].content[4].type"),
    )


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        ({"model": 1}, "model", "invalid_type"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, object], param: str, code: str) -> None:
    """Each fault names its field."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**body)
    assert (param, code) == (caught.value.param, caught.value.code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"content": "x"}, "role", "missing_required_parameter"),
        ({"role": "wizard", "content": "x"}, "role", "invalid_value"),
        ({"role": 1, "content": "x"}, "role", "invalid_type"),
        ({"role": "tool", "content": "x"}, "tool_call_id", "missing_required_parameter"),
        ({"role": "tool", "tool_call_id": "x"}, "content", "missing_required_parameter"),
        ({"role": "tool", "content": "x", "tool_call_id": 1}, "tool_call_id", "invalid_type"),
        ({"role": "function", "content": "x", "name": "f"}, "role", "invalid_value"),
        ({"role": "assistant"}, "content", "missing_required_parameter"),
        ({"role": "assistant", "tool_calls": {}}, "tool_calls", "invalid_type"),
        ({"role": "assistant", "reasoning_content": 1, "content": ""}, "reasoning_content", "invalid_type"),
        ({"role": "assistant", "tool_calls": [1]}, "tool_calls[0]", "invalid_type"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "tool_calls[0].type", "unsupported_parameter"),
        ({"role": "assistant", "tool_calls": [{"type": "x"}]}, "tool_calls[0].type", "invalid_value"),
        (
            {"role": "assistant", "tool_calls": [{"type": "function", "id": "1", "function": {"name": "f"}}]},
            "tool_calls[0].function.arguments", "missing_required_parameter",
        ),
        ({"role": "assistant", "function_call": {"arguments": ""}}, "function_call.name", "missing_required_parameter"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "tool_calls", "unknown_parameter"),
        ({"role": "user"}, "content", "missing_required_parameter"),
        ({"role": "user", "content": 1}, "content", "invalid_type"),
        ({"role": "user", "content": ["x"]}, "content[0]", "invalid_type"),
        ({"role": "user", "content": [{"text": "x"}]}, "content[0].type", "missing_required_parameter"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text", "missing_required_parameter"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "content[0].text", "invalid_type"),
        ({"role": "user", "content": [{"type": "file"}]}, "content[0].file", "missing_required_parameter"),
        ({"role": "user", "content": [{"type": 1}]}, "content[0].type", "invalid_type"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "content[0].image_url.url",
         "missing_required_parameter"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}, "content[0].type", "invalid_value"),
        ({"role": "user", "content": "x", "refusal": "no"}, "refusal", "unknown_parameter"),
        ({"role": "assistant", "refusal": 1}, "refusal", "invalid_type"),
        ({"role": "assistant", "contents": "x"}, "content", "missing_required_parameter"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a1"}}, "audio", "unsupported_parameter"),
        ({"role": "user", "content": "x", "images": ["eA=="]}, "images", "unsupported_parameter"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "content[0].type", "invalid_value"),
        ({"role": "user", "content": "x", "name": 1}, "name", "invalid_type"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "tool_calls[0].type", "missing_required_parameter"),
    ],
)
def test_a_wrong_message_is_named(fields: dict[str, object], param: str, code: str) -> None:
    """Each fault names its message and field."""
    with pytest.raises(RequestError) as caught:
        message(**fields)
    assert (f"messages[0].{param}", code) == (caught.value.param, caught.value.code)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ("a",)), ("", ("",)), (["a", "b"], ("a", "b")), ([1, 0], ((1, 0),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_a_prompt_comes_in_four_forms(prompt: object, expected: object) -> None:
    """One text, several, the tokens of one, and those of several."""
    assert text(prompt=prompt).prompts == expected


@pytest.mark.parametrize(
    ("prompt", "param", "code"),
    [
        (5, "prompt", "invalid_type"), ({}, "prompt", "invalid_type"), ([], "prompt", "empty_array"),
        ([[]], "prompt[0]", "empty_array"), (["a", 1], "prompt[1]", "invalid_type"),
        ([1, "a"], "prompt[1]", "invalid_type"), ([[1], "a"], "prompt[1]", "invalid_type"),
        ([1, -1], "prompt[1]", "integer_below_min_value"), ([[1], [1.5]], "prompt[1][0]", "invalid_type"),
        ([1, True], "prompt[1]", "invalid_type"), ([{}], "prompt[0]", "invalid_type"),
        ([2**31], "prompt[0]", "integer_above_max_value"), (["a"] * 2049, "prompt", "array_above_max_length"),
    ],
)
def test_a_wrong_prompt_is_named(prompt: object, param: str, code: str) -> None:
    """An invalid prompt is refused with its place."""
    with pytest.raises(InvalidRequest) as caught:
        text(prompt=prompt)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"model": NaN}', b"\xff", b'{"a": "\\ud800"}', b'{"a": "\xed\xa0\x80"}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Bad JSON is the client's fault, however bad it is, even half characters."""
    with pytest.raises(InvalidRequest) as caught:
        read_chat(body)
    assert caught.value.code == "invalid_json"


def test_escaped_characters_are_fine() -> None:
    """A character outside the first plane may be written as two escapes."""
    body = b'{"model": "m", "prompt": "\\ud83d\\ude00"}'
    assert read_text(body).prompts == ("\N{GRINNING FACE}",)


NAMES = st.sampled_from(["role", "content", "type", "text", "name", "include_usage"]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # busy machines are slow
@given(st.dictionaries(st.sampled_from(sorted({*ROUTES["chat"], *ROUTES["text"], "x"})), VALUES), st.booleans())
def test_any_json_is_read_or_refused(values: dict[str, object], complete: bool) -> None:
    """Whatever a client sends is either accepted or a fault of the request, never of the server."""
    for read, base in ((read_chat, CHAT), (read_text, TEXT)):
        with contextlib.suppress(RequestError):
            read(json.dumps({**(base if complete else {}), **values}).encode())
