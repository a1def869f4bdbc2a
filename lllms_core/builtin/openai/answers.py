"""The shapes of OpenAI's answers: whole, and as the events of a stream."""

import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from attrs import frozen

from lllms_core.builtin.openai.calls import delta_values, message_value
from lllms_core.types import Delta, Finish, FinishReason, Message, Task, Usage

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


def whole_answer(
    task: Task, head: Head, message: Message, finish: Finish, *, functions: bool = False,
) -> dict[str, object]:
    """Return a `chat.completion` or a `text_completion`; with `functions`, calls are shown in the deprecated form."""
    choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": finish_reason(finish, functions)}
    if task == "chat":
        choice["message"] = message_value(message, functions=functions)
    else:
        choice["text"] = message.content
    kind = "chat.completion" if task == "chat" else "text_completion"
    return {**_common(kind, head), "choices": [choice], "usage": usage(finish.usage)}


def finish_reason(finish: Finish, functions: bool) -> str:  # noqa: FBT001  # both say which word it is
    """Return OpenAI's word for the end of an answer."""
    return "function_call" if functions and finish.reason == "tool_calls" else FINISH_REASONS[finish.reason]


def usage(counts: Usage) -> dict[str, object]:
    """Return OpenAI's token counts."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
    }


class Events:
    """Encodes the events of one streamed answer. All but the text is encoded once, for `text` runs for every token."""

    def __init__(self, task: Task, head: Head, *, include_usage: bool, functions: bool = False) -> None:
        self._functions = functions
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

    def start(self, first: Delta) -> bytes:
        """Return what comes before `first`, the first delta that says something: a chat's role."""
        if not self._chat:
            return b""
        content = None if first.reasoning or first.calls else ""
        return self._choice({"role": "assistant", "content": content}, None)

    def delta(self, delta: Delta) -> bytes:
        """Return a piece of the answer; nothing for one that says nothing."""
        text = self.text(delta.text) if delta.text else b""
        if not delta.reasoning and not delta.calls:
            return text
        others = [self._choice(value, None) for value in delta_values(delta, functions=self._functions)]
        return b"".join([*others[: bool(delta.reasoning)], text, *others[bool(delta.reasoning) :]])

    def text(self, text: str) -> bytes:
        """Return a piece of the answer."""
        return f"{self._before}{quote(text)}{self._after}".encode()

    def end(self, finish: Finish) -> bytes:
        """Return what comes after all text: the reason, the token counts if they are wanted, and the end mark."""
        last = self._choice({}, finish_reason(finish, self._functions))
        if self._include_usage:
            last += event({**self._common, "choices": [], "usage": usage(finish.usage)})
        return last + DONE

    def _choice(self, delta: Mapping[str, object], reason: str | None) -> bytes:
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": reason}
        choice |= {"delta": delta} if self._chat else {"text": ""}
        return event({**self._common, "choices": [choice]})


def _common(kind: str, head: Head) -> dict[str, Any]:
    return {
        "id": head.id, "object": kind, "created": head.created, "model": head.model,
        "system_fingerprint": head.fingerprint,
    }
