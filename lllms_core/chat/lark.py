"""Write texts as pieces of a grammar in Lark's notation; pure."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from lllms_core.chat.answer_format import ANY_ID, ANY_NUMBER
from lllms_core.types import Constraint

_ANY_TOKENS = '%llguidance {"no_forcing": true}'
"""Starts a grammar in which each text may be written in any tokens.

Without it, a required text is forced in the tokenizer's own tokens for it, whose borders may lie inside the longer
tokens that a model was trained on.
"""
_ANY = {ANY_ID: "/[a-zA-Z0-9]{9}/", ANY_NUMBER: "/[0-9]{1,3}/"}
"""The ids and numbers that a model may write; some templates require ids of nine characters."""


class Speller:
    """Writes a text as a piece of a grammar."""

    def __init__(self, names: Mapping[str, int], marks: Iterable[str]) -> None:
        """`names` are the tokens that are not text, with their ids; those outside the `marks` count as letters.

        A vocabulary has up to thousands of them, a form of calls only a few.
        """
        joined = "\0".join(marks)
        self._names = {name: token for name, token in names.items() if name in joined}
        words = sorted((re.escape(name) for name in (*self._names, *_ANY)), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(words)})")

    def __eq__(self, other: object) -> bool:
        """Whether both write every text in the same way."""
        return isinstance(other, Speller) and self._names == other._names

    def __hash__(self) -> int:
        return hash(frozenset(self._names.items()))

    def __call__(self, text: str) -> str:
        """Return the text as literals and tokens; an empty text as an empty literal."""
        return " ".join(self._piece(piece) for piece in self._split.split(text) if piece) or '""'

    def until(self, rule: str, end: str) -> tuple[str, list[str]]:
        """Return an expression for any text up to and including `end`, and its rules."""
        return self.closed(rule, rf"(/(.|\n)*/ & ~/(.|\n)*{escaped(end.strip())}(.|\n)*/)", end)

    def closed(self, rule: str, text: str, end: str) -> tuple[str, list[str]]:
        """The same for a text that the expression `text` of a terminal describes, and that does not contain `end`."""
        letters, rest = self._cut(end)
        name = rule.upper()
        definition = f"{name}: {text} {literal(letters)}" if letters else f"{name}: {text}"
        # No text continues across a token that is not text.
        return f"{name} {self(rest)}" if rest else name, [definition]

    def _cut(self, end: str) -> tuple[str, str]:
        """Split a text before its first token that is not text."""
        at = next((found.start() for found in self._split.finditer(end) if found[0] in self._names), len(end))
        return end[:at], end[at:]

    def _piece(self, piece: str) -> str:
        return f"<[{self._names[piece]}]>" if piece in self._names else _ANY.get(piece) or literal(piece)


def lark(param: str, rules: Sequence[str]) -> Constraint:
    """Return the constraint of these rules, on behalf of the parameter `param`."""
    return Constraint("lark", "\n".join([_ANY_TOKENS, *rules]), param)


def literal(text: str) -> str:
    """Return a text in quotes."""
    return json.dumps(text, ensure_ascii=False)


def escaped(text: str) -> str:
    """Return a text escaped for a regular expression of a grammar."""
    return re.sub(r"([.^$*+?(){}\[\]\\|/])", r"\\\1", text).replace("\n", "\\n")
