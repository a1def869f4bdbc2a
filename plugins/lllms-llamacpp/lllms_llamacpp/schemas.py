"""Finds JSON schemas that cannot be enforced exactly; pure. It finds what llguidance would silently ignore."""

import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite

from attrs import frozen

Path = tuple[str | int, ...]

_ONE = frozenset({"additionalProperties", "additionalItems", "items"})
"""Keywords whose value is a schema."""
_MANY = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
"""Keywords whose value is an array of schemas."""
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Keywords whose value is an object of schemas."""
_VALUES = frozenset({
    "const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
})
"""Keywords whose numbers or values an answer is compared with."""
_OTHERS = frozenset({
    "$ref", "type", "required", "minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength",
    "pattern", "format",
})
_ANNOTATIONS = frozenset({
    "$schema", "$id", "id", "$anchor", "$comment", "title", "description", "default", "examples", "example",
    "readOnly", "writeOnly", "deprecated", "discriminator",
})
"""Keywords that do not affect validity, except by naming the targets of references."""
KEYWORDS = _ONE | _MANY | _NAMED | _VALUES | _OTHERS | _ANNOTATIONS

FORMATS = frozenset({
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
})
_EXACT_DIGITS = 15
_EXACT_INTEGER = 2**53
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that JSON can only write as \\uXXXX, which is not generated: it could spell a property's name again."""


@frozen
class Fault:
    """A part of a schema that cannot be enforced."""

    path: Path
    text: str

    def __str__(self) -> str:
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path).lstrip(".")
        return f"in {where}: {self.text}" if where else self.text


def find_fault(schema: object) -> Fault | None:
    """Return the first part of a schema that would not be enforced, and that llguidance itself does not refuse."""
    return next(_faults(schema, ()), None)


def _faults(schema: object, path: Path) -> Iterator[Fault]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield Fault(path, f"a schema is an object or a boolean, not {json.dumps(schema)[:40]}")
        return
    for keyword, value in schema.items():
        here = (*path, keyword)
        if keyword not in KEYWORDS and (not keyword.startswith("x-") or keyword == "x-guidance"):
            yield Fault(path, f"the keyword '{keyword}' is not supported{_way_out(keyword)}")
        elif keyword in _VALUES:
            yield from (Fault(here, text) for text in _inexact(value))
        elif keyword in _NAMED and isinstance(value, Mapping):
            for name, one in value.items():
                yield from _unwritable(name, here)
                yield from _faults(one, (*here, name))
        elif keyword in _MANY and isinstance(value, list):
            for index, one in enumerate(value):
                yield from _faults(one, (*here, index))
        elif keyword in _ONE:
            yield from _faults(value, here)
    yield from _combinations(schema, path)


def _combinations(schema: Mapping[str, object], path: Path) -> Iterator[Fault]:
    """Yield faults that depend on several keywords, or on the value of one."""
    form = schema.get("format")
    if isinstance(form, str) and form not in FORMATS:
        yield Fault(path, f"the format '{form}' is not supported; there are: {', '.join(sorted(FORMATS))}")
    items = schema.get("items")
    if "additionalItems" in schema and not isinstance(items, list):
        yield Fault(path, "'additionalItems' has no effect without an array in 'items'; use 'items'")
    if "prefixItems" in schema and isinstance(items, list):
        yield Fault(path, "'prefixItems' and an array in 'items' are not supported together")
    required = schema.get("required")
    names = set(map(str, required)) if isinstance(required, list) else set()
    for name in names:
        yield from _unwritable(name, (*path, "required"))
    least = schema.get("minProperties")
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    if isinstance(least, int | float) and least > max(1, len(names)) and not closed:
        yield Fault(
            path, f"'minProperties': {least} cannot be enforced, because other properties may occur twice; "
            "name them in 'required', or set 'additionalProperties' to false",
        )


def _inexact(value: object) -> Iterator[str]:
    """Yield the parts of a value that would not be written exactly."""
    if isinstance(value, bool):
        return
    if isinstance(value, int) and abs(value) > _EXACT_INTEGER:
        yield f"the number {str(value)[:40]} is too large to be exact"
    elif isinstance(value, float) and not isfinite(value):
        yield "a number is too large"
    elif isinstance(value, float) and float(f"{value:.{_EXACT_DIGITS}g}") != value:
        yield f"the number {value!r} has more than {_EXACT_DIGITS} digits, too many to be exact"
    elif isinstance(value, str) and _UNWRITABLE.search(value):
        yield f"the text {json.dumps(value)[:40]} has control characters that are not generated"
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _inexact(name)
            yield from _inexact(one)
    elif isinstance(value, list):
        for one in value:
            yield from _inexact(one)


def _unwritable(name: str, path: Path) -> Iterator[Fault]:
    yield from (Fault(path, text) for text in _inexact(name))


def _way_out(keyword: str) -> str:
    if keyword == "nullable":
        return '; write "type": ["string", "null"] or the like'
    if keyword == "x-guidance":
        return ", because it would change the meaning of the others"
    return "; leave it out"
