"""Parses the raw text of an answer, in pieces of any size, into text, thoughts and calls."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lllms_core.chat.answer_format import AnswerFormat, CallFormat
from lllms_core.chat.calls import CallReader
from lllms_core.chat.channels import ChannelReader
from lllms_core.chat.json_copy import Malformed
from lllms_core.chat.reader import Reader, Steps
from lllms_core.chat.sorted_answer import SortedAnswer
from lllms_core.types import CallPiece, Tool


class Pieces(NamedTuple):
    """The parts of an answer that more of its raw text has yielded; a tuple, since one is made for each token."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def followed_by(self, other: "Pieces") -> "Pieces":
        """Return both together."""
        return Pieces(self.text + other.text, self.reasoning + other.reasoning, self.calls + other.calls)


NOTHING = Pieces()


class AnswerParser:
    """Sorts an answer into text, thoughts and calls, however the answer is cut into pieces.

    Only calls of the given tools are calls; anything like another call is text. Calls are numbered and have the ids
    `call_<answer_id>_<number>`. Arguments are valid JSON: where a model's are not, they are closed, and the rest is
    text. Without `parallel` the answer is over (`done`) after its first call. `thinking` says that the prompt has
    already opened the thoughts.
    """

    def __init__(
        self, form: AnswerFormat, tools: Sequence[Tool] = (), *, answer_id: str = "", parallel: bool = True,
        thinking: bool = False,
    ) -> None:
        self._answer = SortedAnswer(thinking)
        self._form = form
        self._tools = {tool.name: tool for tool in tools}
        self._answer_id = answer_id
        self._parallel = parallel
        self._reader = Reader()
        self._blank = True
        """Whether the answer has neither text nor calls so far."""
        marks = {mark[0] for mark in self._marks() if mark}
        self._harmless = re.compile(rf"(?:\s*[^\s{re.escape(''.join(sorted(marks)))}])+")
        """Matches text that can be passed on without a look at each character."""
        self._steps = self._messages() if form.channels is not None else self._passages()
        next(self._steps)

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._answer.calls

    @property
    def done(self) -> bool:
        """Whether the answer is over: later text does not belong to it."""
        return self._answer.done

    @property
    def reasoning(self) -> bool:
        """Whether the next text belongs to the thoughts, as far as is known so far."""
        return self._answer.reasoning

    def feed(self, text: str) -> Pieces:
        """Take more of the answer, and return the parts whose kind is certain."""
        at = 0
        while at < len(text) and not self.done:
            if self._answer.free and (found := self._harmless.match(text, at)):
                self._answer.add(found[0])
                self._blank = self._blank and self.reasoning
                at = found.end()
            else:
                self._send(text[at])
                at += 1
        return self._take()

    def finish(self, *, complete: bool = True) -> Pieces:
        """Return the text held back after the last `feed`; if the answer is not `complete`, a call stays open."""
        answer, headed = self._answer, self._form.channels is not None
        if not self.done and (complete or (headed and answer.call is None)):
            self._send("")
        elif not self.done:
            self._steps.close()
            if not headed and not answer.open_call:
                answer.add(self._reader.rest())
        answer.done = True
        return self._take()

    def _send(self, char: str) -> None:
        self._answer.free = False
        try:
            self._steps.send(char)
        except StopIteration:
            self._answer.done = True

    def _take(self) -> Pieces:
        answer = self._answer
        pieces = Pieces("".join(answer.text), "".join(answer.thoughts), tuple(_merged(answer.pieces)))
        for taken in (answer.text, answer.thoughts, answer.pieces):
            taken.clear()
        return pieces

    def _marks(self) -> tuple[str, ...]:
        if self._form.channels is not None:
            return tuple(self._form.channels.first)
        thoughts = () if self._form.reasoning is None else (self._form.reasoning.start, self._form.reasoning.end)
        calls = self._form.calls
        return thoughts if calls is None or not self._tools else (*thoughts, calls.trigger or "{")

    # -- the answer as a whole ----------------------------------------------------------------------------------------

    def _messages(self) -> Steps[None]:
        channels, calls = self._form.channels, self._form.calls
        assert channels is not None  # noqa: S101  # the caller looked
        yield from ChannelReader(
            channels, calls or CallFormat("named"), self._reader, self._tools, self._answer, answer_id=self._answer_id,
            parallel=self._parallel, thoughts=self._form.reasoning is not None,
        ).read()

    def _passages(self) -> Steps[None]:
        if self._form.reasoning is not None:
            while (yield from self._thinking()):
                pass
        if self._form.text_start and (yield from self._reader.accept(self._form.text_start)):
            self._reader.mark()
        while not (yield from self._passage()):
            pass

    def _thinking(self) -> Steps[bool]:
        """Read leading thoughts and the white space around them; return whether more thoughts may follow."""
        form = self._form.reasoning
        assert form is not None  # noqa: S101  # the caller looked
        reader = self._reader
        if not self.reasoning:
            space = yield from reader.space()
            if not (yield from reader.accept(form.start)):
                reader.back(space)
                return False
            self._answer.reasoning = True
        reader.mark()
        yield from reader.space()
        reader.mark()
        while True:
            self._ready()
            space = yield from reader.space()
            char = yield from reader.peek()
            if not char:
                self._answer.thoughts.append(reader.spill())
                return False
            if char == form.end[0] and (yield from reader.accept(form.end)):
                break
            yield from reader.next()
            self._answer.thoughts.append(reader.spill())
        self._answer.reasoning = False
        reader.mark()
        yield from reader.space()
        reader.mark()
        return True

    def _passage(self) -> Steps[bool]:
        """Read text up to the end of the next calls, dropping white space before them; whether that ends the answer."""
        reader = self._reader
        trigger = "" if self._form.calls is None or not self._tools else self._form.calls.trigger or "{"
        bare = self._form.calls is not None and not self._form.calls.trigger
        while True:
            self._ready()
            yield from reader.space()
            char = yield from reader.peek()
            may_call = bool(char) and char == trigger[:1] and (self._blank or not bare)
            self._blank = False
            if may_call and (yield from self._section(trigger, bare=bare)):
                return self.done
            if char:
                yield from reader.next()
            self._answer.text.append(reader.spill())
            if not char:
                return True

    def _ready(self) -> None:
        """Pass harmless text through from here on, unless some text has to be read again."""
        self._answer.free = not self._reader.held

    # -- calls --------------------------------------------------------------------------------------------------------

    def _section(self, trigger: str, *, bare: bool) -> Steps[bool]:
        """Read consecutive calls; return False, having consumed nothing, if there is no call after all."""
        form = self._form.calls
        assert form is not None  # noqa: S101  # there is a trigger
        reader, answer = self._reader, self._answer
        start = reader.held_text()
        if not bare and not (yield from reader.accept(trigger)):
            return False
        any_call = False
        while True:
            call_id = f"call_{self._answer_id}_{answer.calls}"
            call = CallReader(form, reader, self._tools, index=answer.calls, call_id=call_id, pieces=answer.pieces)
            answer.call = call
            try:
                yield from call.read(bare=bare)
            except Malformed:
                answer.call = None
                if not call.committed:
                    if not any_call:
                        reader.back(reader.held_text()[len(start) :])
                    return any_call
                answer.calls += 1
                return True
            answer.call = None
            answer.calls += 1
            any_call = True
            reader.mark()
            start = ""
            if not self._parallel:
                answer.done = True
                return True
            if form.call_end.strip():
                yield from reader.accept(form.call_end)
                reader.mark()
            if not (yield from self._next_call(bare=bare)):
                if form.section_end.strip():
                    yield from reader.accept(form.section_end)
                answer.done = bool(form.answer_end) and (yield from reader.accept(form.answer_end))
                reader.mark()
                return True

    def _next_call(self, *, bare: bool) -> Steps[bool]:
        """Read up to the start of the next call; return whether one follows."""
        form = self._form.calls
        assert form is not None  # noqa: S101  # there was a call
        between = (form.separator + form.call_start).strip()
        if between:
            return (yield from self._reader.accept(between))
        if form.shape == "keyword" and not (yield from self._reader.comes(form.section_end)):
            space = yield from self._reader.space()
            char = yield from self._reader.peek()
            self._reader.back(space)
            return char.isalpha() or char == "_"
        if not bare and form.shape != "object":
            return False
        space = yield from self._reader.space()
        char = yield from self._reader.next()
        if bare and char and char in ";,":
            space += char + (yield from self._reader.space())
            char = yield from self._reader.next()
        self._reader.back(char)
        if char != "{":
            self._reader.back(space)
        return char == "{"


def _merged(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """Return the same pieces, with consecutive pieces of one call joined."""
    merged: list[CallPiece] = []
    for piece in pieces:
        if merged and merged[-1].index == piece.index:
            last = merged.pop()
            piece = CallPiece(last.index, last.id, last.name, last.arguments + piece.arguments)  # noqa: PLW2901
        merged.append(piece)
    return merged
