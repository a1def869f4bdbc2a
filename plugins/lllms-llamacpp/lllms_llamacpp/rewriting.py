"""Keywords of a JSON schema in terms of others; pure."""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from lllms_llamacpp.keywords import ANNOTATIONS
from lllms_llamacpp.patterns import Unreadable, translate_pattern
from lllms_llamacpp.proofs import Proofs

_MOST_CHARACTERS = 1 << 16
"""The most characters in the written-out schemas of properties, as JSON."""
_OF_LENGTHS = {"minLength", "maxLength"}
_OUTSIDE = frozenset({"$schema", "$id", "id", "$anchor", "$defs", "definitions"})


def restrict_names(fitted: dict[str, object], names: object, proofs: Proofs) -> bool:
    """Restrict a translated schema to properties whose names fit a schema; return False if that is impossible."""
    if fitted.keys() & {"patternProperties", "minProperties", "maxProperties"}:
        return False
    others = fitted.get("additionalProperties", True)
    properties = cast("Mapping[str, object]", fitted.get("properties", {}))
    listed = proofs.values(names)
    if listed is not None:
        allowed = dict.fromkeys(name for name in listed if isinstance(name, str))
        if len(allowed) * len(json.dumps(others)) > _MOST_CHARACTERS:
            return False
        kept = {name: one for name, one in properties.items() if name in allowed}
        added = {name: others for name in allowed if name not in kept and others is not False}
        fitted |= {"properties": {**kept, **added}, "additionalProperties": False}
        return True
    pattern = _pattern(names)
    if pattern is None or properties:
        return False
    fitted |= {"patternProperties": {pattern: others}, "additionalProperties": False}
    return True


def _pattern(names: object) -> str | None:
    """Return the expression of all strings that fit a schema, if it has only one restriction."""
    if not isinstance(names, Mapping):
        return None
    given = {key: value for key, value in names.items() if key not in ANNOTATIONS and key != "type"}
    if names.get("type", "string") != "string":
        return None
    if given.keys() == {"pattern"} and isinstance(given["pattern"], str):
        try:
            first, *more = translate_pattern(given["pattern"])
        except Unreadable:
            return None
        return None if more else first
    if given and given.keys() <= _OF_LENGTHS and all(type(value) is int for value in given.values()):
        return rf"^(?s:.{{{given.get('minLength', 0)},{given.get('maxLength', '')}}})$"
    return None


def with_null(fitted: dict[str, object]) -> dict[str, object]:
    """Allow null beside the values of a translated schema, as OpenAPI's `nullable` does."""
    named = fitted.get("type")
    if isinstance(named, str | list):
        types: Sequence[object] = [named] if isinstance(named, str) else named
        return fitted if "null" in types else {**fitted, "type": [*types, "null"]}
    if fitted.keys() & {"enum", "const"} or not fitted.keys() - _OUTSIDE:
        return fitted
    outside = {key: fitted.pop(key) for key in _OUTSIDE & fitted.keys()}
    return {**outside, "anyOf": [fitted, {"type": "null"}]}
