"""How large and how deep JSON may be: one rule for bodies, values from Python, and JSON inside of strings; pure.

Whatever comes after the reader (pickle, `json.dumps`, templates, schemas) works by recursion, and fails at some depth.
Python's decoder lets nothing else run meanwhile: the number of items bounds how long a server stands still.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut

LEVELS = 64
"""Arrays and objects inside of each other, the outermost included, unless a configuration says otherwise."""

MOST_LEVELS = 256
"""The maximum that a configuration may allow."""

MOST_VALUES = 1_250_000
"""Commas: 2,048 inputs of 512 tokens have 1,048,575."""
MOST_STRINGS = 300_000
"""Keys included. While the decoder reads strings, arrays or objects, nothing else runs: this many take some 50 ms."""
MOST_PARTS = 200_000
"""Keys, arrays and objects: each costs several times what a string does."""

_JSON_IN_LARK = re.compile(r"%json\s*(?=\{)")
_LONGEST_KEY = 40
_LEAVES = frozenset({str, int, float, bool, type(None), bytes})
_TOKENS = re.compile(r'"([^"]*)"?|[][{},:]')


def nested_too_deeply(param: str, levels: int) -> InvalidRequest:
    """Say that a value has more than `levels`."""
    param = cut(param)
    text = f"Invalid '{param}': nested deeper than the {levels} levels that server.max_json_depth allows."
    return InvalidRequest(text, param, "nested_too_deeply")


def check_counts(text: str, param: str | None = None) -> None:
    """Refuse a JSON text of too many items. Raises `InvalidRequest`."""
    counts = _count(text)
    if not _excess(*counts):
        return
    # Texts have commas and brackets, too: now without them, unless there are too many of them as well.
    plain = _without_escapes(text)
    strings = plain.count('"') // 2
    if strings <= MOST_STRINGS:
        values, parts, _ = _count("".join(plain.split('"')[::2]))
        counts = values, parts, strings
    if excess := _excess(*counts):
        whose = "the body has" if param is None else f"Invalid '{param}': it has"
        raise InvalidRequest(f"{whose} more than {excess}; send several requests", param, "too_many_values")


def is_too_deep(value: object, levels: int) -> bool:
    """Whether there are more than `levels` arrays and objects inside of each other."""
    level = [] if type(value) in _LEAVES else [value]
    for _ in range(levels):
        if not level:
            return False
        # By their types: an array may hold a million numbers.
        level = [
            item for one in level for item in (one.values() if type(one) is dict else _items(one))
            if type(item) not in _LEAVES
        ]
    return bool(level)


def find_too_deep(text: str, levels: int) -> str | None:
    """Return the path to the first place in a JSON text that is too deep, None if there is none.

    The text may be cut, or no JSON at all: nothing is read but brackets, keys and commas.
    """
    if text.count("[") + text.count("{") <= levels:
        return None
    return _scan(_without_escapes(text), levels, 0)[0]


def find_too_deep_in_lark(grammar: str, levels: int) -> str | None:
    """Return the path to the first place in the JSON schemas of a Lark grammar that is too deep, None if there is none.

    The other brackets of a grammar need not come in pairs.
    """
    text, end = _without_escapes(grammar), 0
    while (found := _JSON_IN_LARK.search(text, end)) is not None:
        place, end = _scan(text, levels, found.end())
        if place is not None:
            return place
    return None


def _scan(text: str, levels: int, start: int) -> tuple[str | None, int]:
    """Read one value, or all that is left; return the place that is too deep, if there is one, and where it ended."""
    places: list[str | int | None] = []
    string = ""
    for token in _TOKENS.finditer(text, start):
        sign = token[0]
        if sign in {"[", "{"}:
            if len(places) == levels:
                return _written(places), token.end()
            places.append(0 if sign == "[" else None)
        elif sign in {"]", "}"}:
            del places[-1:]
            if not places:
                return None, token.end()
        elif sign == ":" and places:
            places[-1] = string
        elif sign == "," and places:
            here = places[-1]
            places[-1] = here + 1 if isinstance(here, int) else None
        else:
            string = token[1] or ""
    return None, len(text)


def _count(text: str) -> tuple[int, int, int]:
    return text.count(","), sum(text.count(sign) for sign in "[{:"), text.count('"') // 2


def _excess(values: int, parts: int, strings: int) -> str:
    if values > MOST_VALUES:
        return f"{MOST_VALUES:,} values"
    if strings > MOST_STRINGS:
        return f"{MOST_STRINGS:,} strings"
    return f"{MOST_PARTS:,} keys, arrays and objects" if parts > MOST_PARTS else ""


def _without_escapes(text: str) -> str:
    r"""Return a JSON text in which the only quotes left are those around strings."""
    return text.replace("\\\\", "").replace('\\"', "")


def _items(value: object) -> Iterable[object]:
    if isinstance(value, list | tuple):
        return value
    return value.values() if isinstance(value, Mapping) else ()


def _written(places: Sequence[str | int | None]) -> str:
    path = ""
    for place in places:
        if isinstance(place, int):
            path += f"[{place}]"
        elif place is not None:
            path += f"{'.' if path else ''}{place[:_LONGEST_KEY]}"
    return path
