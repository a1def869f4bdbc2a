"""Copy JSON while it arrives, and repair what has only one meaning."""

import re
from collections.abc import Callable

from lllms_core.chat.reader import Reader, Steps

_DEEPEST = 64
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_ESCAPED = frozenset('"\\/bfnrt')
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_QUOTES = frozenset("\"'")
_BEHIND_STRINGS = frozenset(",:]}")


class Malformed(Exception):
    """The text is malformed."""


def copy_json(reader: Reader, write: Callable[[str], None], depth: int = 0) -> Steps[None]:
    """Copy one JSON value to `write` as it is spelled, with the repairs of `mended`.

    Raises `Malformed` if it is not JSON, or incomplete: the output is then left open, so that it cannot be mistaken for
    a shorter value.
    """
    first = yield from reader.peek()
    if depth > _DEEPEST:
        raise Malformed
    if first == "{":
        yield from _copy_members(reader, write, depth, "{}")
    elif first == "[":
        yield from _copy_members(reader, write, depth, "[]")
    elif first in _QUOTES:
        yield from _copy_string(reader, write)
    else:
        yield from _copy_scalar(reader, write)


def read_string(reader: Reader) -> Steps[str]:
    """Read a string that starts with its quote, and return it as JSON. Raises `Malformed`."""
    if (yield from reader.peek()) not in _QUOTES:
        raise Malformed
    pieces: list[str] = []
    yield from _copy_string(reader, pieces.append)
    return "".join(pieces)


def mended(text: str) -> str:
    """Return a JSON value, repaired where only one meaning is possible. Raises `Malformed` if it is still not JSON.

    A backslash that escapes nothing is doubled, and control characters in strings are escaped; strings in single
    quotes, Python's literals and a trailing comma become JSON.
    """
    reader, pieces = Reader(), list[str]()
    steps = _copy_whole(reader, pieces.append)
    next(steps)
    try:
        for char in (*text, ""):
            steps.send(char)
    except StopIteration:
        return "".join(pieces)
    raise Malformed


def _copy_whole(reader: Reader, write: Callable[[str], None]) -> Steps[None]:
    yield from reader.space()
    yield from copy_json(reader, write)
    yield from reader.space()
    if (yield from reader.next()):
        raise Malformed


def _copy_string(reader: Reader, write: Callable[[str], None]) -> Steps[None]:
    """Copy a string with its quotes."""
    quote = yield from reader.next()
    write('"')
    while True:
        char = yield from reader.next()
        if char == quote and (quote == '"' or (yield from _ends_string(reader))):
            break
        if not char:
            raise Malformed
        if char == "\\":
            write((yield from _escape(reader, quote)))
        elif char == '"':
            write('\\"')
        else:
            write(char if char >= " " else _CONTROL.get(char) or f"\\u{ord(char):04x}")
    write('"')


def _ends_string(reader: Reader) -> Steps[bool]:
    """Whether a single quote ends a string: an apostrophe does not."""
    space = yield from reader.space()
    char = yield from reader.peek()
    reader.back(space)
    return char in _BEHIND_STRINGS


def _escape(reader: Reader, quote: str) -> Steps[str]:
    """Return the spelling of a backslash and what it escapes; it escapes itself if nothing valid follows."""
    char = yield from reader.peek()
    if char == "'" and quote == "'":
        return (yield from reader.next())
    if char in _ESCAPED:
        return "\\" + (yield from reader.next())
    if char != "u":
        return "\\\\"
    digits = yield from reader.next()
    while len(digits) < 5 and (yield from reader.peek()) in _HEX_DIGITS:
        digits += yield from reader.next()
    return f"\\{digits}" if len(digits) == 5 else f"\\\\{digits}"


def _copy_members(reader: Reader, write: Callable[[str], None], depth: int, brackets: str) -> Steps[None]:
    """Copy an object or an array."""
    yield from reader.next()
    write(brackets[0])
    before = ""
    while True:
        space = yield from reader.space()
        char = yield from reader.peek()
        if char == brackets[1]:
            # A comma after the last item is left out.
            yield from reader.next()
            write(before.rstrip(",") + space + char)
            return
        if brackets == "{}":
            key = yield from read_string(reader)
            between = yield from reader.space()
            if (yield from reader.next()) != ":":
                raise Malformed
            write(before + space + key + between + ":" + (yield from reader.space()))
        else:
            write(before + space)
        yield from copy_json(reader, write, depth + 1)
        space = yield from reader.space()
        before = space + (yield from reader.next())
        if before.endswith(brackets[1]):
            write(before)
            return
        if not before.endswith(","):
            raise Malformed


def _copy_scalar(reader: Reader, write: Callable[[str], None]) -> Steps[None]:
    """Copy a number, or a word like `true`, once its end is known."""
    text = ""
    while (char := (yield from reader.next())) and (char.isalnum() or char in "+-."):
        text += char
    reader.back(char)
    spelled = text if _NUMBER.fullmatch(text) else _WORDS.get(text)
    if spelled is None:
        raise Malformed
    write(spelled)
