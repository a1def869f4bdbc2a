"""Values between tags that do not mark strings, written so that they are read back unchanged; pure."""

import json
from collections.abc import Mapping

from lllms_core.chat.lark import literal
from lllms_core.chat.schema_words import JsonSchema, values_of
from lllms_core.chat.text_grammar import ANY_TEXT, either, without
from lllms_core.chat.tool_schema import ToolSchema

_SPACE = r"[\s\x1c-\x1f]*"
_NUMBER = rf"/{_SPACE}[-+.]?[0-9][0-9a-zA-Z.+_-]*{_SPACE}/"
_LOOKS: Mapping[str, str] = {
    "boolean": f"/{_SPACE}([Tt]rue|[Ff]alse){_SPACE}/", "null": f"/{_SPACE}(null|None){_SPACE}/",
    "number": _NUMBER, "integer": _NUMBER,
    "array": rf"/{_SPACE}\[(.|\n)*/", "object": rf"/{_SPACE}\{{(.|\n)*/",
}
"""By type, the texts that may be read as a value of that type."""
_STARTS = rf"/{_SPACE}[-+.0-9](.|\n)*/"
"""Texts that start like a number."""
_QUOTED = rf'/{_SPACE}"(.|\n)*/'
"""Texts that may be read as a string of JSON, without its quotes."""
_FREE: Mapping[str, str] = {
    "boolean": "/true|false|True|False/", "null": "/null|None/", "integer": "/-?(0|[1-9][0-9]{0,14})/",
    "number": r"/-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?/",
}
"""By type, all of its values that are worth writing."""


def plain_value(schema: JsonSchema, inside: ToolSchema, text: str | None) -> tuple[str | None, frozenset[str]]:
    """Return the expression for a value as text, and the types of values that are to be written as JSON beside it.

    `text` is the expression for its strings. A text that can be read as JSON of another allowed type is not written as
    a string. Only what follows a value shows where it ends, so a text never starts like a value that has its own rule.
    """
    kinds = inside.types(schema) - {"string"}
    words = frozenset(kind for kind in kinds & {"boolean", "null"} if inside.allows_all(schema, kind))
    if text is None:
        return (either(_FREE[kind] for kind in sorted(words)), frozenset()) if kinds == words else (None, kinds)
    if not kinds or (text == ANY_TEXT and all(inside.allows_all(schema, kind) for kind in kinds)):
        return text, frozenset()
    values = values_of(schema) if isinstance(schema, Mapping) else None
    looks = [_QUOTED, *(_LOOKS[kind] for kind in sorted(kinds))]
    if values is not None:
        # `strings` has checked the other keywords; the engine compares these values as JSON.
        spelled = [literal(json.dumps(one, ensure_ascii=False)) for one in values if not isinstance(one, str)]
        return either([without(text, *looks), *spelled]), frozenset()
    free = frozenset(kind for kind in kinds & _FREE.keys() if inside.allows_all(schema, kind))
    if kinds & {"number", "integer"} - free:
        free -= {"number", "integer"}
        looks.append(_STARTS)
    plain = either([without(text, *looks), *(_FREE[kind] for kind in sorted(free))])
    return plain, kinds - free - {"boolean", "null"}
