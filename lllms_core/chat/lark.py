"""Writing texts as pieces of a grammar in Lark's notation; pure."""

import json
import re
from collections.abc import Mapping, Sequence

from lllms_core.chat.answer_format import ANY_ID, ANY_NUMBER

_ANY = {ANY_ID: "/[a-zA-Z0-9]{9}/", ANY_NUMBER: "/[0-9]{1,3}/"}
"""What a model may write where an id or a number stands; there are templates that want ids of nine characters."""


class Speller:
    """Writes a text as a piece of a grammar."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self._names = names
        words = sorted((re.escape(name) for name in (*names, *_ANY)), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(words)})")

    def __call__(self, text: str) -> str:
        """The text as literals and tokens; an empty one as an empty literal."""
        return " ".join(self._piece(piece) for piece in self._split.split(text) if piece) or '""'

    def until(self, rule: str, end: str) -> tuple[str, list[str]]:
        """Any text up to `end`, which is read as well: an expression, and the rules that it needs, the first `rule`."""
        pieces = [piece for piece in self._split.split(end) if piece]
        at = next((at for at, piece in enumerate(pieces) if piece in self._names), None)
        if at is None:
            return rule, [rf"{rule}[lazy]: /(.|\n)*{escaped(end)}/"]
        # No text goes on over a token that is none.
        return f"{rule} {self(''.join(pieces[at:]))}", [rf"{rule}: /(.|\n)*{escaped(''.join(pieces[:at]))}/"]

    def _piece(self, piece: str) -> str:
        return f"<[{self._names[piece]}]>" if piece in self._names else _ANY.get(piece) or literal(piece)


def literal(text: str) -> str:
    """A text between quotes."""
    return json.dumps(text, ensure_ascii=False)


def escaped(text: str) -> str:
    """A text inside of a regular expression of a grammar."""
    return re.sub(r"([.^$*+?(){}\[\]\\|/])", r"\\\1", text).replace("\n", "\\n")


def text_rule(triggers: Sequence[str], names: Mapping[str, int]) -> str:
    """The rule TEXT of a text in which none of the triggers stands; a JSON object is all that "" announces."""
    if "" in triggers:
        return r"TEXT: /([^{ \n](.|\n)*)?/"
    # Tokens that are no text are not in it.
    spelled = "|".join(escaped(trigger) for trigger in triggers if not any(trigger.startswith(name) for name in names))
    return rf"TEXT: /(.|\n)*/ & ~/(.|\n)*({spelled})(.|\n)*/" if spelled else r"TEXT: /(.|\n)*/"
