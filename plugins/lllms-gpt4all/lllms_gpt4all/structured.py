"""JSON answers from a model without enforcement: requested, checked, and requested again; pure."""

import json
from collections.abc import Iterator
from typing import Never

from attrs import evolve
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from lllms_core.errors import InvalidRequest
from lllms_core.types import ChatRequest, Constraint, Message, Request

_OBJECT = "Answer with one JSON object and with nothing else."
_SCHEMA = "Answer with JSON and with nothing else. It has to keep to this JSON schema:\n"
_OTHER_SEED = 1_000_003
"""Keeps the seeds distinct from those of a request's other answers."""


class Checker:
    """Checks whether a text is the JSON that a constraint asks for. Raises `InvalidRequest` for a faulty schema."""

    def __init__(self, constraint: Constraint) -> None:
        self._param = constraint.param
        self._validator: Validator | None = None
        self.instruction = _OBJECT
        if constraint.kind == "json_schema":
            schema = json.loads(constraint.text)
            self._validator = self._make_validator(schema)
            self.instruction = _SCHEMA + json.dumps(schema, ensure_ascii=False)

    def find(self, text: str) -> str | None:
        """Return the first JSON value in the text, if it is complete and matches; the text around it is dropped."""
        start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=0)
        start += len(text[start:]) - len(text[start:].lstrip())
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        return text[start:end] if self._fits(value) else None

    def _fits(self, value: object) -> bool:
        if self._validator is None:
            return isinstance(value, dict)
        try:
            self._validator.validate(value)
        except ValidationError:
            return False
        except Unresolvable as error:
            raise InvalidRequest(
                f"the JSON schema refers to {error.ref!r}, which is not in it", self._param, "invalid_value",
            ) from None
        return True

    def _make_validator(self, schema: object) -> Validator:
        if not isinstance(schema, dict | bool):
            raise InvalidRequest("not a JSON schema: it is neither an object nor true or false", self._param)
        kind = validator_for(schema)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise InvalidRequest(f"not a JSON schema: {error.message}", self._param, "invalid_value") from None
        # By default, the library would fetch the references of a schema.
        validator: Validator = kind(schema, registry=Registry())
        return validator


def attempts(request: Request, checker: Checker) -> Iterator[Request]:
    """Yield the requests to try, one after the other: as the client sent it, and with words about the answer's form.

    A schema is described from the first time on. Repetition is only worthwhile if sampling draws other tokens.
    """
    ways: list[Request] = [request]
    if isinstance(request, ChatRequest):
        told = _instructed(request, checker.instruction)
        described = request.constraint is not None and request.constraint.kind == "json_schema"
        ways = [told, request] if described else [request, told]
    yield from ways
    if request.sampling.temperature:
        for number, way in enumerate([ways[-1], ways[0]], 1):
            seed = request.sampling.seed
            other = None if seed is None else seed + number * _OTHER_SEED
            yield evolve(way, sampling=evolve(way.sampling, seed=other))


def _instructed(request: ChatRequest, instruction: str) -> ChatRequest:
    """Return the request with an instruction after the system's, or before everything."""
    messages = request.messages
    if messages and messages[0].role in {"system", "developer"}:
        first = evolve(messages[0], content=f"{messages[0].content}\n\n{instruction}")
        return evolve(request, messages=(first, *messages[1:]))
    return evolve(request, messages=(Message("system", instruction), *messages))


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
