"""JSON answers from a model without enforcement: requested, checked, and requested again; pure."""

import json
from collections.abc import Iterator
from typing import Never

from attrs import evolve

from lllms_core.errors import InvalidRequest
from lllms_core.text.json_schema import NoSchema, SchemaCheck, Unchecked
from lllms_core.types import ChatRequest, Constraint, Message, Request

_OBJECT = "Answer with one JSON object and with nothing else."
_SCHEMA = "Answer with JSON and with nothing else. It has to keep to this JSON schema:\n"
_SECONDS = 1.0
"""The time to check one answer."""
_OTHER_SEED = 1_000_003
"""Keeps the seeds distinct from those of a request's other answers."""


class Checker:
    """Checks whether a text is the JSON that a constraint asks for. Raises `InvalidRequest` for a faulty schema."""

    def __init__(self, constraint: Constraint) -> None:
        self._param = constraint.param
        self._check: SchemaCheck | None = None
        self.instruction = _OBJECT
        if constraint.kind == "json_schema":
            schema = json.loads(constraint.text)
            self._check = self._make_check(schema)
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
        if self._check is None:
            return isinstance(value, dict)
        try:
            return not self._check.find_violations(value, _SECONDS)
        except Unchecked as error:
            raise self._refusal(f"no answer can be checked against the JSON schema: {error}") from None

    def _make_check(self, schema: object) -> SchemaCheck:
        try:
            return SchemaCheck(schema, _SECONDS)
        except (NoSchema, Unchecked) as error:
            raise self._refusal(f"not a JSON schema: {error}") from None

    def _refusal(self, text: str) -> InvalidRequest:
        return InvalidRequest(text, self._param, "invalid_json_schema")


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
