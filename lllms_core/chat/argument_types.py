"""The JSON types that a tool's schema allows an argument; pure."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import unquote

K = TypeVar("K")
T = TypeVar("T")
Types = frozenset[str]

ANY: Types = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_NUMBERS = frozenset({"number", "integer"})
_CHOICES = ("anyOf", "oneOf")


class ArgumentTypes:
    """Reads the schema of a tool's arguments. Parts that it does not understand restrict nothing."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        self._root = schema
        self._types: dict[str, Types] = {}
        """The types of each reference's target; all types while it is being followed."""
        self._values: dict[str, Sequence[object]] = {}
        self._arguments: dict[tuple[str, str], Types | None] = {}

    def names(self) -> frozenset[str]:
        """Return the names of the arguments that the schema lists."""
        return frozenset(name for part in self._parts() for name in _properties(part))

    def of(self, name: str) -> Types:
        """Return the types that an argument may have."""
        try:
            return self._of_argument(self._root, name) or ANY
        except RecursionError:  # references that lead to references, hundreds of times
            return ANY

    def listed(self, name: str) -> Sequence[object]:
        """Return the values that an argument may have, if the schema lists them all; otherwise none."""
        try:
            found = (self._listed(_properties(part)[name]) for part in self._parts() if name in _properties(part))
            return next(filter(None, found), ())
        except RecursionError:
            return ()

    def _parts(self) -> Iterator[Mapping[str, object]]:
        """Yield the schema and all schemas combined in it, also by reference."""
        seen: set[str] = set()
        waiting: list[object] = [self._root]
        while waiting:
            schema = waiting.pop()
            if not isinstance(schema, Mapping):
                continue
            yield schema
            ref = schema.get("$ref")
            if isinstance(ref, str) and ref not in seen:
                seen.add(ref)
                waiting.append(self._target(ref))
            waiting += (part for key in ("allOf", *_CHOICES) for part in _list(schema.get(key)))

    def _of_argument(self, schema: object, name: str) -> Types | None:
        """Return the types that the schema of an object allows for an argument; None if it does not say."""
        if not isinstance(schema, Mapping):
            return None
        properties, others, ref = _properties(schema), schema.get("additionalProperties"), schema.get("$ref")
        known: list[Types | None] = []
        if name in properties:
            known.append(self._of(properties[name]))
        elif isinstance(others, Mapping):
            known.append(self._of(others))
        if isinstance(ref, str):
            target = self._target(ref)
            known.append(_once(self._arguments, (ref, name), None, lambda: self._of_argument(target, name)))
        known += (self._of_argument(part, name) for part in _list(schema.get("allOf")))
        for key in _CHOICES:
            choices = [self._of_argument(part, name) for part in _list(schema.get(key))]
            known.append(frozenset[str]().union(*filter(None, choices)) or None)
        told = [types for types in known if types is not None]
        return ANY.intersection(*told) if told else None

    def _of(self, schema: object) -> Types:
        """Return the types of the values that a schema allows."""
        if not isinstance(schema, Mapping):
            return frozenset() if schema is False else ANY
        types = ANY & _named(schema.get("type"))
        if "const" in schema or _list(schema.get("enum")):
            types &= frozenset(map(type_of, self._listed(schema)))
        if isinstance(ref := schema.get("$ref"), str):
            types &= self._behind(ref)
        for part in _list(schema.get("allOf")):
            types &= self._of(part)
        for key in _CHOICES:
            if choices := _list(schema.get(key)):
                types &= frozenset[str]().union(*map(self._of, choices))
        return types | {"null"} if schema.get("nullable") is True else types

    def _behind(self, ref: str) -> Types:
        return _once(self._types, ref, ANY, lambda: self._of(self._target(ref)))

    def _listed(self, schema: object) -> Sequence[object]:
        """Return the values of a schema that lists them all."""
        if not isinstance(schema, Mapping):
            return ()
        found = (schema["const"],) if "const" in schema else _list(schema.get("enum"))
        if not found and isinstance(ref := schema.get("$ref"), str):
            target = self._target(ref)
            found = _once(self._values, ref, (), lambda: self._listed(target))
        if not found:
            found = next(filter(None, map(self._listed, _list(schema.get("allOf")))), ())
        for key in _CHOICES:
            choices = [] if found else [self._listed(part) for part in _list(schema.get(key))]
            found = [value for values in choices for value in values] if choices and all(choices) else found
        return found

    def _target(self, ref: str) -> object:
        """Return the part of the schema that a reference points to; True, which restricts nothing, for any other."""
        place: object = self._root
        if not ref.startswith("#"):
            return True
        for step in ref[1:].split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping) and key in place:
                place = place[key]
            elif isinstance(place, list | tuple) and key.isdecimal() and int(key) < len(place):
                place = place[int(key)]
            else:
                return True
        return place


def names_within(schema: object) -> frozenset[str]:
    """Return the names of all properties in a schema, at any depth."""
    names: set[str] = set()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            names |= _properties(part).keys()
            waiting += part.values()
        else:
            waiting += _list(part)
    return frozenset(names)


def type_of(value: object) -> str:
    """Return the JSON type of a value; a number without a fraction is an integer."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list | tuple) else "object"


def equal(one: object, other: object) -> bool:
    """Whether two values are the same JSON: 1 is not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _once(known: dict[K, T], key: K, meanwhile: T, find: Callable[[], T]) -> T:
    """Return the known value for a key, or find it; a search that leads back to itself gets `meanwhile`."""
    if key not in known:
        known[key] = meanwhile
        known[key] = find()
    return known[key]


def _named(kind: object) -> Types:
    """Return the types that the keyword `type` names."""
    kinds = frozenset(one for one in ([kind] if isinstance(kind, str) else _list(kind)) if isinstance(one, str)) & ANY
    return (kinds | _NUMBERS if "number" in kinds else kinds) or ANY


def _properties(schema: Mapping[str, object]) -> Mapping[str, object]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
