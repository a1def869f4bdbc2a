"""The events of one answer, and the same values in one piece; pure.

`queued, loading, prompt`, as often as they change; then `thoughts`, `text` and `call`, which together are the answer;
then `usage` and `done`, or `error`, which ends the stream at any place.
"""

from collections.abc import Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote

from lllms_core.answers import Answer
from lllms_core.apis import Fault
from lllms_core.apis.explanations import short_message
from lllms_core.apis.writing import dumps
from lllms_core.builtin.chat.said_messages import call_value
from lllms_core.chat import gather_message
from lllms_core.parameters.wording import cut
from lllms_core.status import Waiting
from lllms_core.types import Delta, Finish, Message, Timings, ToolCall, Usage

Value = Mapping[str, object]

EVENTS = ("queued", "loading", "prompt", "thoughts", "text", "call", "usage", "done", "error")
REASONS = {"stop": "stop", "tool_calls": "calls", "length": "length", "timeout": "timeout", "cancelled": "cancelled"}
"""Why an answer ended, by our reasons."""


class ChatEvents:
    """Writes one answer as events `ID-0`, `ID-1` and so on; all but the pieces of text is encoded as it is."""

    def __init__(self, chat_id: str, conversation: str | None, *, thoughts: bool) -> None:
        self.deltas: list[Delta] = []
        """The answer so far."""
        self._id = chat_id
        self._conversation = conversation
        self._thoughts = thoughts
        self._number = 0
        self._told: tuple[str, Value] | None = None
        self._call: ToolCall | None = None
        """The last call that was begun, and is not told yet."""
        self._index = -1

    @property
    def message(self) -> Message:
        """The answer so far; calls that are not whole are left out."""
        message = gather_message(self.deltas)
        whole = [call for call in message.tool_calls if call_value(call)["arguments"] is not None]
        return Message("assistant", message.content, tool_calls=tuple(whole), reasoning=message.reasoning)

    def waits(self, waiting: Waiting | None) -> list[bytes]:
        """Return the event for what the answer waits for, if that is new."""
        if waiting is None:
            return []
        told = _waiting_event(waiting)
        if told == self._told:
            return []
        self._told = told
        return [self._event(*told)]

    def add(self, deltas: Sequence[Delta]) -> list[bytes]:
        """Return the events for pieces of the answer that came together."""
        self.deltas += deltas
        events: list[bytes] = []
        kind, texts = "", list[str]()  # pieces of one kind become one event
        for delta in deltas:
            if delta.admitted is not None:
                events.append(self._admit(delta.admitted))
            for name, text in (("thoughts", delta.reasoning if self._thoughts else ""), ("text", delta.text)):
                if text and name != kind:
                    events += self._texts(kind, texts)
                    kind, texts = name, []
                if text:
                    texts.append(text)
            if delta.calls:
                events += self._texts(kind, texts)
                kind, texts = "", []
                events += self._take_calls(delta)
        return events + self._texts(kind, texts)

    def end(self, finish: Finish) -> list[bytes]:
        """Return the end of the answer."""
        return [
            *self._flush(), self._event("usage", usage_value(finish.usage, finish.timings)),
            self._event("done", done_value(finish, self._conversation)),
        ]

    def fault(self, fault: Fault) -> list[bytes]:
        """Return the end of an answer that failed."""
        return [self._event("error", fault_value(fault))]

    def _admit(self, usage: Usage) -> bytes:
        return self._event("prompt", {
            "progress": 1.0, "tokens": usage.prompt_tokens, "cached": usage.cached_tokens,
            "conversation": self._conversation,
        })

    def _take_calls(self, delta: Delta) -> Iterator[bytes]:
        for piece in delta.calls:
            if piece.index != self._index:
                yield from self._flush()
                self._index, self._call = piece.index, ToolCall(piece.id, piece.name, piece.arguments)
            elif self._call is not None:
                call = self._call
                self._call = ToolCall(call.id, call.name, call.arguments + piece.arguments)

    def _flush(self) -> Iterator[bytes]:
        call, self._call = self._call, None
        if call is not None:
            yield self._event("call", call_value(call))

    def _texts(self, name: str, texts: Sequence[str]) -> list[bytes]:
        if not texts:
            return []
        # Most events: this runs for every token.
        number = self._number
        self._number += 1
        return [f'id: {self._id}-{number}\nevent: {name}\ndata: {{"text":{quote("".join(texts))}}}\n\n'.encode()]

    def _event(self, name: str, value: Value) -> bytes:
        number = self._number
        self._number += 1
        return f"id: {self._id}-{number}\nevent: {name}\ndata: ".encode() + dumps(value) + b"\n\n"


def whole_value(
    chat_id: str, model: str, conversation: str | None, answer: Answer, *, thoughts: bool,
) -> Value:
    """Return a whole answer: what its events tell together."""
    message, finish = answer.message, answer.finish
    return {
        "id": chat_id, "model": model, "thoughts": (message.reasoning or "") if thoughts else "",
        "text": message.content, "calls": [call_value(call) for call in message.tool_calls],
        "usage": usage_value(finish.usage, finish.timings), **done_value(finish, conversation),
    }


def usage_value(usage: Usage, timings: Timings) -> Value:
    """Return the counts of tokens, and the seconds they took."""
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens, "reasoning_tokens": usage.reasoning_tokens,
        "timings": {
            "queued": round(timings.queued, 4), "load": round(timings.load, 4), "prompt": round(timings.prompt, 4),
            "answer": round(timings.answer, 4),
        },
    }


def done_value(finish: Finish, conversation: str | None) -> Value:
    """Return why an answer ended: `stop` is the stop string that ended it."""
    return {"reason": REASONS[finish.reason], "stop": finish.stop, "conversation": conversation}


def fault_value(fault: Fault) -> Value:
    """Return an error; `retry_after` are seconds, null if trying again is of no use, or nobody knows when."""
    after = fault.headers.get("Retry-After")
    return {
        "code": fault.code, "message": short_message(fault),
        "parameter": None if fault.param is None else cut(fault.param),
        "retry_after": int(after) if after is not None and after.isdigit() else None,
    }


def _waiting_event(waiting: Waiting) -> tuple[str, Value]:
    progress = None if waiting.progress is None else round(waiting.progress, 3)
    match waiting.state:
        case "queued" | "memory":
            return "queued", {"position": waiting.position, "reason": waiting.reason or None}
        case "downloading" | "loading":
            return "loading", {"progress": progress, "stage": waiting.state, "about": str(waiting)}
        case "prompt":
            return "prompt", {"progress": progress, "tokens": None, "cached": None, "conversation": None}
