"""Forms of answers as vLLM and Ollama request them: schemas, patterns, alternatives."""

import json
from collections.abc import Mapping
from typing import Protocol, cast

from attrs import frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.bounds import MOST_LEVELS, check_counts, find_too_deep, nested_too_deeply
from lllms_core.parameters.kinds import Flag, Json, Kind, OneOf, Schema, Strings, Text
from lllms_core.parameters.wording import empty, unknown, wrong_type
from lllms_core.types import Constraint, ConstraintKind

OBJECT = Json(("object",))
_MOST_CHOICES = 1000


class Form(Kind, Protocol):
    """A kind of value that may constrain an answer."""

    def read(self, name: str, value: object) -> Constraint | None:
        """Return what a checked value means; None if it constrains nothing."""


@frozen
class JsonSchema:
    """A JSON schema; with `as_text` also the text of one, with `words` also "json" (any object) and "" (any text)."""

    as_text: bool = False
    words: bool = False

    def check(self, name: str, value: object) -> object:
        """Return the schema, or the word."""
        if self.words and isinstance(value, str):
            return OneOf(("", "json")).check(name, value)
        if self.as_text and isinstance(value, str):
            self._loaded(name, value)
            return value
        if not isinstance(value, Mapping):
            expected = "a string or an object" if self.as_text or self.words else "an object"
            raise wrong_type(name, expected, value)
        return value

    def read(self, name: str, value: object) -> Constraint | None:
        """Return the constraint; none for ""."""
        if isinstance(value, str) and self.words:
            return Constraint("json_object", param=name) if value else None
        schema = self._loaded(name, value) if isinstance(value, str) else value
        return Constraint("json_schema", json.dumps(schema), name)

    @property
    def schema(self) -> Schema:
        """An object, or a string."""
        if self.words:
            return {"anyOf": [OBJECT.schema, {"enum": ["", "json"]}]}
        return {"type": ["object", "string"]} if self.as_text else OBJECT.schema

    def _loaded(self, name: str, text: str) -> object:
        check_counts(text, name)
        if (place := find_too_deep(text, MOST_LEVELS)) is not None:
            raise nested_too_deeply(f"{name}.{place}", MOST_LEVELS)
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise InvalidRequest(f"Invalid '{name}': it is not valid JSON: {error}", name, "invalid_json") from error
        return OBJECT.check(name, schema)


@frozen
class Pattern:
    """A text in one of the languages of constraints."""

    syntax: ConstraintKind

    def check(self, name: str, value: object) -> str:
        """Return the text."""
        return Text().check(name, value)

    def read(self, name: str, value: object) -> Constraint:
        """Return the constraint."""
        return Constraint(self.syntax, cast("str", value), name)

    @property
    def schema(self) -> Schema:
        """A string."""
        return Text().schema


@frozen
class Alternatives:
    """Texts, one of which is the answer."""

    def check(self, name: str, value: object) -> tuple[str, ...]:
        """Return the texts."""
        if isinstance(value, str) or not value:
            raise empty(name) if value in ([], ()) else wrong_type(name, "an array of strings", value)
        return Strings(_MOST_CHOICES).check(name, value)

    def read(self, name: str, value: object) -> Constraint:
        """Return the constraint."""
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in cast("tuple[str, ...]", value))
        return Constraint("lark", f"start: {texts}\n", name)

    @property
    def schema(self) -> Schema:
        """An array of strings."""
        return {"type": "array", "minItems": 1, "maxItems": _MOST_CHOICES, "items": {"type": "string", "minLength": 1}}


@frozen
class StructuredOutputs:
    """vLLM's object: one of several forms, by name."""

    forms: Mapping[str, Form]
    unread: tuple[str, ...]

    def check(self, name: str, value: object) -> Mapping[str, object]:
        """Return the object, with its form checked."""
        given = members(name, value)
        for key in given.keys() - {*self.forms, *self.unread, "json_object"}:
            raise unknown(f"{name}.{key}")
        whole = Flag().check(f"{name}.json_object", given.get("json_object", False))
        chosen = {key: form.check(f"{name}.{key}", given[key]) for key, form in self.forms.items() if key in given}
        if len(chosen) + whole > 1:
            first, second = [*(["json_object"] if whole else []), *chosen][:2]
            raise twice(f"{name}.{first}", f"{name}.{second}")
        return {**chosen, **({"json_object": True} if whole else {})}

    def read(self, name: str, value: object) -> Constraint | None:
        """Return the constraint; none if no form is given."""
        for key, member in cast("Mapping[str, object]", value).items():
            if key in self.forms:
                return self.forms[key].read(f"{name}.{key}", member)
            return Constraint("json_object", param=f"{name}.{key}")
        return None

    @property
    def schema(self) -> Schema:
        """An object."""
        forms = {key: form.schema for key, form in self.forms.items()}
        properties = {**forms, "json_object": Flag().schema, **{key: {} for key in self.unread}}
        return {"type": "object", "properties": properties, "additionalProperties": False}


def members(name: str, value: object) -> dict[str, object]:
    """Return the members of an object, without nulls. Raises `InvalidRequest`."""
    OBJECT.check(name, value)
    return {key: member for key, member in cast("Mapping[str, object]", value).items() if member is not None}


def twice(one: str, other: str) -> InvalidRequest:
    """Return the error for two parameters that constrain the answer."""
    return InvalidRequest(f"'{one}' and '{other}' both constrain the answer; give one of them", other, "invalid_value")
