"""What the schema of a tool's arguments allows, without references and combinations; pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import cast

from attrs import field, frozen

JsonSchema = object
"""A JSON schema: a mapping or a boolean."""
TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
"""The types of JSON; an `integer` is a number without a fraction, `number` stands for all others."""
NOTES = frozenset({
    "type", "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment",
    "$schema", "$id", "$defs", "definitions",
})
"""Keywords that restrict nothing but the type."""
_OF_TYPE: Mapping[str, frozenset[str]] = {
    "string": frozenset({"pattern", "minLength", "maxLength", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "array": frozenset({"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset({
        "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
    }),
}
"""Keywords that restrict values of one type only."""
_KNOWN = NOTES.union(*_OF_TYPE.values()) | {
    "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "nullable", "$anchor", "id", "discriminator", "contentEncoding",
    "contentMediaType", "contentSchema", "contains", "minContains", "maxContains", "unevaluatedItems",
}
OF_OBJECTS = frozenset({
    "dependencies", "dependentRequired", "dependentSchemas", "propertyNames", "unevaluatedProperties",
})
"""Keywords that restrict only objects, and that nothing here understands."""
_MOST_WAYS = 32
_MOST_VISITS = 5000
_LONGEST = 128 * 1024
"""The most characters of all documents of one tool."""
_DEEPEST = 64


class Inexpressible(Exception):
    """The form of calls has no grammar for a schema; its text is the reason."""


@frozen
class Fields:
    """One way in which an object conforms to a schema."""

    properties: Mapping[str, tuple[JsonSchema, ...]] = field(factory=dict)
    """By key, the schemas that its value has to conform to."""
    required: tuple[str, ...] = ()
    others: tuple[JsonSchema, ...] | None = ()
    """The schemas for the values of all other keys; None if there may be no others."""
    patterns: Mapping[str, JsonSchema] = field(factory=dict)
    """By pattern, the schema for the values of the keys that match it; `others` does not apply to them.

    Then there are no `properties`: whether those match a pattern is a question that may take forever.
    """
    least: int = 0
    most: int | None = None

    @property
    def open(self) -> bool:
        """Whether other keys are worth writing: the schema names none, or speaks of others."""
        return bool(self.patterns) or (self.others is not None and bool(self.others or not self.properties))

    def of(self, key: str) -> tuple[JsonSchema, ...] | None:
        """Return the schemas for a key; None if it is not allowed."""
        return self.properties.get(key, self.others)


class ToolSchema:
    """The schema of one tool's arguments. All methods raise `Inexpressible` for what they cannot tell."""

    def __init__(self, root: Mapping[str, object]) -> None:
        self._root = root
        self._refers = "$ref" in json.dumps(root)
        self._visits = 0
        self._length = 0

    def document(self, schema: JsonSchema) -> str:
        """Return a part of the schema as a document of its own, as JSON."""
        if not isinstance(schema, Mapping):
            schema = {} if schema is True else {"enum": []}
        text = json.dumps(schema)
        if self._refers and "$ref" in text:
            root = _moved(self._reachable(schema))
            text = json.dumps({**cast(dict[str, object], _moved(schema)), "$defs": {"tool": root}})
        self._length += len(text)
        if self._length > _LONGEST:
            raise Inexpressible("it is too large")
        return text

    def target(self, reference: object) -> JsonSchema:
        """Return the schema that a reference means."""
        text = str(reference)
        found: object = self._root
        if not text.startswith("#"):
            raise Inexpressible(f"the reference '{text[:80]}' leads out of the schema")
        for part in text[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and key in found:
                found = found[key]
            elif isinstance(found, Sequence) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                raise Inexpressible(f"the reference '{text[:80]}' leads nowhere")
        return found

    def visit(self) -> None:
        """Count a look at a part of the schema: parts that refer to parts may be looked at without end."""
        self._visits += 1
        if self._visits > _MOST_VISITS:
            raise Inexpressible("it is too large")

    def _reachable(self, schema: object) -> Mapping[str, object]:
        """Return the definitions that a schema refers to, or the whole schema if it refers to other parts."""
        found: dict[str, dict[str, object]] = {}
        waiting = [schema]
        while waiting:
            part = waiting.pop()
            self.visit()
            if isinstance(part, Mapping):
                reference = part.get("$ref")
                if isinstance(reference, str):
                    section, _, name = reference.removeprefix("#/").partition("/")
                    if section not in {"$defs", "definitions"} or "/" in name or "~" in name:
                        return self._root
                    if name not in found.setdefault(section, {}):
                        found[section][name] = self.target(reference)
                        waiting.append(found[section][name])
                waiting += part.values()
            elif isinstance(part, list | tuple):
                waiting += part
        return found

    def types(self, schema: JsonSchema, depth: int = 0) -> frozenset[str]:
        """Return the types that values may have."""
        self.visit()
        if not isinstance(schema, Mapping):
            return frozenset() if schema is False else TYPES
        if depth > _DEEPEST:
            return TYPES  # it refers to itself
        named = schema.get("type", None)
        kinds = {named} if isinstance(named, str) else set(named) if isinstance(named, Sequence) else set(TYPES)
        allowed = (TYPES & kinds) | (frozenset({"integer"}) if "number" in kinds else frozenset())
        if (values := values_of(schema)) is not None:
            allowed &= {type_of(value) for value in values}
        allowed |= {"null"} if schema.get("nullable") is True else frozenset()
        for either in ("anyOf", "oneOf"):
            if either in schema:
                allowed &= frozenset().union(*(self.types(one, depth + 1) for one in _list(schema[either])))
        for one in self._both(schema):
            allowed &= self.types(one, depth + 1)
        return allowed

    def allows_all(self, schema: JsonSchema, kind: str, depth: int = 0) -> bool:
        """Whether every value of a type is allowed."""
        self.visit()
        if not isinstance(schema, Mapping):
            return schema is not False
        if depth > _DEEPEST or values_of(schema) is not None or kind not in self.types(schema):
            return False
        own = _OF_TYPE.get("number" if kind == "integer" else kind, frozenset())
        others = frozenset().union(*_OF_TYPE.values()) - own
        if schema.keys() - NOTES - others - {"anyOf", "oneOf", "allOf", "$ref"}:
            return False
        if "oneOf" in schema or ("anyOf" in schema and not any(
            self.allows_all(one, kind, depth + 1) for one in _list(schema["anyOf"])
        )):
            return False
        return all(self.allows_all(one, kind, depth + 1) for one in self._both(schema))

    def ways(self, schema: JsonSchema, depth: int = 0) -> list[Fields]:
        """Return all ways in which an object can conform to a schema."""
        self.visit()
        if not isinstance(schema, Mapping):
            return [] if schema is False else [Fields()]
        if depth > _DEEPEST:
            raise Inexpressible("it refers to itself without end")
        check_known(schema)
        found = [_own(schema)]
        if (values := values_of(schema)) is not None:
            exact = [_exact(value) for value in values if isinstance(value, Mapping)]
            found = _combined(found, exact)
        for one in self._both(schema):
            found = _combined(found, self.ways(one, depth + 1))
        for either in ("anyOf", "oneOf"):
            if either in schema:
                options = [_combined(found, self.ways(one, depth + 1)) for one in _list(schema[either])]
                if either == "oneOf":
                    self._check_disjoint(options)
                found = _few([way for option in options for way in option])
        return found

    def _both(self, schema: Mapping[str, object]) -> Iterable[JsonSchema]:
        """Yield the schemas that all values have to conform to as well."""
        if "$ref" in schema:
            yield self.target(schema["$ref"])
        if "allOf" in schema:
            yield from _list(schema["allOf"])

    def _check_disjoint(self, options: Sequence[Sequence[Fields]]) -> None:
        """Refuse alternatives of which one object might be several: a required key tells them apart."""
        for one, other in combinations(options, 2):
            if any(not self._differ(a, b) for a in one for b in other):
                raise Inexpressible(
                    "the alternatives of 'oneOf' do not visibly exclude each other; use 'anyOf'",
                )

    def _differ(self, one: Fields, other: Fields) -> bool:
        for key in {*one.required, *other.required}:
            here, there = one.of(key), other.of(key)
            if here is None or there is None:
                return True
            if key in one.required and key in other.required:
                given = [_known(schemas) for schemas in (here, there)]
                if None not in given and not {*map(json.dumps, given[0] or ())} & {*map(json.dumps, given[1] or ())}:
                    return True
                if not self.types({"allOf": list(here)}) & self.types({"allOf": list(there)}):
                    return True
        return False


def together(schemas: Sequence[JsonSchema]) -> JsonSchema:
    """Return one schema for values that have to conform to all of these."""
    return schemas[0] if len(schemas) == 1 else {"allOf": [*schemas]} if schemas else True


def check_known(schema: Mapping[str, object], besides: frozenset[str] = frozenset()) -> None:
    """Raise `Inexpressible` for a schema with a keyword that nothing here understands, `besides` these."""
    for keyword in sorted(schema.keys() - _KNOWN - besides):
        if keyword == "propertyNames" and schema[keyword] in (True, {}, {"type": "string"}):
            continue
        if not keyword.startswith("x-"):
            raise Inexpressible(f"it has the keyword '{keyword[:80]}'")


def values_of(schema: Mapping[str, object]) -> Sequence[object] | None:
    """Return the only values that `enum` and `const` allow; None without those."""
    values = [*_list(schema["enum"])] if "enum" in schema else None
    if "const" in schema:
        const = schema["const"]
        return [const] if values is None or any(_same(const, one) for one in values) else []
    return values


def type_of(value: object) -> str:
    """Return the type of a JSON value."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if float(value).is_integer() else "number"
    known = {str: "string", type(None): "null", dict: "object", list: "array"}
    return known.get(type(value), "object")


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _known(schemas: Iterable[JsonSchema]) -> Sequence[object] | None:
    """Return the values that one of the schemas limits a property to, if any does."""
    found = (values_of(one) for one in schemas if isinstance(one, Mapping))
    return next((values for values in found if values is not None), None)


def _own(schema: Mapping[str, object]) -> Fields:
    """Return what the keywords of a schema itself say of objects."""
    named = schema.get("properties")
    properties = named if isinstance(named, Mapping) else {}
    patterns = schema.get("patternProperties")
    others = schema.get("additionalProperties")
    found = Fields(
        {key: () if one is True else (one,) for key, one in properties.items()},
        tuple(str(key) for key in _list(schema.get("required"))),
        None if others is False else () if others is None else (others,),
        dict(patterns) if isinstance(patterns, Mapping) else {},
        _count(schema.get("minProperties")) or 0, _count(schema.get("maxProperties")),
    )
    if found.patterns and (found.properties or found.required):
        raise Inexpressible("it has 'patternProperties' beside other keys")
    return found


def _exact(value: Mapping[str, object]) -> Fields:
    """Return the only way to be this object."""
    return Fields({key: ({"const": one},) for key, one in value.items()}, tuple(value), None)


def _combined(some: Sequence[Fields], others: Sequence[Fields]) -> list[Fields]:
    found = [way for one in some for other in others if (way := _merged(one, other)) is not None]
    return _few(found)


def _few(ways: list[Fields]) -> list[Fields]:
    if len(ways) > _MOST_WAYS:
        raise Inexpressible(f"its combinations allow more than {_MOST_WAYS} kinds of objects")
    return ways


def _merged(one: Fields, other: Fields) -> Fields | None:
    """Return the way to be both; None if there is none."""
    for this, that in ((one, other), (other, one)):
        if this.patterns and (that.patterns or that.properties or that.required or that.others != ()):
            raise Inexpressible("it has 'patternProperties' beside other keys")
    properties = {}
    for key in dict.fromkeys((*one.properties, *other.properties)):
        here, there = one.of(key), other.of(key)
        if here is None or there is None:
            if key in one.required or key in other.required:
                return None
        else:
            properties[key] = _distinct((*here, *there))
    bounds = [most for most in (one.most, other.most) if most is not None]
    return Fields(
        properties, tuple(dict.fromkeys((*one.required, *other.required))),
        None if one.others is None or other.others is None else (*one.others, *other.others),
        {**one.patterns, **other.patterns}, max(one.least, other.least), min(bounds) if bounds else None,
    )


def _distinct(schemas: Sequence[JsonSchema]) -> tuple[JsonSchema, ...]:
    found: list[JsonSchema] = []
    for schema in schemas:
        if not any(_same(schema, one) for one in found):
            found.append(schema)
    return tuple(found)


def _moved(part: object) -> object:
    """Return a part of a schema whose references lead to the whole schema as `#/$defs/tool`."""
    if isinstance(part, Mapping):
        return {
            key: "#/$defs/tool" + one[1:] if key == "$ref" and isinstance(one, str) and one.startswith("#") else
            _moved(one) for key, one in part.items()
        }
    return [_moved(one) for one in part] if isinstance(part, list | tuple) else part


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None
