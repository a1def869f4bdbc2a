"""Tools for templates that support only plain schemas: one type, no alternatives, no references; pure.

The first alternative that is not null is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from attrs import evolve

from lllms_core.errors import InvalidRequest
from lllms_core.types import Tool

_DEEPEST = 16
_CHOICES = ("anyOf", "oneOf", "allOf")
_KEPT = ("description", "title", "default", "enum", "examples", "minimum", "maximum", "pattern", "format")


def plainer_tools(tools: Sequence[Tool], show: Callable[[Tool], object]) -> list[Tool]:
    """Return the tools, with plain schemas where `show` fails otherwise: prompts show these, grammars the originals.

    `show` renders one tool, or raises `InvalidRequest`. Raises `InvalidRequest` with the name of a tool that it cannot
    render in either form.
    """
    return [tool if _failure(show, tool) is None else _plainer(tool, show) for tool in tools]


def _plainer(tool: Tool, show: Callable[[Tool], object]) -> Tool:
    plain = evolve(tool, parameters=_plain(tool.parameters, tool.parameters, 0))
    if (reason := _failure(show, plain)) is not None:
        raise InvalidRequest(
            f"the model's chat template cannot show the tool '{tool.name}', not even with a plain schema ({reason}); "
            "leave the tool out",
            "tools",
        )
    return plain


def _failure(show: Callable[[Tool], object], tool: Tool) -> str | None:
    try:
        show(tool)
    except InvalidRequest as error:
        return error.message
    return None


def _plain(schema: object, root: Mapping[str, object], depth: int) -> dict[str, object]:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return {"type": "string"}
    given = _chosen(cast("Mapping[str, object]", schema), root)
    kind = _type(given)
    plain: dict[str, object] = {"type": kind, **{key: given[key] for key in _KEPT if key in given}}
    if "const" in given:
        plain["enum"] = [given["const"]]
    if kind == "object":
        fields, required = given.get("properties"), given.get("required")
        members = cast("Mapping[str, object]", fields) if isinstance(fields, Mapping) else {}
        plain["properties"] = {key: _plain(value, root, depth + 1) for key, value in members.items()}
        if isinstance(required, list | tuple):
            plain["required"] = [*required]
    if kind == "array":
        plain["items"] = _plain(given.get("items"), root, depth + 1)
    return plain


def _chosen(schema: Mapping[str, object], root: Mapping[str, object]) -> Mapping[str, object]:
    """Follow references and take the first alternative that is not null, as often as there is one."""
    for _ in range(_DEEPEST):
        inner: object = None
        if isinstance(schema.get("$ref"), str):
            inner = _find(cast("str", schema["$ref"]), root)
        for key in _CHOICES:
            if isinstance(schema.get(key), list | tuple):
                inner = inner or next((one for one in cast("Sequence[object]", schema[key]) if not _is_null(one)), None)
        if not isinstance(inner, Mapping):
            break
        schema = {**inner, **{key: value for key, value in schema.items() if key not in {"$ref", *_CHOICES}}}
    return schema


def _find(reference: str, root: Mapping[str, object]) -> object:
    found: object = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _is_null(schema: object) -> bool:
    return not isinstance(schema, Mapping) or schema.get("type") == "null"


def _type(schema: Mapping[str, object]) -> str:
    kinds = schema.get("type")
    known = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list | tuple) else []
    told = next((kind for kind in known if isinstance(kind, str) and kind != "null"), None)
    if told is not None:
        return told
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    values = schema.get("enum")
    value = schema.get("const", next(iter(values), "") if isinstance(values, list | tuple) else "")
    kinds_of = {bool: "boolean", int: "integer", float: "number"}
    return kinds_of.get(type(value), "string")
