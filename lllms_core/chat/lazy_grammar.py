"""Calls that a model makes of its own accord: where their grammar begins in an otherwise free answer; pure."""

import re
import string
from collections.abc import Callable, Sequence
from typing import Self

from attrs import frozen

from lllms_core.chat.answer_format import CallFormat, ChannelFormat
from lllms_core.chat.tags import TAG
from lllms_core.types import Constraint

_LONGEST_SPACE = 16
"""The most white space accepted between two words of a mark."""
_LONGEST_CHANNEL = 64
_JSON = re.compile(r'"[^"]*"?|[{}:,\[\]]|[^\s"{}:,\[\]]+')
"""JSON's words, between which there may be white space."""
_MOST_SPELLINGS = 4


@frozen
class Cue:
    """A text after which only a call can follow, in one of several spellings."""

    pattern: re.Pattern[bytes]
    """Each spelling is a group, in their order."""
    longest: int
    """The most bytes that the pattern matches; this many are remembered."""
    first: bytes
    """The byte that starts a match; b"" if there are several."""
    selects: tuple[bytes, ...] = (b"",)
    """For each spelling, the text that selects the rest of its grammar, in place of the spelling itself."""
    anchored: bool = False
    """Whether it counts only at the start of the answer's text."""
    before: bytes = b""
    """The end of the prompt, if the text may start there."""

    @classmethod
    def of(cls, marks: Sequence[str], *, anchored: bool = False) -> Self:
        """Return the cue of marks, whose white space may vary; in an anchored one, which is JSON, between all words."""
        words = [[word.encode() for word in (_JSON.findall(mark) if anchored else mark.split())] for mark in marks]
        pattern = b"|".join(b"(%s)" % rb"\s*".join(map(re.escape, one)) for one in words)
        longest = max(sum(map(len, one)) + _LONGEST_SPACE * len(one) for one in words)
        return cls(
            re.compile(rb"\A\s*(?:%s)" % pattern if anchored else pattern), longest,
            _common([one[0] for one in words]), tuple(map(str.encode, selectors(len(marks)))), anchored,
        )


@frozen
class LazyGrammar:
    """The grammar of what follows a cue, in place of a constraint on the whole answer."""

    constraint: Constraint
    cue: Cue
    needed: bool = False
    """Whether the request is refused if the grammar cannot be enforced, because a tool is strict."""
    weaker: Callable[[], Constraint] | None = None
    """Returns the grammar without the schemas of tools that are not strict, if those cannot be enforced."""


class CallWatch:
    """Searches an answer's bytes for a cue, token by token, at next to no cost."""

    def __init__(self, cue: Cue) -> None:
        self._cue = cue
        self._tail = cue.before
        """The bytes that may be the start of a match."""
        self._over = False
        """Whether a match has become impossible, because the text has begun in another way."""

    def look(self, piece: bytes) -> bytes | None:
        """If `piece` would complete the cue, return the text that selects its grammar and what follows the cue."""
        if self._over or (not self._tail and not self._starts(piece)):
            return None
        text = self._tail + piece
        found = self._cue.pattern.search(text)
        if found is None:
            return None
        return self._cue.selects[(found.lastindex or 1) - 1] + text[found.end() :]

    def take(self, piece: bytes) -> None:
        """Remember the bytes of a token that does not complete the cue."""
        if self._over or (not self._tail and not self._starts(piece)):
            return
        text, cue = self._tail + piece, self._cue
        if cue.anchored:
            begun = text.lstrip()
            self._over = bool(begun) and (not begun.startswith(cue.first) or len(begun) > cue.longest)
            self._tail = text
        else:
            text = text[-cue.longest :]
            at = text.find(cue.first)
            self._tail = text[at:] if at >= 0 else b""

    def restart(self) -> None:
        """Forget the text so far: it was thoughts, or a call."""
        self._tail = b""

    def _starts(self, piece: bytes) -> bool:
        return self._cue.first in piece or (self._cue.anchored and bool(piece))


def selectors(count: int) -> tuple[str, ...]:
    """Return the texts that select the rest of a grammar by the spelling of its cue."""
    return ("",) if count == 1 else tuple(string.ascii_lowercase[:count])


def call_cue(form: CallFormat, other_marks: Sequence[str] = ()) -> tuple[Cue, Sequence[str]]:
    """Return the cue of a form of calls, and for each of its spellings the rest of the text before a call.

    The cue is the form's mark, or only its first tag if that is not among the answer's `other_marks`; a model may omit
    the first tags. For calls without a mark, it is the text up to the name.
    """
    if not form.mark:
        return Cue.of([f'{form.parts[0].strip()} "'], anchored=True), [""]
    head = (form.section_start + form.call_start).lstrip()
    marks: list[str] = []
    rests: list[str] = []
    start = 0
    while len(marks) < _MOST_SPELLINGS:
        tag = TAG.match(head, start)
        closed = tag is not None and not any(tag[0] in other for other in other_marks)
        mark = tag[0] if tag is not None and closed else head[start : len(form.mark)].rstrip()
        marks.append(mark)
        rests.append(head[start + len(mark) :])
        if tag is None:
            break
        start = len(head) - len(head[tag.end() :].lstrip())
        if not head.startswith("<", start) or start >= len(form.mark):
            break
    return Cue.of(marks), rests


def channel_cue(form: ChannelFormat, *, continued: bool) -> Cue:
    """Return the cue of calls in channels: the start of a recipient, after the channel, or before it."""
    opening, channel, address, namespace = (
        re.escape(text.strip().encode()) for text in (form.opening, form.channel, form.address, form.namespace)
    )
    after = rb"%s\s*[\w.-]{1,%d}\s+%s" % (channel, _LONGEST_CHANNEL, address)
    before = rb"%s\s*%s%s" % (opening, address, namespace)
    return Cue(
        re.compile(b"(%s)|(%s)" % (after, before)), len(after + before) + _LONGEST_CHANNEL + 2 * _LONGEST_SPACE,
        _common([form.opening.strip().encode(), form.channel.strip().encode()]),
        tuple(map(str.encode, selectors(2))), before=b"" if continued else form.opening.encode(),
    )


def _common(marks: Sequence[bytes]) -> bytes:
    """Return the first byte that all marks share; b"" if they differ."""
    first = {mark[:1] for mark in marks}
    return first.pop() if len(first) == 1 else b""
