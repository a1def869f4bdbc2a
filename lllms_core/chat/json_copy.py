"""Copy JSON while it arrives, so that the copy can always be completed to valid JSON."""

import re
from collections.abc import Callable

from lllms_core.chat.reader import Reader, Steps

_DEEPEST = 64
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = ("true", "false", "null")
_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


class Malformed(Exception):
    """The text is malformed; the characters of the faulty part are unread again."""


def copy_json(reader: Reader, write: Callable[[str], None], depth: int = 0) -> Steps[None]:
    """Copy one JSON value. `write` gets it as spelled, with control characters inside strings escaped.

    Raises `Malformed` if it is not JSON; then the copy is closed, so that it is a valid value: `null` if nothing was
    written yet.
    """
    first = yield from reader.peek()
    if depth > _DEEPEST:
        write("null")
        raise Malformed
    if first == "{":
        yield from _copy_members(reader, write, depth, "{}")
    elif first == "[":
        yield from _copy_members(reader, write, depth, "[]")
    elif first == '"':
        yield from copy_string(reader, write)
    else:
        yield from _copy_scalar(reader, write)


def copy_string(reader: Reader, write: Callable[[str], None]) -> Steps[None]:
    """Copy a string with its quotes. Raises `Malformed` as `copy_json` does."""
    yield from reader.next()
    write('"')
    while (char := (yield from reader.next())) != '"':
        if not char:
            write('"')
            raise Malformed
        if char == "\\":
            char += yield from _escape(reader, write)
        write(char if char >= " " else _CONTROL.get(char) or f"\\u{ord(char):04x}")
    write('"')


def read_string(reader: Reader) -> Steps[str]:
    """Read a string that starts with its quote, and return it as JSON. Raises `Malformed`."""
    if (yield from reader.peek()) != '"':
        raise Malformed
    pieces: list[str] = []
    yield from copy_string(reader, pieces.append)
    return "".join(pieces)


def _escape(reader: Reader, write: Callable[[str], None]) -> Steps[str]:
    """Read the characters after a backslash."""
    char = yield from reader.next()
    digits = ""
    if char == "u":
        while len(digits) < 4 and (digit := (yield from reader.next())) in set("0123456789abcdefABCDEF"):
            digits += digit
    if not char or char not in '"\\/bfnrtu' or (char == "u" and len(digits) < 4):
        write('"')
        raise Malformed
    return char + digits


def _copy_members(reader: Reader, write: Callable[[str], None], depth: int, brackets: str) -> Steps[None]:
    """Copy an object or an array."""
    yield from reader.next()
    write(brackets[0])
    before = ""
    try:
        while True:
            space = yield from reader.space()
            char = yield from reader.next()
            if char == brackets[1] and not before:
                write(space + char)
                return
            reader.back(char)
            if brackets == "{}":
                key = yield from read_string(reader)
                between = yield from reader.space()
                if (yield from reader.next()) != ":":
                    raise Malformed  # noqa: TRY301  # noqa: TRY301  # one exit for all faults here
                write(before + space + key + between + ":" + (yield from reader.space()))
            else:
                if char in {"", ",", "]", "}", ":"}:
                    raise Malformed  # noqa: TRY301
                write(before + space)
            yield from copy_json(reader, write, depth + 1)
            space = yield from reader.space()
            before = space + (yield from reader.next())
            if before.endswith(brackets[1]):
                write(before)
                return
            if not before.endswith(","):
                reader.back(before)
                raise Malformed  # noqa: TRY301
    except Malformed:
        write(brackets[1])
        raise


def _copy_scalar(reader: Reader, write: Callable[[str], None]) -> Steps[None]:
    """Copy a number, or a word like `true`, once its end is known."""
    text = ""
    while (char := (yield from reader.next())) and (char.isalnum() or char in "+-."):
        text += char
    reader.back(char)
    if text not in _WORDS and not _NUMBER.fullmatch(text):
        reader.back(text)
        write("null")
        raise Malformed
    write(text)
