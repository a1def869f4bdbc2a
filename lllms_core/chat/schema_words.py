"""The vocabulary of JSON schemas; pure."""

import json
from collections.abc import Mapping, Sequence

JsonSchema = object
"""A JSON schema: a mapping or a boolean."""
TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
"""The types of JSON; `integer` is a number without a fraction, `number` any other."""
NOTES = frozenset({
    "type", "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment",
    "$schema", "$id", "$defs", "definitions",
})
"""Keywords that restrict nothing but the type."""
OF_TYPE: Mapping[str, frozenset[str]] = {
    "string": frozenset({"pattern", "minLength", "maxLength", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "array": frozenset({"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset({
        "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
    }),
}
"""Keywords that restrict values of one type only."""
_KNOWN = NOTES.union(*OF_TYPE.values()) | {
    "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "nullable", "$anchor", "id", "discriminator", "contentEncoding",
    "contentMediaType", "contentSchema", "contains", "minContains", "maxContains", "unevaluatedItems",
}
OF_OBJECTS = frozenset({
    "dependencies", "dependentRequired", "dependentSchemas", "propertyNames", "unevaluatedProperties",
})
"""Keywords that restrict only objects, and that are not understood here."""


class Inexpressible(Exception):
    """A schema has no grammar in a form of calls; the text is the reason."""


def check_known(schema: Mapping[str, object], besides: frozenset[str] = frozenset()) -> None:
    """Raise `Inexpressible` for a schema with a keyword that is not understood here, `besides` these."""
    for keyword in sorted(schema.keys() - _KNOWN - besides):
        if keyword == "propertyNames" and schema[keyword] in (True, {}, {"type": "string"}):
            continue
        if not keyword.startswith("x-"):
            raise Inexpressible(f"it has the keyword '{keyword[:80]}'")


def values_of(schema: Mapping[str, object]) -> Sequence[object] | None:
    """Return the only values that `enum` and `const` allow; None without either."""
    values = [*listed(schema["enum"])] if "enum" in schema else None
    if "const" in schema:
        const = schema["const"]
        return [const] if values is None or any(same(const, one) for one in values) else []
    return values


def type_of(value: object) -> str:
    """Return the type of a JSON value."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if float(value).is_integer() else "number"
    known = {str: "string", type(None): "null", dict: "object", list: "array"}
    return known.get(type(value), "object")


def same(one: object, other: object) -> bool:
    """Whether two values are the same JSON."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def listed(value: object) -> Sequence[object]:
    """Return a list unchanged, anything else as an empty one."""
    return value if isinstance(value, list | tuple) else ()


def count(value: object) -> int | None:
    """Return a number as an integer; None if it is not an integer."""
    return int(value) if isinstance(value, int | float) else None
