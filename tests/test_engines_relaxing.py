"""Schemas that are not strict lose what their model cannot enforce, and the first piece of the answer says so."""

import json
from collections.abc import Sequence

import pytest
from attrs import evolve
from test_engines_constraints import Model, WordMatcher

from lllms_core.chat import ChatTemplate
from lllms_core.engines.batching.relaxing import relax_schemas
from lllms_core.types import ChatRequest, Constraint, Message, TextRequest, Tool

SCHEMA = {"type": "object", "not": {}, "if": {}}
TEXT = json.dumps(SCHEMA)
LEFT = '{"type": "object"}'


class Relaxing(Model):
    """Enforces nothing but types."""

    def relax(self, schema: str) -> tuple[str, Sequence[str]]:
        kept = {name: value for name, value in json.loads(schema).items() if name == "type"}
        missing = [f"#/{name}" for name in json.loads(schema) if name != "type"]
        return (json.dumps(kept) if missing else schema, missing)

    def matcher(self, constraint):
        self.last = constraint
        return super().matcher(constraint)


def asked(**fields) -> TextRequest:
    return TextRequest("a", "fake", prompt="p", max_tokens=9, **fields)


def test_first_piece_names_what_is_left_out():
    """Of all pieces of all answers to a request, only the first names it; the matcher gets the rest of the schema."""
    model = Relaxing()
    model.open(asked(constraint=Constraint("json_schema", TEXT, "json_schema"), n=2))
    assert model.last == Constraint("json_schema", LEFT, "json_schema")
    for future in model.asked:
        future.set_result(WordMatcher("ab"))
    deltas = [delta for _ in range(20) if not model.idle for delta in model.step()]
    assert deltas[0].unenforced == ("json_schema#/not", "json_schema#/if")
    assert not any(delta.unenforced for delta in deltas[1:])


def test_answer_of_one_piece_names_it():
    """An answer whose first piece is its last has the names, too."""
    model = Relaxing()
    model.open(asked(constraint=Constraint("json_schema", TEXT)))
    model.asked[0].set_result(WordMatcher("a"))
    [delta] = [delta for _ in range(20) if not model.idle for delta in model.step()]
    assert delta.last
    assert delta.unenforced == ("response_format#/not", "response_format#/if")


@pytest.mark.parametrize("constraint", [
    None, Constraint("json_schema", TEXT, strict=True), Constraint("json_schema", LEFT), Constraint("json_object"),
    Constraint("lark", f"start: %json {TEXT}"),
])
def test_what_is_strict_or_whole_stays_as_it_is(constraint):
    """A request with nothing to leave out, or that allows no omission, is unchanged."""
    request = asked(constraint=constraint)
    assert relax_schemas(Relaxing(), request) == (request, ())


def test_each_tool_is_relaxed_by_itself():
    """A strict tool beside a lax one keeps its whole schema; the names say which tool they are about."""
    tools = (Tool("a", parameters=SCHEMA), Tool("b", parameters=SCHEMA, strict=True), Tool("c", parameters={}))
    request = ChatRequest("r", "fake", (Message("user", "?"),), tools=tools)
    relaxed, named = relax_schemas(Relaxing(), request)
    assert relaxed == evolve(request, tools=(evolve(tools[0], parameters=json.loads(LEFT)), *tools[1:]))
    assert named == ("tools.a#/not", "tools.a#/if")


def test_base_enforces_all():
    """A model that does not say what it can enforce gets all schemas unchanged."""
    model = Model(template=ChatTemplate("{{ messages[0].content }}"))
    model.open(asked(constraint=Constraint("json_schema", TEXT)))
    model.asked[0].set_result(WordMatcher("a"))
    assert [delta.unenforced for _ in range(9) if not model.idle for delta in model.step()] == [()]
