"""Read an answer made of several messages, each with a header that names its channel."""

import re
from collections.abc import Callable, Mapping

from attrs import frozen

from lllms_core.chat.answer_format import CallFormat, ChannelFormat
from lllms_core.chat.calls import CallReader
from lllms_core.chat.json_copy import Malformed
from lllms_core.chat.reader import Reader, Steps
from lllms_core.chat.sorted_answer import SortedAnswer
from lllms_core.types import Tool

_LONGEST_HEADER = 512
"""Characters; anything longer is text."""


@frozen
class _Header:
    """A message's header; empty for a message without one, which is text."""

    text: str = ""
    channel: str = ""
    recipient: str = ""
    """The tool that it calls, with the namespace."""


_OVER = _Header("-")
"""In place of a header: there are no more messages."""


class ChannelReader:
    """Reads the messages of one answer: thoughts, text, and calls of the given tools; other calls are text.

    Headers and the marks between messages are omitted, even an incomplete header at the end of the answer. A header may
    be missing, and so may the end of a message before the next header.
    """

    def __init__(
        self, form: ChannelFormat, calls: CallFormat, reader: Reader, tools: Mapping[str, Tool], answer: SortedAnswer,
        *, answer_id: str, parallel: bool, thoughts: bool, kept: Callable[[], bool],
    ) -> None:
        """Without `thoughts`, thoughts are ordinary text. Calls are as in `AnswerParser`."""
        self._form = form
        self._calls = calls
        self._reader = reader
        self._tools = tools
        self._answer = answer
        self._answer_id = answer_id
        self._parallel = parallel
        self._thoughts = thoughts
        self._kept = kept
        marks = "|".join(map(re.escape, form.markers))
        self._recipient = re.compile(rf"{re.escape(form.address)}((?:(?!{marks})\S)+)")
        self._channel = re.compile(re.escape(form.channel) + r"\s*([\w.-]+)")
        self._said: set[bool] = set()
        """Whether there has been text (false) so far, and thoughts (true)."""

    def read(self) -> Steps[None]:
        """Read the whole answer."""
        if self._answer.reasoning:
            header = _Header(channel=self._form.thoughts)
        else:
            yield from self._reader.accept(self._form.opening)
            header = (yield from self._header(bare=True)) or _Header()
        while header != _OVER:
            header = yield from self._message(header)

    # -- between messages ---------------------------------------------------------------------------------------------

    def _header(self, *, bare: bool) -> Steps[_Header | None]:
        """Read a header up to the body; None, with nothing consumed, without one. A `bare` one may lack the channel."""
        form, reader = self._form, self._reader
        before = len(reader.held_text())
        sure = yield from reader.accept(form.channel)
        if bare and not sure:
            if (yield from reader.accept(form.body)):
                return _Header(form.body)
            sure = yield from reader.accept(form.address + form.namespace)
            if not sure and not (yield from reader.accept(form.address)):
                return None
        elif not sure:
            return None
        while not (yield from reader.accept(form.body)):
            char = yield from reader.next()
            if not char and sure:
                return _OVER
            if not char or len(reader.held_text()) - before > _LONGEST_HEADER:
                reader.back(reader.held_text()[before:])
                return None
        text = reader.held_text()[before:].strip()
        channels, recipient = self._channel.findall(text), self._recipient.search(text)
        return _Header(text, channels[-1] if channels else "", "" if recipient is None else recipient[1])

    def _border(self) -> Steps[_Header | None]:
        """Read the header of the next message; None, and nothing read, while this one continues."""
        form, reader, answer = self._form, self._reader, self._answer
        before = len(reader.held_text())
        ended = yield from self._end()
        if ended:
            answer.reasoning = False
            reader.mark()
        opened = yield from reader.accept(form.opening)
        if opened and ended:
            reader.mark()
        found = yield from self._header(bare=ended or opened)
        if found is None and ended:
            yield from reader.space()
            found = _Header() if (yield from reader.peek()) else _OVER
        if found is None:
            reader.back(reader.held_text()[before:])
        return found

    def _end(self) -> Steps[bool]:
        """Read the end of a message, if it comes next."""
        for end in self._form.ends:
            if (yield from self._reader.accept(end)):
                return True
        return False

    # -- messages -----------------------------------------------------------------------------------------------------

    def _message(self, header: _Header) -> Steps[_Header]:
        """Read the body of a message; return the header of the next."""
        answer, reader = self._answer, self._reader
        # Set before another character is read: the chooser of the tokens asks for it.
        answer.reasoning = self._thoughts and not header.recipient and header.channel == self._form.thoughts
        if header.text:
            reader.mark()
        begun = False
        if header.recipient:
            if not (yield from self._call(header)):
                self._begin(header.text)
            begun = True
        while not answer.done:
            if begun:
                answer.free = not reader.held
            yield from reader.space()
            char = yield from reader.peek()
            if not char:
                rest = reader.spill()
                answer.add(rest if begun or not header.text else "")
                break
            if char in self._form.first and (following := (yield from self._border())) is not None:
                reader.mark()
                return following
            yield from reader.next()
            piece = reader.spill()
            if begun:
                answer.add(piece)
            else:
                self._begin(piece.lstrip() if answer.reasoning else piece)
            begun = True
        return _OVER

    def _begin(self, piece: str) -> None:
        """Add the start of a message, on a new line if it follows others of its kind."""
        self._answer.add("\n" + piece if self._answer.reasoning in self._said else piece)
        self._said.add(self._answer.reasoning)

    def _call(self, header: _Header) -> Steps[bool]:
        """Read a call's arguments; False, with nothing consumed, if it is no call."""
        answer, reader = self._answer, self._reader
        name = header.recipient.removeprefix(self._form.namespace)
        call = CallReader(
            self._calls, reader, self._tools, index=answer.calls, call_id=f"call_{self._answer_id}_{answer.calls}",
            pieces=answer.pieces, kept=self._kept, strangers=bool(self._tools),
        )
        answer.call = call
        try:
            yield from call.read_arguments(name, none=(yield from self._is_empty()))
            if not call.committed and not (yield from self._is_over()):
                raise Malformed  # noqa: TRY301  # one exit for all faults
            call.settle()
        except Malformed:
            answer.call = None
            if not call.committed:
                reader.rewind(0)
                return False
            answer.cut = not (yield from call.pass_on(self._form.ends))
        answer.call = None
        answer.calls += 1
        answer.done = answer.cut or not self._parallel
        return True

    def _is_over(self) -> Steps[bool]:
        """Whether the message ends here."""
        reader = self._reader
        place = reader.place
        yield from reader.space()
        over = not (yield from reader.peek())
        for mark in (*self._form.ends, self._form.opening, self._form.channel):
            over = over or (yield from reader.comes(mark))
        reader.rewind(place)
        return over

    def _is_empty(self) -> Steps[bool]:
        """Whether the message ends where its body would start."""
        reader = self._reader
        yield from reader.space()
        before = len(reader.held_text())
        empty = not (yield from reader.peek()) or (yield from self._end())
        reader.back(reader.held_text()[before:])
        return empty
