"""The shapes of Ollama's answers: whole, and as lines of JSON; pure."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote

from attrs import define, field, frozen

from lllms_core.answers import Choice
from lllms_core.apis import Encoder, Fault
from lllms_core.apis.explanations import short_message
from lllms_core.apis.writing import line, logprob_value
from lllms_core.types import CallPiece, Delta, Finish, FinishReason, TokenScore, ToolCall

REASONS: Mapping[FinishReason, str] = {"length": "length", "timeout": "length"}
"""Ollama's words; any other end is `stop`."""


@frozen
class Head:
    """What all lines of an answer have in common."""

    name: str
    """The model, as the client called it."""
    chat: bool
    """Whether the text is a message, or a `response`."""

    def value(self, **rest: object) -> dict[str, object]:
        """Return a line."""
        return {"model": self.name, "created_at": now(), **rest}

    def piece(
        self, text: str = "", thoughts: str = "", calls: Sequence[ToolCall] = (), scores: Sequence[TokenScore] = (),
        *, first: int = 0,
    ) -> dict[str, object]:
        """Return the members for a piece of an answer; `first` is the index of the first call."""
        said: dict[str, object] = {"thinking": thoughts} if thoughts else {}
        scored: dict[str, object] = {"logprobs": [_score(one) for one in scores]} if scores else {}
        if not self.chat:
            return {"response": text, **said, **scored}
        if calls:
            said["tool_calls"] = [call_value(call, first + index) for index, call in enumerate(calls)]
        return {"message": {"role": "assistant", "content": text, **said}, **scored}


class LineEncoder(Encoder):
    """Writes one streamed answer. A call is written when it is whole, since its arguments are an object.

    The constant parts of a line of text are encoded once, since `delta` runs for every token.
    """

    content_type = "application/x-ndjson"

    def __init__(self, head: Head) -> None:
        self._head = head
        self._calls = Calls()
        self._written = 0
        self._before = f'{{"model":{quote(head.name)},"created_at":"'
        self._between = '","message":{"role":"assistant","content":' if head.chat else '","response":'
        self._after = '},"done":false}\n' if head.chat else ',"done":false}\n'

    def delta(self, delta: Delta) -> bytes:
        """Write a piece."""
        if not (delta.reasoning or delta.calls or delta.scores):
            text = delta.text
            return f"{self._before}{now()}{self._between}{quote(text)}{self._after}".encode() if text else b""
        whole = self._calls.add(delta.calls) if delta.calls else []
        return self._piece(delta, whole) if delta.text or delta.reasoning or delta.scores or whole else b""

    def end(self, finish: Finish) -> bytes:
        """Write the last call, and the end with its durations."""
        rest = self._calls.rest()
        last = self._piece(Delta(""), rest) if rest else b""
        return last + line(self._head.value(**self._head.piece(), **end_value(finish)))

    def fault(self, fault: Fault) -> bytes:
        """Write the error that ends the answer."""
        return line(fault_value(fault))

    def ping(self, waiting: str) -> bytes:  # noqa: ARG002  # clients show every text
        """Write an empty piece."""
        return line(self._head.value(**self._head.piece(), done=False))

    def _piece(self, delta: Delta, calls: Sequence[ToolCall]) -> bytes:
        piece = self._head.piece(delta.text, delta.reasoning, calls, delta.scores, first=self._written)
        self._written += len(calls)
        return line(self._head.value(**piece, done=False))


@define
class Calls:
    """Gathers the pieces of an answer's calls."""

    _open: list[CallPiece] = field(factory=list)
    """The pieces of the last call."""

    def add(self, pieces: Sequence[CallPiece]) -> list[ToolCall]:
        """Add pieces; return the calls that are whole now, because others follow them."""
        whole: list[ToolCall] = []
        for piece in pieces:
            if self._open and piece.index != self._open[0].index:
                whole += self.rest()
            self._open.append(piece)
        return whole

    def rest(self) -> list[ToolCall]:
        """Return the last call, if it is whole: the end of an answer may have cut it."""
        pieces, self._open = self._open, []
        if not pieces:
            return []
        return whole_calls([ToolCall(pieces[0].id, pieces[0].name, "".join(piece.arguments for piece in pieces))])


def whole_calls(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """Return the calls whose arguments are an object: one that was cut is none."""
    return [call for call in calls if arguments_of(call) is not None]


def arguments_of(call: ToolCall) -> dict[str, object] | None:
    """Return a call's arguments; None if they are not an object."""
    try:
        found = json.loads(call.arguments)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def call_value(call: ToolCall, index: int) -> dict[str, object]:
    """Return a whole call."""
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments_of(call)}}


def whole_answer(head: Head, choice: Choice, finish: Finish) -> dict[str, object]:
    """Return an answer that is not streamed."""
    said = choice.message
    piece = head.piece(said.content, said.reasoning or "", whole_calls(said.tool_calls), choice.scores)
    return head.value(**piece, **end_value(finish))


def empty_answer(head: Head, reason: str) -> dict[str, object]:
    """Return the answer to a request that only loads or unloads a model."""
    return head.value(**head.piece(), done=True, done_reason=reason)


def end_value(finish: Finish) -> dict[str, object]:
    """Return the members of an answer's end; durations are in nanoseconds."""
    times = finish.timings
    return {
        "done": True,
        "done_reason": REASONS.get(finish.reason, "stop"),
        "total_duration": nanoseconds(times.queued + times.load + times.prompt + times.answer),
        "load_duration": nanoseconds(times.load),
        "prompt_eval_count": finish.usage.prompt_tokens,
        "prompt_eval_duration": nanoseconds(times.prompt),
        "eval_count": finish.usage.completion_tokens,
        "eval_duration": nanoseconds(times.answer),
    }


def fault_value(fault: Fault) -> dict[str, object]:
    """Return an error."""
    return {"error": short_message(fault)}


def nanoseconds(seconds: float) -> int:
    """Return a duration as Ollama writes it."""
    return round(seconds * 1e9)


def moment(seconds: float) -> str:
    """Return a time since 1970 as Ollama writes it."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


def now() -> str:
    """Return the time."""
    return moment(time.time())


@lru_cache(8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _score(score: TokenScore) -> dict[str, object]:
    return {**_token(score.piece, score.logprob), "top_logprobs": [_token(*one) for one in score.top]}


def _token(piece: bytes, logprob: float) -> dict[str, object]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob_value(logprob), "bytes": list(piece)}
