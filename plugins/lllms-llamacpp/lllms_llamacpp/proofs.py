"""Proofs about JSON schemas: all values of a schema, or that two schemas have none in common; pure.

Each proof is a bounded search: what it does not find is not proved.
"""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from lllms_core.text.pointers import read_pointer
from lllms_llamacpp.keywords import ADDRESSES, ANNOTATIONS

ALL_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_STEPS = 5_000
"""The most schemas visited for all proofs about one schema: some 0.1 seconds."""
_FEW = 64
"""The most integers in a range."""
_OF_VALUES = (frozenset({"type", "const"}), frozenset({"type", "enum"}))
_SILENT = ANNOTATIONS | ADDRESSES | {"$defs", "definitions"}
_OF_RANGES = frozenset({"type", "minimum", "maximum"})


class Proofs:
    """Proofs about the parts of one schema."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._steps = _STEPS

    def resolve(self, schema: object) -> object:
        """Follow the references of a schema that consists of nothing else."""
        for _ in range(_FEW):
            if not isinstance(schema, Mapping) or "$ref" not in schema or _restrictions(schema) != {"$ref"}:
                return schema
            target = self.find(schema["$ref"])
            if target is None:
                return schema
            schema = target
        return schema

    def find(self, reference: object) -> object:
        """Return the part that a reference inside the schema names by its path; None if it is missing."""
        keys = read_pointer(reference) if isinstance(reference, str) else None
        part = None if keys is None else self._root
        for key in keys or ():
            if isinstance(part, Mapping) and key in part:
                part = part[key]
            elif isinstance(part, list) and key.isdigit() and int(key) < len(part):
                part = part[int(key)]
            else:
                return None
        return part

    def values(self, schema: object) -> list[object] | None:
        """Return all values that a schema allows, without repetitions; None if they are too many, or uncertain."""
        self._steps -= 1
        schema = self.resolve(schema)
        if self._steps < 0 or not isinstance(schema, Mapping):
            return None
        keys = _restrictions(schema)
        found: Sequence[object] | None = None
        if keys == {"anyOf"} and isinstance(schema["anyOf"], list) and len(schema["anyOf"]) <= _FEW:
            parts = [self.values(one) for one in schema["anyOf"]]
            found = None if None in parts else [value for part in parts for value in part or ()]
        elif keys == _OF_RANGES and schema["type"] == "integer":
            least, most = schema["minimum"], schema["maximum"]
            if isinstance(least, int) and isinstance(most, int) and most - least < _FEW:
                found = list(range(least, most + 1))
        elif keys == {"type"} and types_of(schema) <= {"boolean", "null"}:
            found = [False, True, None]
        elif any(keys <= names for names in _OF_VALUES):
            found = _listed(schema)
        types = types_of(schema)
        return None if found is None else _distinct([one for one in found if type_of(one) in types])

    def exclude_each_other(
        self, schemas: Sequence[object], types: frozenset[str], required: Sequence[str] = (),
    ) -> bool:
        """Whether a value of one of these types certainly fits at most one of the schemas.

        If it is an object, it has the `required` properties.
        """
        if len(schemas) > _FEW and self._steps < len(schemas):
            return False
        resolved = [self.resolve(one) for one in schemas]
        if self._have_no_common_value(resolved):
            return True
        objects = [one for one in resolved if isinstance(one, Mapping) and types & types_of(one) <= {"object"}]
        if objects and len(objects) == len(resolved):
            # By one property, as in discriminated unions: quicker than comparing each pair of schemas.
            for name in [*required, *names_of(objects[0])]:
                if all(name in required or name in names_of(one) for one in objects) and self._have_no_common_value(
                    [_property(one, name) for one in objects]
                ):
                    return True
        return all(
            self._disjoint(one, other, types, 0) or self._differ(one, other, types, required)
            for number, one in enumerate(resolved) for other in resolved[number + 1 :]
        )

    def _have_no_common_value(self, schemas: Sequence[object]) -> bool:
        """Whether all values of the schemas are known, and no value belongs to two of them."""
        known: set[str] = set()
        for one in schemas:
            values = self.values(one)
            keys = {key_of(value) for value in values or ()}
            if values is None or known & keys:
                return False
            known |= keys
        return True

    def _disjoint(self, one: object, other: object, types: frozenset[str], depth: int) -> bool:
        self._steps -= 1
        one, other = self.resolve(one), self.resolve(other)
        if one is False or other is False:
            return True
        if self._steps < 0 or depth > _FEW or not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        common = types & types_of(one) & types_of(other)
        first, second = _listed(one), _listed(other)
        if first is not None and second is not None:
            return {*map(key_of, first)}.isdisjoint(map(key_of, second))
        return (
            not common
            or self._part_excludes(one, other, common, depth)
            or self._part_excludes(other, one, common, depth)
            or self._differ(one, other, common, [*names_of(one), *names_of(other)], depth)
        )

    def _part_excludes(
        self, one: Mapping[str, object], other: object, types: frozenset[str], depth: int,
    ) -> bool:
        """Whether all alternatives of a schema, or one of its conditions, exclude another schema."""
        alternatives = [parts for parts in (one.get("anyOf"), one.get("oneOf")) if isinstance(parts, list) and parts]
        conditions = one.get("allOf")
        referred = [{"$ref": one["$ref"]}] if "$ref" in one else []
        return any(
            all(self._disjoint(part, other, types, depth + 1) for part in parts)
            for parts in (*alternatives, *([part] for part in (*_list(conditions), *referred)))
        )

    def _differ(
        self, one: object, other: object, types: frozenset[str], required: Sequence[str], depth: int = 0,
    ) -> bool:
        """Whether two schemas of objects differ by a required property."""
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        return types & types_of(one) & types_of(other) <= {"object"} and any(
            self._disjoint(_property(one, name), _property(other, name), ALL_TYPES, depth + 1) for name in required
        )


def types_of(schema: Mapping[str, object]) -> frozenset[str]:
    """Return the types that a schema may have; `number` always comes with `integer`."""
    types = ALL_TYPES
    named = schema.get("type")
    if isinstance(named, str | list):
        types = frozenset([named] if isinstance(named, str) else [one for one in named if isinstance(one, str)])
    if "number" in types:
        types |= {"integer"}
    listed = _listed(schema)
    return types if listed is None else types & {type_of(one) for one in listed}


def type_of(value: object) -> str:
    """Return the name of a value's type; `integer` for whole numbers."""
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    return _NAMES[type(value)]


def key_of(value: object) -> str:
    """Return a text that is the same for values that JSON schemas consider equal."""
    return json.dumps(_plain(value), sort_keys=True)


_NAMES: Mapping[type, str] = {
    str: "string", bool: "boolean", int: "integer", dict: "object", list: "array", type(None): "null",
}


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _distinct(values: Sequence[object]) -> list[object]:
    return list({key_of(value): value for value in reversed(values)}.values())[::-1]


def _restrictions(schema: Mapping[str, object]) -> set[str]:
    return {key for key in schema if key not in _SILENT and not key.startswith("x-")}


def _listed(schema: Mapping[str, object]) -> Sequence[object] | None:
    if "const" in schema:
        return [schema["const"]]
    return cast("list[object]", schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def names_of(schema: Mapping[str, object]) -> list[str]:
    """Return the names of the properties that an object must have."""
    required = schema.get("required")
    return [one for one in required if isinstance(one, str)] if isinstance(required, list) else []


def _property(schema: Mapping[str, object], name: str) -> object:
    """Return one schema that a property must fit; there may be others."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)
