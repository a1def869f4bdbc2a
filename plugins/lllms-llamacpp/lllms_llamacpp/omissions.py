"""Restrictions of a JSON schema that cannot be enforced, and the schema without them."""

from collections.abc import Mapping, Sequence
from typing import cast

from attrs import field, frozen

from lllms_core.text.pointers import Path


@frozen
class Fault:
    """A restriction that cannot be enforced, or a malformed part."""

    path: Path
    """Its place, for messages."""
    text: str
    target: Path = ()
    """The keyword, or the member of its value, that can be left out; () for a malformed part."""
    instead: Mapping[str, object] = field(factory=dict)
    """The keywords to add in its place, unless they are already there."""
    sure: bool = True
    """Whether llguidance would ignore it; if not, it may refuse it itself."""

    def __str__(self) -> str:
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path).lstrip(".")
        return f"in {where}: {self.text}" if where else self.text


def leave_out(schema: object, faults: Sequence[Fault]) -> None:
    """Remove the targets of faults from a schema, in place."""
    # Nested ones first, so that the replacements of the outer ones lack them.
    for fault in sorted(faults, key=lambda one: -len(one.target)):
        *path, keyword = fault.target
        parent = _follow(schema, path)
        if not isinstance(parent, dict) or keyword not in parent:
            continue
        del parent[keyword]
        # An expression of `patternProperties`, or a name of `properties`, belongs to the schema around it.
        outer = _follow(schema, path[:-1]) if path and path[-1] in {"patternProperties", "properties"} else parent
        for added, value in fault.instead.items():
            if added == "additionalProperties":
                cast("dict[str, object]", outer)[added] = value
            elif added not in parent:
                parent[added] = value
            elif added == "anyOf":
                parent["allOf"] = [*cast("list[object]", parent.get("allOf", [])), {"anyOf": value}]


def _follow(value: object, path: Sequence[str | int]) -> object:
    for key in path:
        try:
            value = cast("dict[str | int, object]", value)[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value
