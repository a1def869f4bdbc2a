"""Copy near-JSON values as JSON while they arrive: Python's notation, and notations with their own quotes."""

import ast
import json
import re
from collections.abc import Callable

from lllms_core.chat.json_copy import Malformed
from lllms_core.chat.reader import Reader, Steps

_DEEPEST = 64
_LONGEST_KEY = 256
_LONGEST_NUMBER = 400
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_HEX = {"x": 2, "u": 4, "U": 8}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_QUOTES = ("'", '"')
"""The quotes of Python and JSON, in which a backslash escapes."""
_BEHIND_VALUES = ",:)]}"


def copy_literal(reader: Reader, write: Callable[[str], None], quote: str, depth: int = 0) -> Steps[None]:
    """Copy one value: a string, a number, a word of Python or JSON, or a list, a tuple or an object of such.

    Strings are in Python's quotes, or in `quote`, without escapes. Keys of objects may lack quotes. `write` gets JSON.
    Raises `Malformed` if it is not a value; then the copy is closed, so that it is a valid one: `null` if nothing was
    written yet.
    """
    yield from reader.space()
    first = yield from reader.peek()
    if depth > _DEEPEST:
        write("null")
        raise Malformed
    if first in _CLOSING and not (yield from reader.comes(quote)):
        yield from _copy_items(reader, write, quote, depth)
    elif not (yield from _string(reader, write, quote)):
        yield from _copy_scalar(reader, write)


def copy_members(
    reader: Reader, write: Callable[[str], None], *, end: str, key_end: str, quote: str, depth: int = 0,
) -> Steps[None]:
    """Copy keys and values up to `end`, which is read, as an object. Raises `Malformed` as `copy_literal` does.

    Nothing is written before the first key or the end.
    """
    before = "{"
    try:
        while True:
            yield from reader.space()
            if (yield from _take(reader, end)):
                write("{}" if before == "{" else "}")
                return
            key = yield from _read_key(reader, key_end, quote)
            write(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
            before = ", "
            yield from copy_literal(reader, write, quote, depth + 1)
            yield from _next_item(reader, end)
    except Malformed:
        if depth or before != "{":
            write("{}" if before == "{" else "}")
        raise


def _copy_items(reader: Reader, write: Callable[[str], None], quote: str, depth: int) -> Steps[None]:
    """Copy a list, a tuple or an object."""
    opening = yield from reader.next()
    end = _CLOSING[opening]
    if opening == "{":
        yield from copy_members(reader, write, end=end, key_end=":", quote=quote, depth=depth + 1)
        return
    write("[")
    between = ""
    try:
        while True:
            yield from reader.space()
            if (yield from _take(reader, end)):
                break
            write(between)
            between = ", "
            yield from copy_literal(reader, write, quote, depth + 1)
            yield from _next_item(reader, end)
    except Malformed:
        write("]")
        raise
    write("]")


def _next_item(reader: Reader, end: str) -> Steps[None]:
    """Read the text after an item: a comma, or the end, which stays unread."""
    space = yield from reader.space()
    char = yield from reader.next()
    if char == end:
        reader.back(char)
    elif char != ",":
        reader.back(space + char)
        raise Malformed


def _read_key(reader: Reader, end: str, quote: str) -> Steps[str]:
    """Read a key with the text that ends it."""
    pieces: list[str] = []
    if (yield from _string(reader, pieces.append, quote)):
        key: str = json.loads("".join(pieces))
    else:
        key = ""
        while (char := (yield from reader.next())) and (char.isalnum() or char in "_-.") and len(key) < _LONGEST_KEY:
            key += char
        reader.back(char)
    if not key or not (yield from reader.accept(end)):
        raise Malformed
    return key


def _string(reader: Reader, write: Callable[[str], None], quote: str) -> Steps[bool]:
    """Copy a string, if one comes next; return whether it does."""
    if quote not in _QUOTES and (yield from reader.accept(quote)):
        yield from _copy_raw(reader, write, quote)
        return True
    char = yield from reader.peek()
    if char not in _QUOTES:
        return False
    yield from reader.next()
    write('"')
    while not ((one := (yield from reader.next())) == char and (yield from _ends_value(reader))):
        if not one:
            write('"')
            raise Malformed
        write(_spelt((yield from _escape(reader)) if one == "\\" else one))
    write('"')
    return True


def _ends_value(reader: Reader) -> Steps[bool]:
    """Whether a quote ends a string: some templates do not escape quotes inside strings."""
    space = yield from reader.space()
    char = yield from reader.peek()
    reader.back(space)
    return char in _BEHIND_VALUES


def _copy_raw(reader: Reader, write: Callable[[str], None], quote: str) -> Steps[None]:
    """Copy the rest of a string without escapes."""
    write('"')
    while True:
        space = yield from reader.space()
        write(_spelt(space))
        if (yield from reader.accept(quote)):
            write('"')
            return
        char = yield from reader.next()
        if not char:
            write('"')
            raise Malformed
        write(_spelt(char))


def _escape(reader: Reader) -> Steps[str]:
    """Return the meaning of a backslash and the characters after it; the characters themselves if it has none."""
    char = yield from reader.next()
    if char not in _HEX:
        return _ESCAPES.get(char, char if char in {"\\", "/", *_QUOTES} else f"\\{char}")
    digits = ""
    while len(digits) < _HEX[char] and (yield from reader.peek()) in _HEX_DIGITS:
        digits += yield from reader.next()
    code = int(digits or "0", 16)
    return chr(code) if len(digits) == _HEX[char] and code <= 0x10FFFF else f"\\{char}{digits}"


def _spelt(text: str) -> str:
    """Return a text as it is spelled inside a JSON string; unencodable characters stay escaped."""
    return json.dumps(text, ensure_ascii=any("\ud800" <= char <= "\udfff" for char in text))[1:-1]


def _copy_scalar(reader: Reader, write: Callable[[str], None]) -> Steps[None]:
    """Copy a number or a word, once its end is known."""
    text = ""
    while (char := (yield from reader.next())) and (char.isalnum() or char in "+-._") and len(text) < _LONGEST_NUMBER:
        text += char
    reader.back(char)
    known = _WORDS.get(text) or _number(text)
    if known is None:
        reader.back(text)
        write("null")
        raise Malformed
    write(known)


def _number(text: str) -> str | None:
    """Return a Python number in JSON's spelling; None if it is not a finite number."""
    if not _NUMBER.fullmatch(text):
        return None
    try:
        json.loads(text)
    except ValueError:
        pass
    else:
        return text
    try:
        return json.dumps(ast.literal_eval(text.lstrip("+")), allow_nan=False)
    except (ValueError, SyntaxError):
        return None


def _take(reader: Reader, text: str) -> Steps[bool]:
    """Read one character if it comes next."""
    char = yield from reader.next()
    if char != text:
        reader.back(char)
    return char == text
