"""Read a text that arrives in pieces, character by character, with backtracking."""

import string
from collections.abc import Generator
from typing import TypeVar

from lllms_core.chat.answer_format import ANY_ID, ANY_NUMBER

T = TypeVar("T")
Steps = Generator[None, str, T]
"""A coroutine that is sent one character per step, and "" at the end of the text."""
_KINDS = {ANY_ID: f"{string.ascii_letters}{string.digits}_-.:", ANY_NUMBER: string.digits}
_LONGEST_ID = 64


class Reader:
    """The characters of a text for coroutines (`yield from reader.next()`), independent of how the text is cut.

    The text read since `mark` can be recovered: `spill`.
    """

    def __init__(self) -> None:
        self._unread: list[str] = []
        self._read: list[str] = []
        self._ended = False
        self.pinned = False
        """Whether the mark stays in place."""

    @property
    def held(self) -> bool:
        """Whether there is text read since the mark, or text to be read again."""
        return bool(self._read or self._unread)

    @property
    def place(self) -> int:
        """The current place, valid for `rewind` until the mark moves."""
        return len(self._read)

    def rewind(self, place: int) -> None:
        """Go back to a place: everything read since then is read again."""
        self._unread.extend(reversed(self._read[place:]))
        del self._read[place:]

    def mark(self) -> None:
        """Drop the text read so far: it has been handled."""
        if not self.pinned:
            self._read.clear()

    def spill(self) -> str:
        """Return the text read since the mark, and move the mark here."""
        text = "".join(self._read)
        self._read.clear()
        return text

    def held_text(self) -> str:
        """Return the text read since the mark, and keep it."""
        return "".join(self._read)

    def next(self) -> Steps[str]:
        """Read the next character, "" at the end."""
        if self._unread:
            char = self._unread.pop()
        elif self._ended:
            return ""
        else:
            char = yield
            if not char:
                self._ended = True
                return ""
        self._read.append(char)
        return char

    def back(self, text: str) -> None:
        """Put the last read text back, to be read again."""
        if text:
            self._unread.extend(reversed(text))
            del self._read[-len(text) :]

    def peek(self) -> Steps[str]:
        """Return the next character without reading it."""
        char = yield from self.next()
        self.back(char)
        return char

    def space(self) -> Steps[str]:
        """Read all white space that comes next."""
        found = ""
        while (char := (yield from self.next())).isspace():
            found += char
        self.back(char)
        return found

    def accept(self, literal: str) -> Steps[bool]:
        """Read `literal` if it comes next, with any white space before it and where it has some; else read nothing.

        `ANY_ID` and `ANY_NUMBER` in it stand for any id and any number.
        """
        taken = ""
        for word in literal.split():
            taken += yield from self.space()
            for expected in word:
                if kind := _KINDS.get(expected):
                    found = yield from self._run(kind)
                    taken += found
                else:
                    found = yield from self.next()
                    taken += found
                    found = found if found == expected else ""
                if not found:
                    self.back(taken)
                    return False
        return True

    def comes(self, literal: str) -> Steps[bool]:
        """Whether `accept` would read `literal`; nothing is read."""
        place = self.place
        found = yield from self.accept(literal)
        self.rewind(place)
        return found

    def _run(self, kind: str) -> Steps[str]:
        """Read the next characters of one kind, at most as many as an id has."""
        found = ""
        while len(found) < _LONGEST_ID and (char := (yield from self.next())):
            if char not in kind:
                self.back(char)
                break
            found += char
        return found
