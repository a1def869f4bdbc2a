"""Keywords of one JSON schema that llguidance does not enforce together; pure."""

import re
from collections.abc import Iterator, Mapping

from lllms_core.text.pointers import Path
from lllms_llamacpp.keywords import ADDRESSES, ANNOTATIONS, restricts
from lllms_llamacpp.omissions import Fault

COMPOSED = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
"""llguidance merges a schema with the schemas in these keywords."""
_APART = ANNOTATIONS | ADDRESSES | {"$defs", "definitions"}
"""Keywords that llguidance does not merge."""
_ITS_START = re.compile(r"\^[A-Za-z0-9_-](?![*?+{])")


def count_merges(schema: object) -> int:
    """Return how often each part of a schema may be merged with another: 0 to 2, since references repeat parts."""
    merges, refers = False, False
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            together = part.keys() - _APART
            conditions = part.get("allOf")
            merges |= bool(together & COMPOSED) and len(together) > 1
            merges |= isinstance(conditions, list) and len(conditions) > 1
            refers |= "$ref" in part
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return merges * (1 + refers)


def find_combined(schema: Mapping[str, object], path: Path, *, merged: bool) -> Iterator[Fault]:
    """Yield the faults; if a schema is `merged` with others, llguidance may see more than it contains."""
    if "prefixItems" in schema and isinstance(schema.get("items"), list):
        yield Fault(path, "'prefixItems' and an array in 'items' are not supported together")
    if "prefixItems" in schema and "additionalItems" in schema:
        text = "'additionalItems' has no effect beside 'prefixItems'; use 'items'"
        yield Fault(path, text, (*path, "additionalItems"))
    yield from _counts(schema, path, merged=merged)
    yield from _expressions(schema, path, merged=merged)


def _counts(schema: Mapping[str, object], path: Path, *, merged: bool) -> Iterator[Fault]:
    required, properties = schema.get("required"), schema.get("properties")
    names = {*map(str, required)} if isinstance(required, list) else set()
    optional = isinstance(properties, Mapping) and not properties.keys() <= names
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    for keyword in ("minProperties", "maxProperties"):
        count, here = schema.get(keyword), (*path, keyword)
        if not isinstance(count, int) or not restricts(schema, keyword, count):
            continue
        if optional:
            text = f"'{keyword}': {count} cannot be enforced beside optional 'properties'; name them in 'required'"
            yield Fault(path, text, here, sure=False)
        elif keyword == "minProperties" and count > max(1, len(names)) and not closed:
            yield Fault(
                path, f"'minProperties': {count} cannot be enforced, because other properties may occur twice; "
                "name them in 'required', or set 'additionalProperties' to false", here,
            )
        elif merged:
            yield Fault(path, f"'{keyword}': {count} may meet optional 'properties'", here, sure=False)


def _expressions(schema: Mapping[str, object], path: Path, *, merged: bool) -> Iterator[Fault]:
    """Yield a fault for each expression where a name may also match another one, as far as can be decided."""
    patterns = schema.get("patternProperties")
    if not isinstance(patterns, Mapping):
        return
    instead = {"additionalProperties": True} if schema.get("additionalProperties") is False else {}
    starts: set[str] = set()
    for pattern in patterns:
        start = _ITS_START.match(pattern)
        apart = start is not None and start[0] not in starts and "|" not in pattern
        if merged or (len(patterns) > 1 and not apart):
            text = "a name may match several of its expressions"
            target = (*path, "patternProperties", pattern)
            yield Fault((*path, "patternProperties"), text, target, instead, sure=False)
        elif start is not None:
            starts.add(start[0])
