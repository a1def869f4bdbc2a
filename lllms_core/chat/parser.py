"""Parses the raw text of an answer, in pieces of any size, into text, thoughts and calls."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lllms_core.chat.answer_format import AnswerFormat, CallFormat
from lllms_core.chat.call_section import CallSection
from lllms_core.chat.channels import ChannelReader
from lllms_core.chat.marks import is_beginning, late_triggers
from lllms_core.chat.reader import Reader, Steps
from lllms_core.chat.sorted_answer import SortedAnswer
from lllms_core.types import CallPiece, Tool

_MOST_REREAD = 1 << 17
"""Once this many characters were no call and had to be read again, the search for calls stops; bounds the time."""
_QUOTES = frozenset("`'\"")


class Pieces(NamedTuple):
    """The parts of an answer that a piece of raw text has yielded; a tuple, since one is made for each token."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def followed_by(self, other: "Pieces") -> "Pieces":
        """Return both together."""
        return Pieces(self.text + other.text, self.reasoning + other.reasoning, self.calls + other.calls)


NOTHING = Pieces()


class AnswerParser:
    """Sorts an answer into text, thoughts and calls, for any split of the answer into pieces.

    Calls are numbered and have the ids `call_<answer_id>_<number>`. A call's arguments are a JSON object: a call with
    broken arguments is text, as the model wrote it. So a call is output once it is complete; while a grammar keeps it
    from breaking (`kept`), its arguments are output as they are written. A tool that is not offered can also be called,
    unless calls are unannounced. Without `parallel` the answer is over (`done`) after its first call. `thinking` says
    that the prompt has already opened the thoughts.
    """

    def __init__(
        self, form: AnswerFormat, tools: Sequence[Tool] = (), *, answer_id: str = "", parallel: bool = True,
        thinking: bool = False,
    ) -> None:
        self.kept = False
        """Whether a grammar keeps the next call from breaking."""
        self._answer = SortedAnswer(thinking)
        self._form = form
        self._tools = {tool.name: tool for tool in tools}
        self._answer_id = answer_id
        self._parallel = parallel
        self._reader = Reader()
        self._blank = True
        """Whether the answer has neither text nor calls so far."""
        self._opened = 0
        """The number of marks in the text that open thoughts and are not closed."""
        calls = form.calls if self._tools and form.channels is None else None
        self._section = None if calls is None else CallSection(
            calls, self._reader, self._tools, answer_id=answer_id, kept=lambda: self.kept,
        )
        self._bare = calls is not None and not calls.trigger
        self._triggers = () if calls is None else (calls.trigger or "{", *late_triggers(calls))
        """The texts that may announce calls: the form's own first, then those that remain if tags are left out."""
        self._starts = frozenset(mark[0] for mark in self._marks() if mark)
        """The first characters of marks."""
        self._harmless = re.compile(rf"(?:\s*[^\s{re.escape(''.join(sorted(self._starts)))}])+")
        """Matches text that can be passed on without a look at each character."""
        self._steps = self._messages() if form.channels is not None else self._passages()
        next(self._steps)

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._answer.calls

    @property
    def cut(self) -> bool:
        """Whether the answer ended inside a call, or in the marks that announce one."""
        return self._answer.cut

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

    def finish(self, *, complete: bool = True, following: str = "") -> Pieces:
        """Return the text held back after the last `feed`.

        An answer that is not `complete` was cut, by a limit or before the stop string `following`: then a call stays
        open, and the beginning of a mark is dropped.
        """
        if not self.done and (complete or not self._cut(following)):
            self._send("")
        self._answer.done = True
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
        return (*thoughts, *self._triggers)

    # -- an answer that is cut ----------------------------------------------------------------------------------------

    def _cut(self, following: str) -> bool:
        """End an answer where it was cut; return False if its rest is to be read as if it were complete."""
        answer, call, held = self._answer, self._answer.call, self._reader.held_text()
        section = self._section
        whole = call is not None and (call.whole if section is None else section.is_complete(call, held, following))
        if call is not None and whole and following:
            call.settle()
            answer.calls += 1
        elif call is not None and self._bare and call.name is None:
            answer.add(held)
        elif call is not None:
            answer.calls += call.cut()
            answer.cut = True
        elif any(is_beginning(held, mark, following) for mark in self._triggers if not self._bare):
            answer.cut = not answer.reasoning
        elif answer.between or any(is_beginning(held, mark, following) for mark in self._other_marks()):
            pass
        elif self._form.channels is not None:
            return False
        else:
            answer.add(held)
        self._steps.close()
        return True

    def _other_marks(self) -> tuple[str, ...]:
        """Return the marks beside those of calls."""
        form = self._form
        if form.channels is not None:
            return form.channels.borders
        return (form.text_start, *(() if form.reasoning is None else (form.reasoning.start, form.reasoning.end)))

    # -- the answer as a whole ----------------------------------------------------------------------------------------

    def _messages(self) -> Steps[None]:
        channels, calls = self._form.channels, self._form.calls
        assert channels is not None  # noqa: S101  # the caller looked
        yield from ChannelReader(
            channels, calls or CallFormat("named"), self._reader, self._tools, self._answer, answer_id=self._answer_id,
            parallel=self._parallel, thoughts=self._form.reasoning is not None, kept=lambda: self.kept,
        ).read()

    def _passages(self) -> Steps[None]:
        if self._form.reasoning is not None:
            while (yield from self._thinking()):
                pass
        if self._form.text_start and not self.done and (yield from self._reader.accept(self._form.text_start)):
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
            yield from reader.space()
            char = yield from reader.peek()
            if not char:
                self._answer.thoughts.append(reader.spill())
                return False
            if char == form.end[0] and (yield from reader.accept(form.end)):
                break
            if char in self._starts and (yield from self._last_calls(char)):
                return False
            yield from reader.next()
            self._answer.thoughts.append(reader.spill())
        self._answer.reasoning = False
        reader.mark()
        yield from reader.space()
        reader.mark()
        return True

    def _passage(self) -> Steps[bool]:
        """Read text up to the end of the next calls, dropping white space before them; whether that ends the answer."""
        reader, answer = self._reader, self._answer
        while True:
            self._ready()
            yield from reader.space()
            char = yield from reader.peek()
            if not char:
                answer.add(reader.spill())
                return True
            marked = False
            if char in self._starts:
                may_call = self._blank or not self._bare
                if may_call and (yield from self._calls(char, answer, parallel=self._parallel)):
                    self._blank = False
                    return self.done
                marked = yield from self._mark_of_thoughts(char)
            if not marked:
                yield from reader.next()
                answer.add(reader.spill())
            self._blank = self._blank and not answer.last

    def _ready(self) -> None:
        """Pass harmless text through from here on, unless some text has to be read again."""
        self._answer.free = not self._reader.held

    def _mark_of_thoughts(self, char: str) -> Steps[bool]:
        """Read a mark of thoughts in the text: an end mark without thoughts is dropped, unless it is quoted."""
        form, reader, answer = self._form.reasoning, self._reader, self._answer
        if form is None:
            return False
        space = reader.held_text()
        if char == form.start[0] and (yield from reader.accept(form.start)):
            self._opened += 1
            answer.add(reader.spill())
            return True
        if char != form.end[0] or not (yield from reader.accept(form.end)):
            return False
        if self._opened or (not space and answer.last in _QUOTES):
            self._opened = max(0, self._opened - 1)
            answer.add(reader.spill())
        else:
            answer.add(space)
            reader.mark()
            if not answer.last.strip():
                yield from reader.space()
                reader.mark()
        return True

    # -- calls --------------------------------------------------------------------------------------------------------

    def _calls(self, char: str, answer: SortedAnswer, *, parallel: bool, offered: bool = False) -> Steps[bool]:
        """Read consecutive calls, given their first character; return False, with nothing consumed, without any."""
        section = self._section
        for trigger in self._triggers:
            if section is None or trigger[0] != char or section.reread > _MOST_REREAD:
                continue
            late = trigger != self._triggers[0]
            if (yield from section.read(answer, trigger, parallel=parallel, offered=offered, marked=late)):
                return True
        return False

    def _last_calls(self, char: str) -> Steps[bool]:
        """Read calls at the end of an answer that has not closed its thoughts; return whether there are any.

        If more thoughts follow, the model only thought about the calls.
        """
        answer, reader = self._answer, self._reader
        if self._bare or self._section is None:
            return False
        place, found = reader.place, SortedAnswer(calls=answer.calls)
        reader.pinned = True
        while (yield from self._calls(char, found, parallel=True, offered=True)):
            yield from reader.space()
            char = yield from reader.peek()
        reader.pinned = False
        if found.calls == answer.calls or char:
            self._section.reread += reader.place - place
            reader.rewind(place)
            return False
        reader.mark()
        answer.reasoning = False
        answer.pieces += found.pieces if self._parallel else found.pieces[:1]
        answer.calls = found.calls if self._parallel else answer.calls + 1
        return True


def _merged(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """Return the same pieces, with consecutive pieces of one call joined."""
    merged: list[CallPiece] = []
    for piece in pieces:
        if merged and merged[-1].index == piece.index:
            last = merged.pop()
            piece = CallPiece(last.index, last.id, last.name, last.arguments + piece.arguments)  # noqa: PLW2901
        merged.append(piece)
    return merged
