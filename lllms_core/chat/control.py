"""Keeps users' text apart from a model's control tokens.

A conversation is rendered twice: as it is, and disguised, with each character of a user's text that could be part of a
control token replaced by a private-use character. If the two outputs differ only by the disguise, they show for each
character of a control token whether the template or a user wrote it, however the template cuts and joins text.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby, islice, pairwise

from lllms_core.cancellation import check_cancelled
from lllms_core.errors import InvalidRequest

_PRIVATE = re.compile("[\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_PRIVATE_USE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
_CHUNK = 1 << 16
"""The most characters for one call: meanwhile no other thread runs, and no cancellation is noticed."""


class Disguise:
    """A reversible spelling of users' text that contains no control token."""

    def __init__(self, control: "ControlTokens", taken: Collection[str]) -> None:
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in taken)
        spare = list(islice(free, len(control.characters) + 1))
        if len(spare) <= len(control.characters):
            raise InvalidRequest("the messages use up Unicode's private-use characters; leave some out", "messages")
        self.end = spare[0]
        """A character that occurs nowhere else, for use as a mark."""
        self._control = control
        self._there = str.maketrans(dict(zip(control.characters, spare[1:], strict=True)))
        self._back = str.maketrans(dict(zip(spare[1:], control.characters, strict=True)))

    def text(self, text: str) -> str:
        """Return a user's text in disguise; its length does not change."""
        # Every second piece is a string that the template looks for.
        return "".join(
            piece if at % 2 else piece.translate(self._there)
            for pieces in self._control.split_known(text) for at, piece in enumerate(pieces)
        )

    def value(self, value: object) -> object:
        """Return a JSON-like value with its texts in disguise; keys, which templates use, only if they hold tokens."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(key) if isinstance(key, str) and self._control.find(key) else key: self.value(item)
                for key, item in value.items()
            }
        return [self.value(item) for item in value] if isinstance(value, list | tuple) else value

    def undo(self, text: str) -> str:
        """Return the text as users wrote it; its length does not change."""
        return "".join(chunk.translate(self._back) for chunk in _chunks(text))


class ControlTokens:
    """The texts of a vocabulary's control tokens; tokens of nothing but white space count as plain text.

    `literals`: the strings in a template's expressions. It may test text for them ('</think>'), so a disguise does not
    change them, unless they could be part of a control token. `reserved`: text that is not a user's.
    """

    def __init__(self, tokens: Collection[str], literals: Collection[str] = (), reserved: str = "") -> None:
        self._tokens = frozenset(token for token in tokens if token.strip())
        self._lengths = sorted({len(token) for token in self._tokens})
        self._any = re.compile(_any_of(self._tokens))
        self._reserved = frozenset(_PRIVATE.findall(reserved))
        self.characters = sorted(c for c in set().union(*self._tokens) if not c.isspace())
        """Every character that occurs in a control token, except white space."""
        known = self._harmless(literals)
        self._known = re.compile(f"({_any_of(known)})")
        self._longest_known = max(map(len, known), default=0)

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def find(self, text: str) -> list[tuple[int, int]]:
        """Return start and end of every control token in `text`, including overlapping ones."""
        longest = self._lengths[-1] if self._lengths else 0
        starts = _starts(self._any, text, longest)
        spans = ((start, start + length) for start in starts for length in self._lengths)
        return [(start, end) for start, end in spans if end <= len(text) and text[start:end] in self._tokens]

    def texts(self, text: str) -> list[str]:
        """Return the control tokens in `text`, in order."""
        return [text[start:end] for start, end in self.find(text)]

    def split_known(self, text: str) -> Iterator[list[str]]:
        """Cut a user's text into chunks, and each chunk into pieces, every second of which is one of the literals."""
        start = 0
        while len(text) - start > _CHUNK + self._longest_known:
            check_cancelled()
            size = _CHUNK + self._longest_known
            pieces = self._known.split(text[start : start + size])
            # Only a literal that starts within the chunk is surely complete; the rest is left to the next chunk.
            last = ""
            while size > _CHUNK:
                last = pieces.pop()
                size -= len(last)
            if len(pieces) % 2 == 0:
                pieces.append(last[: _CHUNK - size])
                size = _CHUNK
            yield pieces
            start += size
        yield self._known.split(text[start:])

    def disguise(self, value: object) -> Disguise:
        """Return a disguise made of characters that occur in no string of `value`."""
        pieces = (piece for text in strings(value) for piece in _chunks(text))
        return Disguise(self, self._reserved.union(*map(_PRIVATE.findall, pieces)))

    def separate(self, text: str, disguised: str) -> list[tuple[str, bool]]:
        """Cut a rendered text at users' control tokens; return the pieces, and whether each may be parsed.

        `disguised` is the same text with users' characters disguised. The characters that a user contributed to the
        text of a control token must not be parsed.
        """
        cuts = [0]  # the start and the end of each run of users' characters, in turn
        seen = 0
        for start, end in self.find(text):
            for at in range(max(start, seen), end):
                if text[at] != disguised[at]:
                    if at == cuts[-1] and len(cuts) > 1:
                        cuts[-1] += 1
                    else:
                        cuts += (at, at + 1)
            seen = max(seen, end)
        pieces = (text[start:end] for start, end in pairwise([*cuts, len(text)]))
        return [(piece, number % 2 == 0) for number, piece in enumerate(pieces) if piece]

    def _harmless(self, literals: Collection[str]) -> list[str]:
        heads = {token[:length] for token in self._tokens for length in range(1, len(token))}
        tails = {token[length:] for token in self._tokens for length in range(1, len(token))}
        inside = "\0".join(self._tokens)
        return [
            literal for literal in literals
            if literal and literal not in inside and not self.find(literal)
            and not any(literal[at:] in heads or literal[:at] in tails for at in range(1, len(literal)))
        ]


def strings(value: object) -> Iterator[str]:
    """Yield every string in a JSON-like value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def _chunks(text: str) -> Iterator[str]:
    """Yield the text in pieces that are quick to process."""
    if len(text) <= _CHUNK:
        yield text
        return
    for start in range(0, len(text), _CHUNK):
        check_cancelled()
        yield text[start : start + _CHUNK]


def _starts(pattern: re.Pattern[str], text: str, longest: int) -> Iterator[int]:
    """Yield where matches start, including overlapping ones; none is longer than `longest`."""
    for start in range(0, len(text), _CHUNK):
        check_cancelled()
        at, end = start, start + _CHUNK
        while (match := pattern.search(text, at, end + longest)) is not None and match.start() < end:
            yield match.start()
            at = match.start() + 1


def _any_of(texts: Iterable[str]) -> str:
    """Return a pattern for any of the texts, the longest first, as a tree, which rejects most text at one character."""
    texts = sorted({*texts})
    if not texts:
        return r"(?!)"  # never matches
    first, last = texts[0], texts[-1]
    head = next((first[:at] for at, char in enumerate(first) if last[at : at + 1] != char), first)
    tails = [text.removeprefix(head) for text in texts]
    branches = [_any_of(group) for _, group in groupby(filter(None, tails), key=lambda tail: tail[0])]
    if not branches:
        return re.escape(head)
    return f"{re.escape(head)}(?:{'|'.join(branches)}){'' if tails[0] else '?'}"
