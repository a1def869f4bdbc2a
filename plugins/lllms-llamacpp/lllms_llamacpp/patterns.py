r"""Translates the regular expressions of JSON schemas (JavaScript's) into Rust's syntax, which llguidance reads; pure.

Rust's has neither lookaround nor backreferences. Lookaheads at the start become separate expressions, all of which a
text must match: schema libraries write them (zod 4 writes an e-mail address as `^(?!\.)(?!.*\.\.)...$`).
"""

import re
from collections.abc import Iterator, Sequence

from attrs import define, frozen

_SPECIAL = frozenset("\\.+*?()|[]{}^$#&-~")
"""Characters that Rust allows after a backslash, and that then stand for themselves."""
_CLASSES = {"d": "0-9", "D": "[^0-9]", "w": "0-9A-Za-z_", "W": "[^0-9A-Za-z_]"}
"""As parts of a class. In Rust these letters include the digits and words of all scripts."""
_NUMBERS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_=]+\}|[sS]")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??")
_GROUP = re.compile(r"\((?:\?(?:[:=!]|P?<[A-Za-z_]\w*>)|(?!\?))")
_FLAGS = re.compile(r"\(\?[ims]+\)")
"""As in Python's and in Rust's syntax, for the whole expression."""
_ANCHORS = {"\\A": "^", "\\z": "$", "\\Z": "$"}
"""Python's names of the anchors."""
_MOST_CONDITIONS = 8
_LONGEST = 10_000


class Unreadable(Exception):
    """An expression has a part without a counterpart, which the text names."""


@frozen
class _Piece:
    kind: str
    """`(`, `)`, `|`, `^`, `$`; `=` or `!` for the start of a lookahead, `*` for a quantifier, `.` for a character."""
    text: str
    """In Rust's syntax."""


def translate_pattern(pattern: str) -> list[str]:
    """Return the expressions that a text must all match to match this one. Raises `Unreadable`."""
    if len(pattern) > _LONGEST:
        raise Unreadable(f"more than {_LONGEST} characters")
    flags = _FLAGS.match(pattern)
    if flags is not None:
        return [flags[0] + one for one in _translate(pattern[flags.end() :])]
    return _translate(pattern)


def _translate(pattern: str) -> list[str]:
    pieces = list(_read(pattern))
    conditions = []
    at = 1
    while pieces[:1] == [_START] and at < len(pieces) and pieces[at].kind in {"=", "!"}:
        end = _end_of_group(pieces, at)
        inner = pieces[at + 1 : end]
        conditions.append(_without(inner) if pieces[at].kind == "!" else _join([_START, _OPEN, *inner, _CLOSE]))
        at = end + 1
    if not conditions:
        return [_join(pieces)]
    if len(conditions) > _MOST_CONDITIONS:
        raise Unreadable(f"more than {_MOST_CONDITIONS} lookaheads")
    rest = [_START, *pieces[at:]]
    if _has_alternatives(rest):
        raise Unreadable("a lookahead before alternatives")
    return [_join(rest), *conditions]


_START, _OPEN, _CLOSE, _ANY = _Piece("^", "^"), _Piece("(", "(?:"), _Piece(")", ")"), _Piece(".", ".")


def _read(pattern: str) -> Iterator[_Piece]:
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern[at : at + 2] in _ANCHORS:
            anchor = _ANCHORS[pattern[at : at + 2]]
            at += 2
            yield _Piece(anchor, anchor)
        elif char == "\\":
            text, at = _read_escape(pattern, at)
            yield _Piece(".", f"[{text}]" if text in _CLASSES.values() else text)
        elif char == "[":
            text, at = _read_class(pattern, at)
            yield _Piece(".", text)
        elif char == "(":
            group = _GROUP.match(pattern, at)
            if group is None:
                raise Unreadable(f"the group '{pattern[at : at + 3]}'")
            at = group.end()
            yield _OPEN if group[0][-1] not in "=!" else _Piece(group[0][-1], "")
        elif (quantifier := _QUANTIFIER.match(pattern, at)) is not None:
            at = quantifier.end()
            yield _Piece("*", quantifier[0])
        else:
            at += 1
            yield _Piece(char, char) if char in ")|^$" else _Piece(".", f"\\{char}" if char in "{}]" else char)


def _read_escape(pattern: str, at: int) -> tuple[str, int]:
    """Return an escape in Rust's syntax, and its end."""
    letter = pattern[at + 1 : at + 2]
    code = _CODE.match(pattern, at + 1)
    kept = _PROPERTY.match(pattern, at + 1)
    if code is not None:
        return _character(int(code[1] or code[2] or code[3], 16)), code.end()
    if kept is not None:
        return "\\" + kept[0], kept.end()
    if letter == "c" and pattern[at + 2 : at + 3].isalpha():
        return _character(ord(pattern[at + 2]) % 32), at + 3
    if letter in _NUMBERS and not (letter == "0" and pattern[at + 2 : at + 3].isdigit()):
        return _character(_NUMBERS[letter]), at + 2
    if letter in _CLASSES:
        return _CLASSES[letter], at + 2
    if not letter or (letter.isascii() and letter.isalnum()):
        raise Unreadable(f"the escape '\\{letter}'")
    return f"\\{letter}" if letter in _SPECIAL else letter, at + 2


def _character(code: int) -> str:
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise Unreadable("an escape that is half a character")
    return f"\\u{{{code:x}}}"


def _read_class(pattern: str, at: int) -> tuple[str, int]:
    """Return a class in Rust's syntax, where inner brackets and doubled signs are special, and its end."""
    negated = pattern.startswith("[^", at)
    at += 2 if negated else 1
    parts: list[str] = []
    while at < len(pattern) and pattern[at] != "]":
        char = pattern[at]
        if pattern.startswith("\\b", at):
            text, at = _character(8), at + 2
        elif char == "\\":
            text, at = _read_escape(pattern, at)
        else:
            text, at = f"\\{char}" if char in "[&~" or (char == "-" and parts[-1:] == ["-"]) else char, at + 1
        parts.append(text)
    if at == len(pattern) or not parts:
        raise Unreadable("a class without an end, or without characters")
    if negated and parts[0] == "^":
        parts[0] = "\\^"
    return f"[{'^' if negated else ''}{''.join(parts)}]", at + 1


def _end_of_group(pieces: Sequence[_Piece], start: int) -> int:
    depth = 0
    for at in range(start, len(pieces)):
        depth += (pieces[at].kind in {"(", "=", "!"}) - (pieces[at].kind == ")")
        if depth == 0:
            return at
    raise Unreadable("a group without an end")


def _has_alternatives(pieces: Sequence[_Piece]) -> bool:
    depth = 0
    for piece in pieces:
        depth += (piece.kind == "(") - (piece.kind == ")")
        if piece.kind == "|" and depth == 0:
            return True
    return False


def _without(inner: Sequence[_Piece]) -> str:
    """Return the expression of all texts that do not start with a character, or do not contain one, or one twice."""
    kinds, texts = "".join(piece.kind for piece in inner), [piece.text for piece in inner]
    match kinds, texts:
        case ".", [one] if one != ".":
            return f"^(?:$|{_other(one)})"
        case ".*.", [".", "*", one] if one != ".":
            return f"^{_other(one)}*$"
        case ".*..", [".", "*", one, again] if one == again != ".":
            return f"^(?:{one}?{_other(one)})*{one}?$"
        case "^.*$" | ".*$", [*_, one, "*", _] if one != ".":
            return _other(one)
    raise Unreadable("the lookahead '(?!'")


def _other(one: str) -> str:
    """Return the class of all characters but one, or but those of a class."""
    if one.startswith("[^"):
        return f"[{one[2:]}"
    return f"[^{one[1:]}" if one.startswith("[") else f"[^{one}]"


@define
class _Group:
    """An open group, or the whole expression."""

    first: bool = True
    """Whether it is at the start of the text."""
    last: bool = False
    """Whether it comes after the end of the text."""
    ends: bool = False
    """Whether one of its alternatives so far ends the text."""


def _join(pieces: Sequence[_Piece]) -> str:
    """Return an expression. Raises `Unreadable` if it has anchors in the middle, or lookaheads."""
    open_groups = [_Group()]
    first, last = True, False
    for piece in pieces:
        group = open_groups[-1]
        match piece.kind:
            case "=" | "!":
                raise Unreadable(f"the lookahead '(?{piece.kind}'")
            case "(":
                open_groups.append(_Group(first, last))
            case "|":
                group.ends, first, last = group.ends or last, group.first, group.last
            case ")" if len(open_groups) > 1:
                open_groups.pop()
                first, last = False, last or group.ends
            case "$":
                last = True
            case "^" if not first:
                raise Unreadable("'^' in the middle")
            case "." if last:
                raise Unreadable("'$' in the middle")
            case ".":
                first = False
    return "".join(piece.text for piece in pieces)
