"""JSON schemas of the tables that `structure` takes, made from their classes; pure."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import attrs
from attrs import define, field
from cattrs.cols import is_mapping

from lllms_core.values.attribute_docs import attribute_docs
from lllms_core.values.structure import UNIONS, Bytes, Range, Reads

Schema = dict[str, object]

SIZE = r"^\s*\d+(\.\d+)?\s*[kKmMgGtT]?[iI]?[bB]?\s*$"
"""The form of a size in words, as `Bytes` reads it."""
_SCALARS: Mapping[object, str] = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}


@define
class ClassSchemas:
    """Collects the schemas of classes, each once, under the names by which schemas refer to them."""

    definitions: dict[str, Schema] = field(factory=dict)
    _names: dict[type, str] = field(factory=dict)

    def of(self, kind: Any) -> Schema:
        """Return the schema of the values of a type; a type that is not known takes anything."""
        origin = get_origin(kind)
        if kind in _SCALARS or origin is Literal:
            return {"type": _SCALARS[kind]} if kind in _SCALARS else {"enum": [*get_args(kind)]}
        if origin is Annotated:
            return self._annotated(kind)
        if origin in UNIONS:
            # TOML has no null: an optional key is left out.
            members = [self.of(member) for member in get_args(kind) if member is not NoneType]
            return members[0] if len(members) == 1 else {"anyOf": members}
        if is_mapping(kind) or (origin or kind) in (list, tuple, Sequence):
            return self._collection(kind)
        return self._class(kind) if isinstance(kind, type) else {}

    def refer(self, kind: type, name: str | None = None) -> Schema:
        """Return a reference to the schema of an attrs class, which gets this name if it has none yet."""
        if kind not in self._names:
            name = name or kind.__qualname__
            while name in self.definitions:  # another class of that name
                name += "_"
            self._names[kind] = name
            self.definitions[name] = {}  # a class may refer to itself
            self.definitions[name] = self._table(kind)
        return {"$ref": f"#/definitions/{self._names[kind]}"}

    def _table(self, kind: type) -> Schema:
        hints, docs = get_type_hints(kind, include_extras=True), attribute_docs(kind)
        known = [attribute for attribute in attrs.fields(kind) if attribute.init]
        properties = {one.name: _told(self.of(hints[one.name]), docs.get(one.name, ""), one.default) for one in known}
        required = [one.name for one in known if one.default is attrs.NOTHING]
        table: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if kind.__doc__:
            table["description"] = " ".join(kind.__doc__.split())
        return {**table, "required": required} if required else table

    def _collection(self, kind: Any) -> Schema:
        arguments = [one for one in get_args(kind) if one is not ...]
        if is_mapping(kind):
            return {"type": "object", "additionalProperties": self.of(arguments[1]) if arguments else True}
        return {"type": "array", **({"items": self.of(arguments[0])} if len(arguments) == 1 else {})}

    def _class(self, kind: type) -> Schema:
        if issubclass(kind, Enum):
            return {"enum": [one.value for one in kind]}
        return self.refer(kind) if attrs.has(kind) else {}

    def _annotated(self, kind: Any) -> Schema:
        base, *markers = get_args(kind)
        schema = self.of(base)
        for marker in markers:
            if isinstance(marker, Range):
                limits = {"minimum": marker.minimum, "maximum": marker.maximum}
                schema |= {name: limit for name, limit in limits.items() if abs(limit) != float("inf")}
            elif isinstance(marker, Bytes):
                schema = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": SIZE}]}
            elif isinstance(marker, Reads):
                schema = dict(marker.schema)
        return schema


def _told(schema: Schema, text: str, default: object) -> Schema:
    """Return a key's schema with its description and its default."""
    if "$ref" in schema and text:
        schema = {"allOf": [schema]}  # what stands beside a reference is ignored
    if text:
        schema = {**schema, "description": text}
    plain = list(default) if isinstance(default, tuple) else default
    if isinstance(plain, bool | int | float | str) or plain == []:
        schema = {**schema, "default": plain}
    return schema
