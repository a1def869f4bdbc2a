"""A response's output, built from the pieces of an answer: thoughts, messages and calls, each an item; pure.

An item is open until another kind of piece comes, or the next call, or the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from attrs import Factory, define, field

from lllms_core.builtin.openai.logprobs import ChatLogprobs
from lllms_core.builtin.openai.responses.input_items import PREFIXES, output_id
from lllms_core.types import CallPiece, Delta, TokenScore

Event = tuple[str, Mapping[str, object]]
"""The name of an event after `response.`, and its members besides `type` and `sequence_number`."""
ItemKind = Literal["reasoning", "message", "function_call"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

_TEXT: Mapping[ItemKind, str] = {
    "reasoning": "reasoning_text", "message": "output_text", "function_call": "function_call_arguments",
}
"""The names of the events in which the text of an item arrives."""


@define
class OutputItem:
    """One item, as far as it has come."""

    kind: ItemKind
    id: str
    name: str = ""
    namespace: str | None = None
    call_id: str = ""
    call: int = -1
    """The index of the call."""
    status: ItemStatus = "in_progress"
    _pieces: list[str] = Factory(list)
    _logprobs: list[object] = Factory(list)

    def write(self, text: str, logprobs: Sequence[object]) -> None:
        """Add a piece of text."""
        self._pieces.append(text)
        self._logprobs += logprobs

    @property
    def text(self) -> str:
        """Its text, its thoughts or its arguments."""
        return "".join(self._pieces)

    @property
    def logprobs(self) -> list[object]:
        """Those of the text's tokens, if requested."""
        return [*self._logprobs]

    @property
    def part(self) -> dict[str, object]:
        """The only part of its content."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "annotations": [], "logprobs": self.logprobs, "text": self.text}

    @property
    def value(self) -> dict[str, object]:
        """The item in OpenAI's form. An open one without text has no content yet."""
        common: dict[str, object] = {"id": self.id, "type": self.kind, "status": self.status}
        if self.kind == "function_call":
            called = {**common, "call_id": self.call_id, "name": self.name, "arguments": self.text}
            return called if self.namespace is None else {**called, "namespace": self.namespace}
        content = [self.part] if self._pieces or self.status != "in_progress" else []
        if self.kind == "reasoning":
            return {**common, "summary": [], "content": content, "encrypted_content": None}
        return {**common, "role": "assistant", "content": content}


@define
class ResponseOutput:
    """All items of a response."""

    response_id: str
    origins: Mapping[str, tuple[str | None, str]]
    """The namespace and the name there of each function, by the name that the model sees."""
    scored: bool = False
    """Whether log-probabilities are wanted."""
    items: list[OutputItem] = field(factory=list, init=False)

    @property
    def values(self) -> list[dict[str, object]]:
        """The items in OpenAI's form."""
        return [item.value for item in self.items]

    def add(self, delta: Delta) -> Iterator[Event]:
        """Add a piece of the answer, and yield the events that it causes."""
        if delta.reasoning:
            yield from self._continue("reasoning")
            yield self._write(delta.reasoning)
        if delta.text or (delta.scores and self.scored):
            yield from self._continue("message")
            yield self._write(delta.text, delta.scores if self.scored else ())
        for piece in delta.calls:
            yield from self._call(piece)

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """Close the last item. An answer of nothing is an empty message."""
        if not self.items:
            yield from self._begin(OutputItem("message", self._id("message")))
        yield from self.close(status)

    @property
    def _last(self) -> OutputItem | None:
        return self.items[-1] if self.items and self.items[-1].status == "in_progress" else None

    def _id(self, kind: ItemKind) -> str:
        return output_id(PREFIXES[kind], self.response_id, len(self.items))

    def _continue(self, kind: ItemKind) -> Iterator[Event]:
        """Let the last item be an open one of this kind."""
        if self._last is None or self._last.kind != kind:
            yield from self.close("completed")
            yield from self._begin(OutputItem(kind, self._id(kind)))

    def _call(self, piece: CallPiece) -> Iterator[Event]:
        if self._last is None or self._last.call != piece.index:
            yield from self.close("completed")
            namespace, name = self.origins.get(piece.name, (None, piece.name))
            item = OutputItem("function_call", self._id("function_call"), name, namespace, piece.id, piece.index)
            yield from self._begin(item)
        if piece.arguments:
            yield self._write(piece.arguments)

    def _begin(self, item: OutputItem) -> Iterator[Event]:
        self.items.append(item)
        yield "output_item.added", {"output_index": len(self.items) - 1, "item": item.value}
        if item.kind != "function_call":
            yield "content_part.added", {**self._place(), "part": item.part}

    def _write(self, text: str, scores: Sequence[TokenScore] = ()) -> Event:
        item = self.items[-1]
        logprobs = _logprobs(scores)
        item.write(text, logprobs)
        more = {"logprobs": logprobs} if item.kind == "message" else {}
        return f"{_TEXT[item.kind]}.delta", {**self._place(), "delta": text, **more}

    def close(self, status: ItemStatus) -> Iterator[Event]:
        """Close the last item, if it is open."""
        item = self._last
        if item is None:
            return
        item.status = status
        if item.kind == "function_call":
            yield "function_call_arguments.done", {**self._place(), "name": item.name, "arguments": item.text}
        else:
            more = {"logprobs": item.logprobs} if item.kind == "message" else {}
            yield f"{_TEXT[item.kind]}.done", {**self._place(), "text": item.text, **more}
            yield "content_part.done", {**self._place(), "part": item.part}
        yield "output_item.done", {"output_index": len(self.items) - 1, "item": item.value}

    def _place(self) -> dict[str, object]:
        item = self.items[-1]
        place: dict[str, object] = {"item_id": item.id, "output_index": len(self.items) - 1}
        return place if item.kind == "function_call" else {**place, "content_index": 0}


def _logprobs(scores: Sequence[TokenScore]) -> list[object]:
    content = ChatLogprobs().write(scores)["content"]
    assert isinstance(content, list)  # noqa: S101  # what it writes
    return content
