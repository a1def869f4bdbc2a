"""Copy near-JSON values as JSON while they arrive: Python's notation, and notations with their own quotes."""

import ast
import json
import re
from collections.abc import Callable, Collection

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
_BEHIND_VALUES = frozenset(",:)]}")
_NOT_IN_KEYS = frozenset(["\n", ",", '"', "(", ")", "{", "}"])
"""Characters that unknown keys without quotes cannot contain."""


class LiteralCopier:
    """Copies values that are almost JSON: strings, numbers, Python's or JSON's words, lists, tuples and objects.

    Strings are in Python's quotes, or in `quote`, without escapes. Keys of objects may lack quotes; `known` keys may
    then have any characters. `write` gets JSON. Raises `Malformed` if the text is no value, or an incomplete one: the
    output is then left open.
    """

    def __init__(
        self, reader: Reader, write: Callable[[str], None], quote: str, known: Collection[str] = (),
    ) -> None:
        self._reader = reader
        self._write = write
        self._quote = quote
        self._known = known

    def members(self, end: str, key_end: str, depth: int = 0) -> Steps[None]:
        """Copy keys and values up to and including `end` as an object; write nothing before the first key or the end.

        Between a key and its value stands `key_end`.
        """
        before = "{"
        while True:
            yield from self._reader.space()
            if (yield from _take(self._reader, end)):
                self._write("{}" if before == "{" else "}")
                return
            key = yield from self._key(key_end)
            self._write(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
            before = ", "
            yield from self.value(depth + 1)
            yield from _next_item(self._reader, end)

    def value(self, depth: int = 0) -> Steps[None]:
        """Copy one value."""
        yield from self._reader.space()
        first = yield from self._reader.peek()
        if depth > _DEEPEST:
            raise Malformed
        if first in _CLOSING and not (yield from self._reader.comes(self._quote)):
            yield from self._items(depth)
        elif not (yield from _string(self._reader, self._write, self._quote)):
            self._write((yield from _scalar(self._reader)))

    def _items(self, depth: int) -> Steps[None]:
        """Copy a list, a tuple or an object."""
        opening = yield from self._reader.next()
        end = _CLOSING[opening]
        if opening == "{":
            yield from self.members(end, ":", depth + 1)
            return
        self._write("[")
        between = ""
        while True:
            yield from self._reader.space()
            if (yield from _take(self._reader, end)):
                break
            self._write(between)
            between = ", "
            yield from self.value(depth + 1)
            yield from _next_item(self._reader, end)
        self._write("]")

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _key(self, end: str) -> Steps[str]:
        """Read a key with the text that ends it."""
        pieces: list[str] = []
        if (yield from _string(self._reader, pieces.append, self._quote)):
            if not (yield from self._reader.accept(end)):
                raise Malformed
            quoted: str = json.loads("".join(pieces))
            return quoted
        key = ""
        while True:
            if (yield from self._reader.comes(end)) and (yield from self._ends_key(key, end)):
                return self._meant(key.rstrip())
            char = yield from self._reader.next()
            key += char
            if not char or not self._may_start(key):
                raise Malformed

    def _ends_key(self, read: str, end: str) -> Steps[bool]:
        """Read the end of a key, if this is one: unless a value follows, it may also be part of the key."""
        key = read.rstrip()
        known = key in self._known
        if not key and not known:
            return False
        for longer in self._known:
            rest = longer.strip()[len(read) :]
            if rest and longer.lstrip().startswith(read) and (yield from self._comes(rest, end)):
                return False
        place = self._reader.place
        yield from self._reader.accept(end)
        if known or (yield from self._value_comes()):
            return True
        self._reader.rewind(place)
        return False

    def _comes(self, text: str, end: str) -> Steps[bool]:
        """Whether the rest of a key and its end come next; nothing is consumed."""
        place = self._reader.place
        found = True
        for char in text:
            found = found and (yield from self._reader.next()) == char
        found = found and (yield from self._reader.comes(end))
        self._reader.rewind(place)
        return found

    def _value_comes(self) -> Steps[bool]:
        """Whether a value or the start of one comes next; nothing is consumed."""
        reader = self._reader
        place = reader.place
        yield from reader.space()
        first = yield from reader.peek()
        found = first in _CLOSING or first in _QUOTES or (yield from reader.comes(self._quote))
        if not found:
            try:
                yield from _scalar(reader)
            except Malformed:
                pass
            else:
                yield from reader.space()
                found = (yield from reader.peek()) in _BEHIND_VALUES - {":"}
        reader.rewind(place)
        return found

    def _meant(self, key: str) -> str:
        """Return the known key that equals this one except for white space at its edges."""
        alike = [one for one in self._known if one.strip() == key]
        return alike[0] if len(alike) == 1 else key

    def _may_start(self, key: str) -> bool:
        """Whether a key may start with this text, whose last character is new."""
        if any(one.lstrip().startswith(key) for one in self._known):
            return True
        return len(key) <= _LONGEST_KEY and key[-1:] not in _NOT_IN_KEYS and not key.endswith(self._quote)


def _next_item(reader: Reader, end: str) -> Steps[None]:
    """Read the text after an item: a comma, or the end, which stays unread."""
    yield from reader.space()
    char = yield from reader.next()
    if char == end:
        reader.back(char)
    elif char != ",":
        raise Malformed


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


def _scalar(reader: Reader) -> Steps[str]:
    """Read a number or a word up to its end, and return it as JSON."""
    text = ""
    while (char := (yield from reader.next())) and (char.isalnum() or char in "+-._") and len(text) < _LONGEST_NUMBER:
        text += char
    reader.back(char)
    known = _WORDS.get(text) or _number(text)
    if known is None:
        raise Malformed
    return known


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
