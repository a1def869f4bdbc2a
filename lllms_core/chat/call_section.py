"""Read an answer's consecutive calls."""

from collections.abc import Callable, Mapping

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.calls import CallReader
from lllms_core.chat.json_copy import Malformed
from lllms_core.chat.marks import ends_of_call, is_beginning
from lllms_core.chat.reader import Reader, Steps
from lllms_core.chat.sorted_answer import SortedAnswer
from lllms_core.types import Tool

_BROKEN = frozenset("\"',:]}")
"""Follows a call that only seemed to be over because of a quote or a bracket in one of its values."""


class CallSection:
    """Reads consecutive calls of one form; see `CallReader` for the rest of the parameters."""

    def __init__(
        self, form: CallFormat, reader: Reader, tools: Mapping[str, Tool], *, answer_id: str,
        kept: Callable[[], bool],
    ) -> None:
        self._form = form
        self._reader = reader
        self._tools = tools
        self._answer_id = answer_id
        self._kept = kept
        self._bare = not form.trigger
        self._ends = ends_of_call(form)
        self.reread = 0
        """The number of characters that turned out not to be a call, and must be read again."""
        self._read_at = 0
        """The position where the end of the last call starts; -1 before that."""

    def read(
        self, answer: SortedAnswer, trigger: str, *, parallel: bool, offered: bool = False, marked: bool = False,
    ) -> Steps[bool]:
        """Read calls for `answer`; return False, with nothing consumed, if there is no call after all.

        Unless `parallel`, only the first is read, and the answer is over. In doubtful places a call counts only if its
        tool is `offered`, or also only if its end is `marked`.
        """
        reader, form = self._reader, self._form
        place = reader.place
        if not self._bare and not (yield from reader.accept(trigger)):
            return False
        any_call = False
        while (yield from self._call(answer, offered=offered or marked, marked=marked)):
            any_call = True
            if answer.cut or not parallel:
                answer.done = True
                return True
            answer.between = True
            yield from self._end()
            reader.mark()
            place = reader.place
            if not (yield from self._next_call()):
                if form.section_end.strip():
                    yield from reader.accept(form.section_end)
                answer.done = bool(form.answer_end) and (yield from reader.accept(form.answer_end))
                answer.between = False
                reader.mark()
                return True
        self.reread += reader.place - place
        reader.rewind(place)
        return any_call

    def _call(self, answer: SortedAnswer, *, offered: bool, marked: bool) -> Steps[bool]:
        """Read one call; return whether it is one: if not, the characters read are still held."""
        call = CallReader(
            self._form, self._reader, self._tools, index=answer.calls,
            call_id=f"call_{self._answer_id}_{answer.calls}", pieces=answer.pieces,
            kept=_never if offered else self._kept, strangers=not (self._bare or offered),
        )
        answer.call, answer.between, self._read_at = call, False, -1
        try:
            yield from call.read(bare=self._bare)
            self._read_at = self._reader.place
            if not call.committed:
                if not (yield from self._ends_well(whole=call.whole, marked=marked)):
                    raise Malformed  # noqa: TRY301  # one exit for all faults
                call.settle()
        except Malformed:
            if not call.committed:
                answer.call = None
                return False
            answer.cut = not (yield from call.pass_on(self._ends))
        answer.call = None
        answer.calls += 1
        self._reader.mark()
        return True

    def is_complete(self, call: CallReader, held: str, following: str) -> bool:
        """Whether a call is complete if the stop string `following` has cut the answer after the held text."""
        end = held[self._read_at :].strip() if self._read_at >= 0 else ""
        return call.whole or end in self._ends or any(is_beginning(end, mark, following) for mark in self._ends)

    # -- after a call -------------------------------------------------------------------------------------------------

    def _end(self) -> Steps[bool]:
        """Read the end of a call, if it comes next."""
        for end in self._ends:
            if (yield from self._reader.accept(end)):
                return True
        return False

    def _ends_well(self, *, whole: bool, marked: bool) -> Steps[bool]:
        """Read the end of a call, if present; return whether the call is complete, judging by what comes next.

        A `whole` call may lack an end, but not before text that looks like the rest of its arguments.
        """
        reader, form = self._reader, self._form
        if (yield from self._end()):
            return True
        place = reader.place
        yield from reader.space()
        while (yield from reader.peek()) == "}":  # one bracket too many
            yield from reader.next()
        if (yield from self._end()):
            return True
        reader.rewind(place)
        if form.section_end.strip() and (yield from reader.comes(form.section_end)):
            return True
        return not marked and (yield from self._may_end(whole=whole))

    def _may_end(self, *, whole: bool) -> Steps[bool]:
        """Whether the following text shows that a call without a marked end is complete; nothing is consumed."""
        reader, form = self._reader, self._form
        for follower in (form.separator + form.call_start, form.answer_end):
            if follower.strip() and (yield from reader.comes(follower)):
                return True
        place = reader.place
        yield from reader.space()
        char = yield from reader.next()
        if self._bare and char == ",":
            yield from reader.space()
            char = yield from reader.peek()
        reader.rewind(place)
        if not char:
            # More arguments could follow between tags.
            return form.shape != "tagged" or not self._ends
        if form.shape == "keyword" and not self._ends and (char.isalpha() or char == "_"):
            return True
        return whole and char not in _BROKEN and (form.shape == "object" or not self._ends)

    def _next_call(self) -> Steps[bool]:
        """Read up to the start of the next call; return whether one follows."""
        form, reader = self._form, self._reader
        between = (form.separator + form.call_start).strip()
        if between:
            return (yield from reader.accept(between))
        if form.shape == "keyword" and not (yield from reader.comes(form.section_end)):
            space = yield from reader.space()
            char = yield from reader.peek()
            reader.back(space)
            return char.isalpha() or char == "_"
        if not self._bare and form.shape != "object":
            return False
        space = yield from reader.space()
        char = yield from reader.next()
        if self._bare and char and char in ";,":
            space += char + (yield from reader.space())
            char = yield from reader.next()
        reader.back(char)
        if char != "{":
            reader.back(space)
        return char == "{"


def _never() -> bool:
    return False
