"""SentencePiece's mark for a space, in grammars for vocabularies where it stands for one; pure."""

import json
import re
from collections.abc import Iterator, Mapping

from lllms_core.types import Constraint

_MARK = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u2581|U00002581|[ux]\{2581\})|\u2581")
"""The mark, or an escape that stands for it."""
_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]", re.DOTALL)
_IN_RANGE = re.compile(rf"-(?:{_MARK.pattern})|(?:{_MARK.pattern})-")
_VALUES = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are not schemas."""
_JSON_IN_LARK = re.compile(r"%json\s*(?=\{)")


def spaced(constraint: Constraint) -> str:
    """Return the text of a constraint with a space for each mark: no token spells the mark itself."""
    text = constraint.text
    if "2581" not in text and "\u2581" not in text:
        return text
    if constraint.kind == "regex":
        return _in_expression(text)
    text = _MARK.sub(r"\1 ", text)
    if constraint.kind == "json_schema":
        try:
            return json.dumps(_in_schema(json.loads(text)))
        except (ValueError, RecursionError):
            return text  # it is refused later
    if constraint.kind != "lark":
        return text
    pieces, end = [], 0
    for start, stop, schema in schemas_in(text):
        pieces += [text[end:start], json.dumps(_in_schema(schema))]
        end = stop
    return "".join([*pieces, text[end:]])


def schemas_in(lark: str) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Yield start, end and content of each schema in a grammar."""
    decoder = json.JSONDecoder()
    end = 0
    for match in _JSON_IN_LARK.finditer(lark):
        if match.start() < end:
            continue  # inside a string of the previous schema
        try:
            schema, end = decoder.raw_decode(lark, match.end())
        except ValueError:  # in a comment or a string; otherwise llguidance refuses it
            continue
        yield match.end(), end, schema


def _in_schema(schema: object) -> object:
    """Return a schema with spaces for escaped marks in its expressions."""
    if isinstance(schema, list):
        return [_in_schema(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {key: _in_keyword(key, value) for key, value in schema.items()}


def _in_keyword(key: str, value: object) -> object:
    if key == "pattern" and isinstance(value, str):
        return _in_expression(value)
    if key == "patternProperties" and isinstance(value, Mapping):
        return {_in_expression(name): _in_schema(one) for name, one in value.items()}
    return value if key in _VALUES else _in_schema(value)


def _in_expression(text: str) -> str:
    """Return a regular expression with spaces for marks, except for those that begin or end a range in a class."""
    pieces, end = [], 0
    for found in _CLASS.finditer(text):
        inner = found[0] if _IN_RANGE.search(found[0]) else _MARK.sub(r"\1 ", found[0])
        pieces += [_MARK.sub(r"\1 ", text[end : found.start()]), inner]
        end = found.end()
    return "".join([*pieces, _MARK.sub(r"\1 ", text[end:])])
