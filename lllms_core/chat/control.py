"""Keeping what users write apart from a model's control tokens.

A conversation is rendered twice: as it is, and in disguise, with each character of a user's text that could be part of
a control token replaced by a private-use character. Where both outputs agree but for the disguise, it is known of each
character of a control token's text whether the template or a user wrote it, however the template cut and joined.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice, pairwise

from lllms_core.errors import InvalidRequest

_PRIVATE = re.compile("[\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_PRIVATE_USE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))


class Disguise:
    """A spelling of users' text that contains no control token, and the way back."""

    def __init__(self, control: "ControlTokens", taken: Collection[str]) -> None:
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in taken)
        spare = list(islice(free, len(control.characters) + 1))
        if len(spare) <= len(control.characters):
            raise InvalidRequest("the messages use up Unicode's private-use characters; leave some out", "messages")
        self.end = spare[0]
        """A character that occurs nowhere else, to mark a place with."""
        self._control = control
        self._there = str.maketrans(dict(zip(control.characters, spare[1:], strict=True)))
        self._back = str.maketrans(dict(zip(spare[1:], control.characters, strict=True)))

    def text(self, text: str) -> str:
        """A user's text in disguise; as long as before."""
        # Every second piece is a string that the template looks for.
        pieces = self._control.split_known(text)
        return "".join(piece if at % 2 else piece.translate(self._there) for at, piece in enumerate(pieces))

    def value(self, value: object) -> object:
        """A JSON-like value with its texts in disguise; keys, by which templates look, only if they hold a token."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(key) if isinstance(key, str) and self._control.find(key) else key: self.value(item)
                for key, item in value.items()
            }
        return [self.value(item) for item in value] if isinstance(value, list | tuple) else value

    def undo(self, text: str) -> str:
        """The text as users wrote it; as long as before."""
        return text.translate(self._back)


class ControlTokens:
    """The texts of a vocabulary's control tokens; one of nothing but white space is taken for plain text.

    `literals`: the strings in a template's expressions. It may test text for them ('</think>'), so they stay as they
    are in a disguise, unless they could be a part of a control token. `reserved`: text that is not a user's.
    """

    def __init__(self, tokens: Collection[str], literals: Collection[str] = (), reserved: str = "") -> None:
        self._tokens = frozenset(token for token in tokens if token.strip())
        self._lengths = sorted({len(token) for token in self._tokens})
        self._first = re.compile(_any_of({token[0] for token in self._tokens}))
        self._reserved = frozenset(_PRIVATE.findall(reserved))
        self.characters = sorted(c for c in set().union(*self._tokens) if not c.isspace())
        """Every character that control tokens are made of, white space aside."""
        self._known = re.compile(f"({_any_of(self._harmless(literals))})")

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def find(self, text: str) -> list[tuple[int, int]]:
        """Start and end of every control token in `text`, also of those that overlap."""
        starts = (match.start() for match in self._first.finditer(text))
        spans = ((start, start + length) for start in starts for length in self._lengths)
        return [(start, end) for start, end in spans if end <= len(text) and text[start:end] in self._tokens]

    def texts(self, text: str) -> list[str]:
        """The control tokens in `text`, in their order."""
        return [text[start:end] for start, end in self.find(text)]

    def split_known(self, text: str) -> list[str]:
        """Cut a user's text; every second piece is one of the template's literals."""
        return self._known.split(text)

    def disguise(self, value: object) -> Disguise:
        """A disguise made of characters that do not occur in any string of `value`."""
        return Disguise(self, self._reserved.union(*(_PRIVATE.findall(text) for text in strings(value))))

    def separate(self, text: str, disguised: str) -> list[tuple[str, bool]]:
        """Cut a rendered text so that users' control tokens stand apart: pieces, and whether each may be parsed.

        `disguised` is the same text with users' characters disguised. What may not be parsed are the characters that
        a user contributed to the text of a control token.
        """
        foreign = {at for span in self.find(text) for at in range(*span) if text[at] != disguised[at]}
        cuts = {cut for at in foreign for cut in (at, at + 1) if (cut in foreign) != (cut - 1 in foreign)}
        return [(text[start:end], start not in foreign) for start, end in pairwise(sorted({0, len(text), *cuts}))]

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
    """Every string in a JSON-like value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def _any_of(texts: Iterable[str]) -> str:
    # Longest first: Python's alternation takes the first that matches. Of nothing, a pattern that never matches.
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)"
