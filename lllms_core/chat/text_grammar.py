"""The strings that a schema allows, as expressions of Lark for strings written without quotes and escapes; pure."""

import re
from collections.abc import Iterable, Mapping, Sequence

from lllms_core.chat.lark import escaped, literal
from lllms_core.chat.schema_words import OF_OBJECTS, Inexpressible, JsonSchema, check_known, values_of
from lllms_core.chat.tool_schema import ToolSchema

ANY_TEXT = ""
"""The expression for any string."""
_CHAR = r"(.|\n)"
_SPACE = r"[\s\x1c-\x1f]*"
"""White space, as Python has it."""
_DIGITS = {"year": "[0-9]{4}", "month": "(0[1-9]|1[0-2])", "day": "(0[1-9]|1[0-9]|2[0-8])"}
_DATE = "{year}-(({month}-{day})|((0[13-9]|1[0-2])-(29|30))|((0[13578]|1[02])-31))".format(**_DIGITS)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = rf"{_LABEL}(\.{_LABEL}){{0,3}}"
_HEX = "[0-9a-fA-F]"
_WORD = f"{_HEX}{{1,4}}"
_CLOCK = "([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
_CALENDAR = "([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)"
_FORMATS: Mapping[str, str] = {
    "date": _DATE, "time": _TIME, "date-time": f"{_DATE}T{_TIME}", "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "hostname": _HOST, "email": rf"[a-zA-Z0-9_+-]{{1,30}}(\.[a-zA-Z0-9_+-]{{1,30}}){{0,2}}@{_HOST}",
    "ipv6": f"({_WORD}:){{7}}{_WORD}|({_WORD}(:{_WORD}){{0,2}})?::({_WORD}(:{_WORD}){{0,2}})?",
    "uuid": f"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}",
    "uri": r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}:(\/\/)?([a-zA-Z0-9._~:\/?#@!$&'()*+,;=-]|%[0-9a-fA-F]{2})+",
    "duration": f"P({_CALENDAR}(T{_CLOCK})?|T{_CLOCK}|[0-9]+W)",
}
"""Enforced formats: each expression allows only strings of the format, though not all of them."""
_SHORTHANDS = {r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[A-Za-z0-9_]", r"\W": "[^A-Za-z0-9_]"}
"""In JSON schemas, these mean ASCII."""
_IN_CLASS = {"/": r"\/", "\n": r"\n", "[": r"\[", "&": r"\&", "~": r"\~"}
"""Characters that are special in a class of Rust's expressions, or in Lark, but not in JSON schemas."""
_DEEPEST = 32


def both(*parts: str | None) -> str | None:
    """Return the expression for strings that all `parts` allow; None means no string."""
    if None in parts:
        return None
    limits = list(dict.fromkeys(part for part in parts if part))
    return f"({' & '.join(limits)})" if len(limits) > 1 else limits[0] if limits else ANY_TEXT


def either(parts: Iterable[str | None]) -> str | None:
    """Return the expression for strings that any of the `parts` allows."""
    options = list(dict.fromkeys(part for part in parts if part is not None))
    if ANY_TEXT in options:
        return ANY_TEXT
    return f"({' | '.join(options)})" if len(options) > 1 else options[0] if options else None


def without(part: str | None, *unwanted: str | None) -> str | None:
    """Return the expression for the strings of `part` that none of the `unwanted` allows."""
    if part is None or ANY_TEXT in unwanted:
        return None
    limits = [f"~({one})" for one in unwanted if one is not None]
    # A complement alone would include bytes that are not UTF-8.
    return both(whole(part), *limits) if limits else part


def containing(text: str) -> str:
    """Return the expression for strings that contain this text, with any white space where it has some."""
    return f"/{_CHAR}*{_SPACE.join(map(escaped, text.split()))}{_CHAR}*/"


def whole(expression: str) -> str:
    """Return an expression that still matches any string."""
    return expression or f"/{_CHAR}*/"


def strings(schema: JsonSchema, inside: ToolSchema, depth: int = 0) -> str | None:
    """Return the expression for the strings that a schema allows. Raises `Inexpressible`."""
    inside.visit()
    if not isinstance(schema, Mapping):
        return None if schema is False else ANY_TEXT
    if depth > _DEEPEST:
        raise Inexpressible("it refers to itself without end")
    if "string" not in inside.types(schema):
        return None
    check_known(schema, OF_OBJECTS)
    found: list[str | None] = [_own(schema)]
    if (values := values_of(schema)) is not None:
        found.append(either(literal(value) for value in values if isinstance(value, str)))
    if "$ref" in schema:
        found.append(strings(inside.target(schema["$ref"]), inside, depth + 1))
    for name, join in (("allOf", lambda parts: both(*parts)), ("anyOf", either), ("oneOf", _only_one)):
        parts = schema.get(name)
        if isinstance(parts, Sequence) and not isinstance(parts, str):
            found.append(join([strings(part, inside, depth + 1) for part in parts]))
    return both(*found)


def _own(schema: Mapping[str, object]) -> str:
    """Return the expression for strings that the keywords of a schema itself allow."""
    found = []
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int | float) or isinstance(most, int | float):
        low = int(least) if isinstance(least, int | float) else 0
        high = int(most) if isinstance(most, int | float) else None
        if high is not None and high < low:
            raise Inexpressible(f"no text has at least {low} and at most {high} characters")
        found.append(f"/{_CHAR}{{{low},{'' if high is None else high}}}/")
    pattern, named = schema.get("pattern"), schema.get("format")
    if isinstance(pattern, str):
        found.append(search(pattern))
    if isinstance(named, str) and named in _FORMATS:
        found.append(f"/{_FORMATS[named]}/")
    return both(*found) or ANY_TEXT


def _only_one(parts: Sequence[str | None]) -> str | None:
    return either(
        without(part, *parts[:at], *parts[at + 1 :]) for at, part in enumerate(parts)
    )


def search(pattern: str) -> str:
    """Return the expression for strings in which a pattern is found. Raises `Inexpressible`."""
    found = []
    for option in _options(pattern):
        body, first, last = option, option[:1] == ["^"], option[-1:] == ["$"]
        body = body[1:] if first else body
        body = body[:-1] if last else body
        if "^" in body or "$" in body or any(piece in {r"\b", r"\B"} for piece in body):
            raise Inexpressible(f"the pattern '{pattern[:80]}' has an anchor in its middle")
        text = "".join(body)
        found.append(f"{'' if first else f'{_CHAR}*'}({text}){'' if last else f'{_CHAR}*'}")
    return f"/{'|'.join(found)}/"


def _options(pattern: str) -> list[list[str]]:
    """Split a pattern at its outermost bars, into pieces of Lark's regular expressions.

    Anchors are pieces of their own, and so are escapes; classes are one piece.
    """
    options: list[list[str]] = [[]]
    depth = 0
    for found in _PIECE.finditer(pattern):
        piece = found[0]
        if piece == "|" and not depth:
            options.append([])
            continue
        depth += (piece == "(") - (piece == ")")
        options[-1].append(_SHORTHANDS.get(piece, piece) if piece[0] != "[" else _class(piece))
        if piece in {"/", "\n"}:
            options[-1][-1] = {"/": r"\/", "\n": r"\n"}[piece]
    return options


_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


def _class(text: str) -> str:
    """Return a class of characters with the shorthands of JSON schemas, and no bare slash."""
    pieces = (_SHORTHANDS.get(piece, piece) for piece in re.findall(r"\\.|.", text, re.DOTALL))
    inner = [_IN_CLASS.get(piece, piece) for piece in pieces]
    return "[" + "".join(inner[1:])
