"""The parameters for the form of an answer: `response_format`, `json_schema` and `grammar`, and their meaning."""

import json
import re
from collections.abc import Mapping
from typing import cast

from attrs import frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.kinds import Flag, Json, OneOf, Schema, Text
from lllms_core.parameters.wording import missing, unknown, wrong_choice
from lllms_core.types import Constraint, ConstraintKind

SYNTAXES: tuple[ConstraintKind, ...] = ("gbnf", "lark", "regex")
NAMES: Mapping[str, tuple[ConstraintKind, ...]] = {
    "response_format": ("json_object", "json_schema"), "json_schema": ("json_schema",), "grammar": SYNTAXES,
}
"""The parameters that constrain an answer, with the kinds of constraint that each can request."""

_OBJECT = Json(("object",))
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FORMATS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type"}), "json_object": frozenset({"type"}), "json_schema": frozenset({"type", "json_schema"}),
}


@frozen
class ResponseFormat:
    """OpenAI's `response_format`. The engine checks the contents of a JSON schema."""

    def check(self, name: str, value: object) -> Mapping[str, object]:
        """Return the format without null members."""
        given = _members(name, value)
        kind = given.get("type")
        if kind is None:
            raise missing(f"{name}.type")
        if not isinstance(kind, str) or kind not in _FORMATS:
            raise wrong_choice(f"{name}.type", kind, *_FORMATS)
        for key in given.keys() - _FORMATS[kind]:
            raise unknown(f"{name}.{key}")
        if kind != "json_schema":
            return given
        if "json_schema" not in given:
            raise missing(f"{name}.json_schema")
        return {**given, "json_schema": _check_named(f"{name}.json_schema", given["json_schema"])}

    @property
    def schema(self) -> Schema:
        """One of three kinds of objects."""
        named = {
            "type": "object", "required": ["name", "schema"], "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": f"^{_NAME.pattern}$"}, "description": Text().schema,
                "schema": _OBJECT.schema, "strict": {"type": ["boolean", "null"]},
            },
        }
        plain = {
            "type": "object", "required": ["type"], "additionalProperties": False,
            "properties": {"type": {"enum": ["text", "json_object"]}},
        }
        with_schema = {
            "type": "object", "required": ["type", "json_schema"], "additionalProperties": False,
            "properties": {"type": {"const": "json_schema"}, "json_schema": named},
        }
        return {"anyOf": [plain, with_schema]}


@frozen
class Grammar:
    """A llama.cpp grammar as a string, or any of three kinds as `{"syntax": ..., "definition": ...}`, as in OpenAI."""

    def check(self, name: str, value: object) -> object:
        """Return the grammar."""
        if isinstance(value, str):
            return value
        Json(("string", "object")).check(name, value)
        given = _members(name, value)
        for key in ("syntax", "definition"):
            if key not in given:
                raise missing(f"{name}.{key}")
        for key in given.keys() - {"syntax", "definition"}:
            raise unknown(f"{name}.{key}")
        OneOf(SYNTAXES).check(f"{name}.syntax", given["syntax"])
        Text().check(f"{name}.definition", given["definition"])
        return given

    @property
    def schema(self) -> Schema:
        """A string or an object."""
        properties = {"syntax": {"enum": list(SYNTAXES)}, "definition": {"type": "string"}}
        described = {
            "type": "object", "properties": properties, "required": [*properties], "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string"}, described]}


def take_constraint(checked: dict[str, object]) -> Constraint | None:
    """Remove the checked parameters of `NAMES`, and return the constraint that they request.

    Raises `InvalidRequest` if two of them constrain the answer.
    """
    given = [_constraint(name, checked.pop(name)) for name in NAMES if name in checked]
    wanted = [one for one in given if one is not None]
    if len(wanted) > 1:
        names = " and ".join(f"'{one.param}'" for one in wanted)
        raise InvalidRequest(f"{names} both constrain the answer; give one of them", wanted[1].param, "invalid_value")
    return wanted[0] if wanted else None


def _constraint(name: str, value: object) -> Constraint | None:
    if isinstance(value, str):
        return Constraint("gbnf", value, name)
    values = cast("Mapping[str, object]", value)
    if name == "json_schema":
        return Constraint("json_schema", json.dumps(value), name)
    if name == "grammar":
        return Constraint(cast("ConstraintKind", values["syntax"]), cast("str", values["definition"]), name)
    if values["type"] == "text":
        return None
    if values["type"] == "json_object":
        return Constraint("json_object", param=name)
    named = cast("Mapping[str, object]", values["json_schema"])
    return Constraint("json_schema", json.dumps(named["schema"]), name, strict=named.get("strict") is True)


def _members(name: str, value: object) -> dict[str, object]:
    _OBJECT.check(name, value)
    return {key: member for key, member in cast("Mapping[str, object]", value).items() if member is not None}


def _check_named(path: str, value: object) -> Mapping[str, object]:
    given = _members(path, value)
    for key in ("name", "schema"):
        if key not in given:
            raise missing(f"{path}.{key}")
    for key in given.keys() - {"name", "description", "schema", "strict"}:
        raise unknown(f"{path}.{key}")
    title = Text().check(f"{path}.name", given["name"])
    if not _NAME.fullmatch(title):
        text = f"Invalid '{path}.name': string does not match pattern. Expected a string that matches the pattern"
        raise InvalidRequest(f"{text} '^{_NAME.pattern}$'.", f"{path}.name", "invalid_value")
    Text().check(f"{path}.description", given.get("description", ""))
    Flag().check(f"{path}.strict", given.get("strict", False))
    _OBJECT.check(f"{path}.schema", given["schema"])
    return given
