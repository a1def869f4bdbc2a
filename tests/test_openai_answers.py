import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core import errors
from lllms_core.answers import Choice
from lllms_core.apis import explain, openai_shape
from lllms_core.builtin.openai.shapes import Asked, Events, Head, whole_answer
from lllms_core.types import CallPiece, Delta, Finish, Message, ToolCall, Usage

pytestmark = pytest.mark.slow

HEAD = Head("chatcmpl-1", 7, "tiny", "fp_1")
HI_MESSAGE = Message("assistant", "Hi")
CHAT, TEXT = Asked(chat=True), Asked(chat=False)
FINISH = Finish("stop", Usage(5, 3, cached_tokens=2, reasoning_tokens=1, accepted_tokens=2, rejected_tokens=4))
USAGE = {
    "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {
        "reasoning_tokens": 1, "accepted_prediction_tokens": 2, "rejected_prediction_tokens": 4,
    },
}
ONE_OF_EACH: dict[type[errors.LllmsError], tuple[int, str]] = {
    errors.ConfigError: (500, "internal_error"),
    errors.PluginLoadFailed: (500, "internal_error"),
    errors.PluginConflict: (500, "internal_error"),
    errors.KeyRefused: (401, "invalid_api_key"),
    errors.RateLimited: (429, "rate_limit_exceeded"),
    errors.ModelUnknown: (404, "model_not_found"),
    errors.ModelLoadFailed: (503, "model_not_available"),
    errors.PlaceLost: (503, "model_not_available"),
    errors.PlaceFull: (503, "model_not_available"),
    errors.ModelTooLarge: (503, "model_too_large"),
    errors.InvalidRequest: (400, "invalid_request"),
    errors.UnsupportedParameter: (400, "unsupported_parameter"),
    errors.ContextOverflow: (400, "context_length_exceeded"),
    errors.EngineFailed: (500, "engine_failed"),
    errors.EngineDied: (500, "engine_died"),
    errors.OutOfTime: (504, "timeout"),
    errors.InvalidSource: (503, "model_not_available"),
    errors.SourceUnavailable: (503, "model_not_available"),
    errors.Offline: (503, "model_not_available"),
    errors.ChecksumMismatch: (503, "model_not_available"),
    errors.DiskFull: (503, "model_not_available"),
    errors.DownloadCancelled: (503, "model_not_available"),
    errors.RequestCancelled: (499, "cancelled"),
    errors.QueueFull: (429, "queue_full"),
    errors.WaitedTooLong: (503, "waited_too_long"),
    errors.InsufficientMemory: (503, "insufficient_memory"),
    errors.ShuttingDown: (503, "shutting_down"),
}


HI = Delta("1", "Hi")


def events(data: bytes) -> list[Any]:
    parts = data.decode("ascii").split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def test_a_whole_chat_has_openais_shape() -> None:
    """Every field that OpenAI's specification requires is present."""
    common = {"id": "chatcmpl-1", "created": 7, "model": "tiny", "system_fingerprint": "fp_1"}
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    expected = {**common, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    assert expected == whole_answer(CHAT, HEAD, [Choice(HI_MESSAGE, "stop")], FINISH.usage)


def test_a_whole_text_has_openais_shape() -> None:
    """The answer to a prompt is a `text_completion`."""
    common = {"id": "chatcmpl-1", "created": 7, "model": "tiny", "system_fingerprint": "fp_1"}
    choice = {"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "length"}
    expected = {**common, "object": "text_completion", "choices": [choice], "usage": USAGE}
    assert expected == whole_answer(TEXT, HEAD, [Choice(HI_MESSAGE, "timeout")], FINISH.usage)


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("asked", [CHAT, TEXT], ids=["chat", "text"])
def test_a_stream_has_openais_shape(asked: Asked, include_usage: bool) -> None:
    """The chunks share their head; the usage comes last, in a chunk without choices, and is null in all others."""
    encoder = Events(asked, lambda: HEAD, include_usage=include_usage)
    *chunks, done = events(encoder.delta(HI) + encoder.end(FINISH))
    assert done == "[DONE]"
    common = {
        "id": "chatcmpl-1", "created": 7, "model": "tiny", "system_fingerprint": "fp_1",
        "object": "chat.completion.chunk" if asked.chat else "text_completion",
        **({"usage": None} if include_usage else {}),
    }

    def chunk(reason: str | None, **content: object) -> dict[str, object]:
        return {**common, "choices": [{"index": 0, "logprobs": None, "finish_reason": reason, **content}]}

    if asked.chat:
        start = chunk(None, delta={"role": "assistant", "content": ""})
        expected = [start, chunk(None, delta={"content": "Hi"}), chunk("stop", delta={})]
    else:
        expected = [chunk(None, text="Hi"), chunk("stop", text="")]
    if include_usage:
        expected.append({**common, "choices": [], "usage": USAGE})
    assert expected == chunks


CALLS = (
    Delta("1", reasoning="Hm."), Delta("1", "Wait."), Delta("1", calls=(CallPiece(0, "c0", "add", '{"a'),)),
    Delta("1", calls=(CallPiece(0, arguments='": 1}'), CallPiece(1, "c1", "now", "{}"))), Delta("1", tokens=1),
)


def test_calls_and_thoughts_are_streamed_as_openai_does() -> None:
    """The name of each call comes first, with empty arguments, then their pieces; thoughts have a separate field."""
    encoder = Events(CHAT, lambda: HEAD, include_usage=False)
    data = b"".join(map(encoder.delta, CALLS)) + encoder.end(Finish("tool_calls", Usage(1, 1)))
    *chunks, done = events(data)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": None}, {"reasoning_content": "Hm."}, {"content": "Wait."},
        {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": {"name": "add", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '": 1}'}}]},
        {"tool_calls": [{"index": 1, "id": "c1", "type": "function", "function": {"name": "now", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert done == "[DONE]"


def test_a_whole_answer_with_calls_has_openais_shape() -> None:
    """Content is null if there are only calls; the deprecated form shows the first of them."""
    message = Message("assistant", "", tool_calls=(ToolCall("c0", "add", "{}"),), reasoning="Hm.")
    said = [Choice(message, "tool_calls")]
    [choice] = whole_answer(CHAT, HEAD, said, Usage(1, 1))["choices"]
    function = {"name": "add", "arguments": "{}"}
    assert choice["message"] == {
        "role": "assistant", "content": None, "refusal": None, "reasoning_content": "Hm.",
        "tool_calls": [{"id": "c0", "type": "function", "function": function}],
    }
    [old] = whole_answer(Asked(chat=True, functions=True), HEAD, said, Usage(1, 1))["choices"]
    assert (old["message"]["function_call"], old["finish_reason"]) == (function, "function_call")
    encoder = Events(Asked(chat=True, functions=True), lambda: HEAD, include_usage=False)
    _, *chunks = events(b"".join(map(encoder.delta, CALLS[2:4])))
    assert [chunk["choices"][0]["delta"]["function_call"] for chunk in chunks[:2]] == [
        {"name": "add", "arguments": ""}, {"arguments": '{"a'},
    ]


@settings(deadline=None)  # busy machines are slow
@given(st.text())
def test_any_text_survives_a_chunk(text: str) -> None:
    """Whatever a model generates, its chunk is one line of ASCII with exactly that text."""
    data = Events(CHAT, lambda: HEAD, include_usage=False).delta(Delta("r", f"{text}."))
    assert len(data.decode("ascii").split("\n\n")[1].splitlines()) == 1
    assert f"{text}." == events(data)[1]["choices"][0]["delta"]["content"]


def leaves(kind: type[errors.LllmsError]) -> list[type[errors.LllmsError]]:
    subclasses = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [leaf for sub in subclasses for leaf in leaves(sub)] or [kind]


def test_every_error_has_its_status() -> None:
    """Each error of the hierarchy is answered with the status and the code that clients act on."""
    # A failed load is an error of its own, beside those of its places.
    assert set(ONE_OF_EACH) == {*leaves(errors.LllmsError), errors.ModelLoadFailed}
    for kind, expected in ONE_OF_EACH.items():
        fault = explain(kind("what happened"))
        assert (*expected, "what happened") == (fault.status, fault.code, fault.message)


def test_errors_say_which_field_and_when_to_come_back() -> None:
    """`param` and `code` come from the request's error, Retry-After from that of an overloaded server."""
    fault = explain(errors.InvalidRequest("no", "messages[0]", "invalid_type"))
    expected = {"message": "no", "type": "invalid_request_error", "param": "messages[0]", "code": "invalid_type"}
    assert openai_shape(fault) == {"error": expected}
    assert explain(errors.QueueFull("full", 9)).headers == {"Retry-After": "9"}
    assert explain(errors.SourceUnavailable("gone", 60)).headers == {"Retry-After": "60"}
    assert explain(errors.Offline("not on disk")).headers == {}
    assert explain(errors.InsufficientMemory("busy", 5)).headers == {"Retry-After": "5"}
    assert explain(errors.ModelTooLarge("22 GB")).headers == {"x-should-retry": "false"}
    assert explain(errors.ModelUnknown("no model 'x'")).param == "model"


def test_unexpected_errors_tell_clients_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The message of a bug is in the log with its traceback, not in the answer."""
    fault = explain(ValueError("a secret"))
    assert (fault.status, fault.code) == (500, "internal_error")
    assert "secret" not in fault.message
    assert "a secret" in caplog.text
