"""Resolves what the schema of a tool's arguments allows, through references and combinations; pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import cast

from lllms_core.chat.object_fields import Fields, combined, exactly, few, fields_of
from lllms_core.chat.schema_words import (
    NOTES,
    OF_TYPE,
    TYPES,
    Inexpressible,
    JsonSchema,
    check_known,
    listed,
    type_of,
    values_of,
)

_MOST_VISITS = 5000
_LONGEST = 128 * 1024
"""The most characters in all documents of one tool."""
_DEEPEST = 64


class ToolSchema:
    """The schema of one tool's arguments. All methods raise `Inexpressible` if they cannot decide."""

    def __init__(self, root: Mapping[str, object]) -> None:
        self._root = root
        self._refers = "$ref" in json.dumps(root)
        self._visits = 0
        self._length = 0

    def document(self, schema: JsonSchema) -> str:
        """Return a part of the schema as a separate JSON document."""
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
        """Count a visit of a part of the schema, since recursive parts may be visited without end."""
        self._visits += 1
        if self._visits > _MOST_VISITS:
            raise Inexpressible("it is too large")

    def _reachable(self, schema: object) -> Mapping[str, object]:
        """Return the definitions that a schema refers to, or the whole schema if it refers to anything else."""
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
                allowed &= frozenset().union(*(self.types(one, depth + 1) for one in listed(schema[either])))
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
        own = OF_TYPE.get("number" if kind == "integer" else kind, frozenset())
        others = frozenset().union(*OF_TYPE.values()) - own
        if schema.keys() - NOTES - others - {"anyOf", "oneOf", "allOf", "$ref"}:
            return False
        if "oneOf" in schema or ("anyOf" in schema and not any(
            self.allows_all(one, kind, depth + 1) for one in listed(schema["anyOf"])
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
        if "object" not in self.types(schema):
            return []
        check_known(schema)
        found = [fields_of(schema)]
        if (values := values_of(schema)) is not None:
            exact = [exactly(value) for value in values if isinstance(value, Mapping)]
            found = combined(found, exact)
        for one in self._both(schema):
            found = combined(found, self.ways(one, depth + 1))
        for either in ("anyOf", "oneOf"):
            if either in schema:
                options = [combined(found, self.ways(one, depth + 1)) for one in listed(schema[either])]
                if either == "oneOf":
                    self._check_disjoint(options)
                found = few([way for option in options for way in option])
        return found

    def _both(self, schema: Mapping[str, object]) -> Iterable[JsonSchema]:
        """Yield the schemas that all values must also conform to."""
        if "$ref" in schema:
            yield self.target(schema["$ref"])
        if "allOf" in schema:
            yield from listed(schema["allOf"])

    def _check_disjoint(self, options: Sequence[Sequence[Fields]]) -> None:
        """Refuse alternatives that one object might match at once: a required key must tell them apart."""
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
    """Return one schema for values that must conform to all of these."""
    return schemas[0] if len(schemas) == 1 else {"allOf": [*schemas]} if schemas else True


def _known(schemas: Iterable[JsonSchema]) -> Sequence[object] | None:
    """Return the values to which one of the schemas limits a property, if any does."""
    found = (values_of(one) for one in schemas if isinstance(one, Mapping))
    return next((values for values in found if values is not None), None)


def _moved(part: object) -> object:
    """Return a part of a schema in which references to the whole schema become `#/$defs/tool`."""
    if isinstance(part, Mapping):
        return {
            key: "#/$defs/tool" + one[1:] if key == "$ref" and isinstance(one, str) and one.startswith("#") else
            _moved(one) for key, one in part.items()
        }
    return [_moved(one) for one in part] if isinstance(part, list | tuple) else part


