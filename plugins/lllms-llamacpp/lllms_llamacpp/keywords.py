"""The keywords of JSON schemas, by the kind of their values and by whether llguidance enforces them; pure."""

from collections.abc import Callable, Mapping

ONE = frozenset({"additionalProperties", "additionalItems", "items"})
"""Their value is a schema."""
MANY = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
"""Their value is an array of schemas."""
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Their value is an object of schemas."""
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
"""Limits on numbers."""
ADDRESSES = frozenset({"$schema", "$id", "id", "$anchor"})
"""They determine how references are resolved."""
OTHERS = frozenset({
    "$ref", "type", "required", "minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength",
    "pattern", "format", "const", "enum", "multipleOf",
})
ENFORCED = ONE | MANY | NAMED | BOUNDS | ADDRESSES | OTHERS
"""The keywords that llguidance accepts."""

ANNOTATIONS = frozenset({
    "$comment", "$vocabulary", "$dynamicAnchor", "$recursiveAnchor", "title", "description", "markdownDescription",
    "default", "examples", "example", "readOnly", "writeOnly", "deprecated", "discriminator", "externalDocs", "xml",
    "contentEncoding", "contentMediaType", "contentSchema", "enumNames", "enumDescriptions", "markdownEnumDescriptions",
    "propertyOrdering", "errorMessage",
})
"""The keywords that restrict nothing: JSON Schema's own, and those of OpenAPI, editors and form builders."""

FORMATS = frozenset({
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
})
"""The formats that llguidance enforces; any other is an annotation, as in the standard."""

EVALUATING = frozenset({
    "anyOf", "oneOf", "allOf", "$ref", "$dynamicRef", "$recursiveRef", "if", "dependentSchemas", "dependencies",
})
"""Keywords beside which `unevaluatedProperties` differs from `additionalProperties`."""

_LONGEST = 2**31
"""Characters that no answer contains."""


def restricts(schema: Mapping[str, object], keyword: str, value: object) -> bool:
    """Whether a schema's keyword restricts its values at all."""
    if keyword in ANNOTATIONS or (keyword.startswith("x-") and keyword != "x-guidance"):
        return False
    return keyword not in _SILENT or not _SILENT[keyword](schema, value)


def _allows_all(schema: object) -> bool:
    if not isinstance(schema, Mapping):
        return schema is True
    return not any(restricts(schema, keyword, value) for keyword, value in schema.items())


def _allows_all_names(schema: object) -> bool:
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        schema = {keyword: value for keyword, value in schema.items() if keyword != "type"}
    return _allows_all(schema)


def _set(names: object) -> set[str]:
    return {*map(str, names)} if isinstance(names, list | Mapping) else set()


_SILENT: Mapping[str, Callable[[Mapping[str, object], object], bool]] = {
    "format": lambda _, value: isinstance(value, str) and value not in FORMATS,
    "maxLength": lambda _, value: isinstance(value, int) and value >= _LONGEST,
    "additionalItems": lambda schema, _: not isinstance(schema.get("items"), list),
    "if": lambda schema, _: not {"then", "else"} & schema.keys(),
    "then": lambda *_: True,  # part of the restriction `if`, like those of `contains`
    "else": lambda *_: True,
    "minContains": lambda *_: True,
    "maxContains": lambda *_: True,
    "not": lambda _, value: value is False,
    "nullable": lambda _, value: value is False,
    "uniqueItems": lambda schema, value: value is False or schema.get("maxItems") in (0, 1),
    "minProperties": lambda schema, value: isinstance(value, int) and value <= len(_set(schema.get("required"))),
    "maxProperties": lambda schema, value: (
        isinstance(value, int) and schema.get("additionalProperties") is False and not schema.get("patternProperties")
        and value >= len(_set(schema.get("properties")))
    ),
    "dependentRequired": lambda _, value: value == {},
    "dependentSchemas": lambda _, value: value == {},
    "dependencies": lambda _, value: value == {},
    "propertyNames": lambda _, value: _allows_all_names(value),
    "unevaluatedItems": lambda _, value: _allows_all(value),
    "unevaluatedProperties": lambda schema, value: _allows_all(value) or "additionalProperties" in schema,
}
"""Whether a keyword restricts nothing, given its schema and its value."""
