"""Calls that a model makes by itself: where their grammar begins in an otherwise free answer; pure."""

import re
from collections.abc import Callable, Sequence
from typing import Self

from attrs import frozen

from lllms_core.chat.answer_format import CallFormat, ChannelFormat
from lllms_core.chat.tags import TAG
from lllms_core.types import Constraint

_LONGEST_SPACE = 16
"""White space between two words of a mark that is still looked through."""
_LONGEST_CHANNEL = 64
_JSON = re.compile(r'"[^"]*"?|[{}:,\[\]]|[^\s"{}:,\[\]]+')
"""The words of JSON, between which there may be white space."""
AFTER, BEFORE = "a", "b"
"""The texts that select the rest of a call in channels: its recipient comes after the channel, or before it."""


@frozen
class Cue:
    """A text after which only a call can follow."""

    pattern: re.Pattern[bytes]
    longest: int
    """The most bytes that the pattern matches, of which the last ones are remembered."""
    first: bytes
    """The byte that starts a match; b"" if there are several."""
    anchored: bool = False
    """Whether it counts only at the start of the answer's text."""
    selects: tuple[tuple[str, bytes], ...] = ()
    """For each group of the pattern, the text that selects the rest of its grammar."""
    before: bytes = b""
    """The end of the prompt, if the text may start there."""

    @classmethod
    def of(cls, mark: str, *, anchored: bool = False) -> Self:
        """Return the cue of a mark, with any white space where it has some; an anchored one is JSON, where it may."""
        words = [word.encode() for word in (_JSON.findall(mark) if anchored else mark.split())]
        pattern = re.compile((rb"\A\s*" if anchored else b"") + rb"\s*".join(map(re.escape, words)))
        return cls(pattern, sum(map(len, words)) + _LONGEST_SPACE * len(words), words[0][:1], anchored)


@frozen
class LazyGrammar:
    """The grammar of what follows a cue, in place of a constraint on the whole answer."""

    constraint: Constraint
    cue: Cue
    needed: bool = False
    """Whether a grammar that cannot be enforced refuses the request: a tool is strict."""
    weaker: Callable[[], Constraint] | None = None
    """Writes the same without the schemas of tools that are not strict, for when those cannot be enforced."""


class CallWatch:
    """Looks for a cue in the bytes of an answer, token by token, at next to no cost."""

    def __init__(self, cue: Cue) -> None:
        self._cue = cue
        self._tail = cue.before
        """The bytes that may be the start of a match."""
        self._over = False
        """Whether no match can come any more: the text has begun in another way."""

    def look(self, piece: bytes) -> bytes | None:
        """Return what follows the cue if `piece` would complete it, after the text that selects its grammar."""
        if self._over or (not self._tail and not self._starts(piece)):
            return None
        text = self._tail + piece
        found = self._cue.pattern.search(text)
        if found is None:
            return None
        chosen = next((prefix for group, prefix in self._cue.selects if found[group] is not None), b"")
        return chosen + text[found.end() :]

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


def call_cue(form: CallFormat, other_marks: Sequence[str] = ()) -> tuple[Cue, str]:
    """Return the cue of a form of calls, and the constant text that it stands for.

    That is its mark, or only the first tag of it, if that is none of the `other_marks` of the answer; for calls without
    a mark, the text up to the name.
    """
    head = (form.section_start + form.call_start).lstrip()
    if not form.mark:
        start = f'{form.parts[0].strip()} "'
        return Cue.of(start, anchored=True), start
    tag = TAG.match(head)
    mark = form.mark if tag is None or any(tag[0] in other for other in other_marks) else tag[0]
    return Cue.of(mark), mark


def channel_cue(form: ChannelFormat, *, continued: bool) -> Cue:
    """Return the cue of calls in channels: the start of a recipient, which may stand before or after the channel."""
    opening, channel, address, namespace = (
        re.escape(text.strip().encode()) for text in (form.opening, form.channel, form.address, form.namespace)
    )
    pattern = (
        rb"(?P<after>%s\s*[\w.-]{1,%d}\s+%s)|(?P<before>%s\s*%s%s)"
        % (channel, _LONGEST_CHANNEL, address, opening, address, namespace)
    )
    longest = len(pattern) + _LONGEST_CHANNEL + 2 * _LONGEST_SPACE
    first = {text.strip()[:1].encode() for text in (form.opening, form.channel)}
    return Cue(
        re.compile(pattern), longest, first.pop() if len(first) == 1 else b"",
        selects=(("after", AFTER.encode()), ("before", BEFORE.encode())),
        before=b"" if continued else form.opening.encode(),
    )
