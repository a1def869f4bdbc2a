"""The shapes of OpenAI's answers: whole, and as the events of a stream."""

import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from attrs import frozen

from lllms_core.types import Finish, FinishReason, Task, Usage

DONE = b"data: [DONE]\n\n"

FINISH_REASONS: Mapping[FinishReason, str] = {
    "stop": "stop", "tool_calls": "tool_calls", "length": "length", "timeout": "length",
}
"""What OpenAI calls them: an answer that ran out of time is cut, like one that ran out of tokens. Nobody is left to be
told of a cancelled one."""


def dumps(value: object) -> bytes:
    """Encode compactly; ASCII, so that no reader of lines stumbles over U+2028 and its like."""
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: object) -> bytes:
    """Encode one server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"


@frozen
class Head:
    """What every part of one answer says."""

    id: str
    created: int
    model: str
    fingerprint: str


def completion_id(task: Task, stream_id: str) -> str:
    """Return the id of an answer: OpenAI's prefix, then the instance and the request."""
    return f"{'chatcmpl' if task == 'chat' else 'cmpl'}-{stream_id}"


def whole_answer(task: Task, head: Head, text: str, finish: Finish) -> dict[str, object]:
    """Return a `chat.completion` or a `text_completion`."""
    choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": FINISH_REASONS[finish.reason]}
    if task == "chat":
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    kind = "chat.completion" if task == "chat" else "text_completion"
    return {**_common(kind, head), "choices": [choice], "usage": usage(finish.usage)}


def usage(counts: Usage) -> dict[str, object]:
    """Return OpenAI's token counts."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }


class Events:
    """Encodes the events of one streamed answer. All but the text is encoded once, for `text` runs for every token."""

    def __init__(self, task: Task, head: Head, *, include_usage: bool) -> None:
        self._chat = task == "chat"
        self._include_usage = include_usage
        self._common = _common("chat.completion.chunk" if self._chat else "text_completion", head)
        if include_usage:
            self._common["usage"] = None
        # The choices come last, so that the text can be set between two constant strings.
        before = '"delta":{"content":' if self._chat else '"text":'
        after = "}" if self._chat else ""
        choice = '"choices":[{"index":0,"logprobs":null,"finish_reason":null,'
        self._before = f"data: {dumps(self._common)[:-1].decode()},{choice}{before}"
        self._after = f"{after}}}]}}\n\n"

    def start(self) -> bytes:
        """Return what comes before any text: a chat's role."""
        return self._choice({"role": "assistant", "content": ""}, None) if self._chat else b""

    def text(self, text: str) -> bytes:
        """Return a piece of the answer."""
        return f"{self._before}{quote(text)}{self._after}".encode()

    def end(self, finish: Finish) -> bytes:
        """Return what comes after all text: the reason, the token counts if they are wanted, and the end mark."""
        last = self._choice({}, FINISH_REASONS[finish.reason])
        if self._include_usage:
            last += event({**self._common, "choices": [], "usage": usage(finish.usage)})
        return last + DONE

    def _choice(self, delta: Mapping[str, str], reason: str | None) -> bytes:
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": reason}
        choice |= {"delta": delta} if self._chat else {"text": ""}
        return event({**self._common, "choices": [choice]})


def _common(kind: str, head: Head) -> dict[str, Any]:
    return {
        "id": head.id, "object": kind, "created": head.created, "model": head.model,
        "system_fingerprint": head.fingerprint,
    }
