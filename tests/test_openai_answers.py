import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core import errors
from lllms_core.builtin.openai.answers import Events, Head, whole_answer
from lllms_core.builtin.openai.errors import explain
from lllms_core.types import Finish, Task, Usage

HEAD = Head("chatcmpl-1", 7, "tiny", "fp_1")
FINISH = Finish("stop", Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2))
USAGE = {
    "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2},
}
ONE_OF_EACH: dict[type[errors.LllmsError], tuple[int, str]] = {
    errors.ConfigError: (500, "internal_error"),
    errors.PluginLoadFailed: (500, "internal_error"),
    errors.PluginConflict: (500, "internal_error"),
    errors.ModelUnknown: (404, "model_not_found"),
    errors.ModelLoadFailed: (503, "model_not_available"),
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
    errors.QueueFull: (429, "queue_full"),
    errors.WaitedTooLong: (503, "waited_too_long"),
    errors.ShuttingDown: (503, "shutting_down"),
}


def events(data: bytes) -> list[Any]:
    parts = data.decode("ascii").split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def test_a_whole_chat_has_openais_shape() -> None:
    """Every field that OpenAI's specification requires is there."""
    common = {"id": "chatcmpl-1", "created": 7, "model": "tiny", "system_fingerprint": "fp_1"}
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    expected = {**common, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    assert expected == whole_answer("chat", HEAD, "Hi", FINISH)


def test_a_whole_text_has_openais_shape() -> None:
    """The answer to a prompt is a `text_completion`."""
    common = {"id": "chatcmpl-1", "created": 7, "model": "tiny", "system_fingerprint": "fp_1"}
    choice = {"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "length"}
    expected = {**common, "object": "text_completion", "choices": [choice], "usage": USAGE}
    assert expected == whole_answer("text", HEAD, "Hi", Finish("timeout", FINISH.usage))


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("task", ["chat", "text"])
def test_a_stream_has_openais_shape(task: Task, include_usage: bool) -> None:
    """The chunks share one head; the usage comes last, in a chunk without choices, and is null in all others."""
    encoder = Events(task, HEAD, include_usage=include_usage)
    *chunks, done = events(encoder.start() + encoder.text("Hi") + encoder.end(FINISH))
    assert done == "[DONE]"
    common = {
        "id": "chatcmpl-1", "created": 7, "model": "tiny", "system_fingerprint": "fp_1",
        "object": "chat.completion.chunk" if task == "chat" else "text_completion",
        **({"usage": None} if include_usage else {}),
    }

    def chunk(reason: str | None, **content: object) -> dict[str, object]:
        return {**common, "choices": [{"index": 0, "logprobs": None, "finish_reason": reason, **content}]}

    if task == "chat":
        start = chunk(None, delta={"role": "assistant", "content": ""})
        expected = [start, chunk(None, delta={"content": "Hi"}), chunk("stop", delta={})]
    else:
        expected = [chunk(None, text="Hi"), chunk("stop", text="")]
    if include_usage:
        expected.append({**common, "choices": [], "usage": USAGE})
    assert expected == chunks


@settings(deadline=None)  # busy machines are slow
@given(st.text())
def test_any_text_survives_a_chunk(text: str) -> None:
    """Whatever a model says, its chunk is one line of ASCII, and holds exactly that."""
    data = Events("chat", HEAD, include_usage=False).text(text)
    assert len(data.decode("ascii").strip("\n").splitlines()) == 1
    assert text == events(data)[0]["choices"][0]["delta"]["content"]


def leaves(kind: type[errors.LllmsError]) -> list[type[errors.LllmsError]]:
    subclasses = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [leaf for sub in subclasses for leaf in leaves(sub)] or [kind]


def test_every_error_has_its_status() -> None:
    """Each error of the tree is answered with the status and the code that clients act on."""
    assert set(ONE_OF_EACH) == set(leaves(errors.LllmsError))
    for kind, expected in ONE_OF_EACH.items():
        fault = explain(kind("what happened"))
        assert (*expected, "what happened") == (fault.status, fault.code, fault.message)


def test_errors_say_which_field_and_when_to_come_back() -> None:
    """`param` and `code` come from the request's error, Retry-After from an overloaded server's."""
    fault = explain(errors.InvalidRequest("no", "messages[0]", "invalid_type"))
    expected = {"message": "no", "type": "invalid_request_error", "param": "messages[0]", "code": "invalid_type"}
    assert fault.body == {"error": expected}
    assert explain(errors.QueueFull("full", 9)).headers == {"Retry-After": "9"}
    assert explain(errors.SourceUnavailable("gone", 60)).headers == {"Retry-After": "60"}
    assert explain(errors.Offline("not on disk")).headers == {}
    assert explain(errors.ModelUnknown("no model 'x'")).param == "model"


def test_unexpected_errors_tell_clients_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What a bug says stands in the log with its traceback, not in the answer."""
    fault = explain(ValueError("a secret"))
    assert (fault.status, fault.code) == (500, "internal_error")
    assert "secret" not in fault.message
    assert "a secret" in caplog.text
