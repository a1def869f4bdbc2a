"""The parameters for the form of an answer, ours and other servers', and the constraint that each means."""

import json
import re
from collections.abc import Mapping
from typing import cast

from attrs import frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.guided import (
    OBJECT,
    Alternatives,
    Form,
    JsonSchema,
    Pattern,
    StructuredOutputs,
    members,
    twice,
)
from lllms_core.parameters.kinds import Flag, Json, OneOf, Schema, Text
from lllms_core.parameters.wording import missing, unknown, wrong_choice
from lllms_core.types import Constraint, ConstraintKind

SYNTAXES: tuple[ConstraintKind, ...] = ("gbnf", "lark", "regex")
JSON: tuple[ConstraintKind, ...] = ("json_object", "json_schema")
NAMES: Mapping[str, tuple[ConstraintKind, ...]] = {
    "response_format": JSON, "json_schema": ("json_schema",), "grammar": SYNTAXES,
    "format": JSON, "guided_json": ("json_schema",), "guided_regex": ("regex",), "guided_choice": ("lark",),
    "guided_grammar": ("gbnf",), "structured_outputs": (*JSON, *SYNTAXES),
}
"""The parameters that constrain an answer, with the kinds of constraint that each can request."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FORMATS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type"}), "json_object": frozenset({"type", "schema"}),
    "json_schema": frozenset({"type", "json_schema", "schema"}),
}


@frozen
class ResponseFormat:
    """OpenAI's `response_format`, also with a `schema` member, as llama.cpp's server takes it.

    The engine checks the contents of a JSON schema.
    """

    def check(self, name: str, value: object) -> Mapping[str, object]:
        """Return the format without null members."""
        given = members(name, value)
        kind = given.get("type")
        if kind is None:
            raise missing(f"{name}.type")
        if not isinstance(kind, str) or kind not in _FORMATS:
            raise wrong_choice(f"{name}.type", kind, *_FORMATS)
        for key in given.keys() - _FORMATS[kind]:
            raise unknown(f"{name}.{key}")
        if "schema" in given:
            OBJECT.check(f"{name}.schema", given["schema"])
            if "json_schema" in given:
                raise twice(f"{name}.json_schema", f"{name}.schema")
            return given
        if kind != "json_schema":
            return given
        if "json_schema" not in given:
            raise missing(f"{name}.json_schema")
        return {**given, "json_schema": check_named(f"{name}.json_schema", given["json_schema"])}

    def read(self, name: str, value: object) -> Constraint | None:
        """Return the constraint; none for text."""
        given = cast("Mapping[str, object]", value)
        if given["type"] == "text":
            return None
        if "schema" in given:
            return Constraint("json_schema", json.dumps(given["schema"]), name)
        if given["type"] == "json_object":
            return Constraint("json_object", param=name)
        named = cast("Mapping[str, object]", given["json_schema"])
        return Constraint("json_schema", json.dumps(named["schema"]), name, strict=named.get("strict") is True)

    @property
    def schema(self) -> Schema:
        """One of three kinds of objects."""
        named = {
            "type": "object", "required": ["name", "schema"], "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": f"^{_NAME.pattern}$"}, "description": Text().schema,
                "schema": OBJECT.schema, "strict": {"type": ["boolean", "null"]},
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
        given = members(name, value)
        for key in ("syntax", "definition"):
            if key not in given:
                raise missing(f"{name}.{key}")
        for key in given.keys() - {"syntax", "definition"}:
            raise unknown(f"{name}.{key}")
        OneOf(SYNTAXES).check(f"{name}.syntax", given["syntax"])
        Text().check(f"{name}.definition", given["definition"])
        return given

    def read(self, name: str, value: object) -> Constraint:
        """Return the constraint."""
        if isinstance(value, str):
            return Constraint("gbnf", value, name)
        given = cast("Mapping[str, str]", value)
        return Constraint(cast("ConstraintKind", given["syntax"]), given["definition"], name)

    @property
    def schema(self) -> Schema:
        """A string or an object."""
        properties = {"syntax": {"enum": list(SYNTAXES)}, "definition": {"type": "string"}}
        described = {
            "type": "object", "properties": properties, "required": [*properties], "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string"}, described]}


UNREAD = ("disable_fallback", "backend")
"""Members of `structured_outputs` about the method."""
_GUIDED: Mapping[str, Form] = {
    "json": JsonSchema(as_text=True), "regex": Pattern("regex"), "choice": Alternatives(), "grammar": Pattern("gbnf"),
}
FORMS: Mapping[str, Form] = {
    "response_format": ResponseFormat(), "json_schema": JsonSchema(), "grammar": Grammar(),
    "format": JsonSchema(words=True), "structured_outputs": StructuredOutputs(_GUIDED, UNREAD),
    **{f"guided_{name}": form for name, form in _GUIDED.items()},
}
"""The kinds of values of the parameters that constrain an answer."""


def take_constraint(checked: dict[str, object]) -> Constraint | None:
    """Remove the checked parameters of `NAMES`, and return the constraint that they request.

    Raises `InvalidRequest` if two of them constrain the answer differently.
    """
    given = [FORMS[name].read(name, checked.pop(name)) for name in NAMES if name in checked]
    wanted = [one for one in given if one is not None]
    for one in wanted[1:]:
        if (one.kind, one.text) != (wanted[0].kind, wanted[0].text):
            raise twice(wanted[0].param, one.param)
    return next((one for one in wanted if one.strict), wanted[0]) if wanted else None


def check_named(path: str, value: object) -> Mapping[str, object]:
    """Return a named JSON schema without its null members. Raises `RequestError`."""
    given = members(path, value)
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
    OBJECT.check(f"{path}.schema", given["schema"])
    return given
