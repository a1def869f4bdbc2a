import json

import pytest

from lllms_core.engines import Engine
from lllms_core.errors import InvalidRequest, RequestError
from lllms_core.parameters import ROUTES
from lllms_core.parameters.structured import NAMES, take_constraint
from lllms_core.types import Constraint

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}


def named(**fields):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, **fields}}


def read(name, value):
    return take_constraint({name: ROUTES["chat"][name].check(value)})


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("response_format", {"type": "text"}, None),
    ("response_format", {"type": "json_object"}, Constraint("json_object", "", "response_format")),
    ("response_format", named(), Constraint("json_schema", json.dumps(SCHEMA), "response_format")),
    (
        "response_format", named(strict=True, description="d"),
        Constraint("json_schema", json.dumps(SCHEMA), strict=True),
    ),
    ("response_format", named(strict=None, description=None), Constraint("json_schema", json.dumps(SCHEMA))),
    ("json_schema", SCHEMA, Constraint("json_schema", json.dumps(SCHEMA), "json_schema")),
    ("json_schema", {}, Constraint("json_schema", "{}", "json_schema")),
    ("grammar", 'root ::= "a"', Constraint("gbnf", 'root ::= "a"', "grammar")),
    ("grammar", {"syntax": "lark", "definition": 'start: "a"'}, Constraint("lark", 'start: "a"', "grammar")),
    ("grammar", {"syntax": "regex", "definition": ""}, Constraint("regex", "", "grammar")),
])
def test_what_is_asked_for_is_one_constraint(name, value, expected):
    """Each way to ask for a form means one constraint, which records its source; schemas keep the order of keys."""
    assert read(name, value) == expected


@pytest.mark.parametrize(("name", "value", "param"), [
    ("response_format", "json", "response_format"),
    ("response_format", {}, "response_format.type"),
    ("response_format", {"type": "xml"}, "response_format.type"),
    ("response_format", {"type": []}, "response_format.type"),
    ("response_format", {"type": "json_object", "schema": []}, "response_format.schema"),
    ("response_format", {"type": "text", "schema": {}}, "response_format.schema"),
    ("response_format", named() | {"schema": {}}, "response_format.schema"),
    ("response_format", {"type": "text", "json_schema": {}}, "response_format.json_schema"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "n"}}, "response_format.json_schema.schema"),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
    ("response_format", named(name="a b"), "response_format.json_schema.name"),
    ("response_format", named(name="a" * 65), "response_format.json_schema.name"),
    ("response_format", named(strict="yes"), "response_format.json_schema.strict"),
    ("response_format", named(schema=[]), "response_format.json_schema.schema"),
    ("response_format", named(description=1), "response_format.json_schema.description"),
    ("response_format", named(foo=1), "response_format.json_schema.foo"),
    ("json_schema", "{}", "json_schema"),
    ("grammar", 1, "grammar"),
    ("grammar", {"syntax": "lark"}, "grammar.definition"),
    ("grammar", {"syntax": "ebnf", "definition": ""}, "grammar.syntax"),
    ("grammar", {"syntax": "lark", "definition": 1}, "grammar.definition"),
    ("grammar", {"syntax": "lark", "definition": "", "flags": "i"}, "grammar.flags"),
])
def test_what_is_malformed_is_named(name, value, param):
    """A fault is found wherever it is, and its path is the error's `param`."""
    with pytest.raises(RequestError) as raised:
        read(name, value)
    assert raised.value.param == param


def test_two_constraints_exclude_each_other():
    """A request constrains its answer once; a format of text constrains nothing."""
    with pytest.raises(InvalidRequest, match="'response_format' and 'grammar'"):
        take_constraint({"response_format": {"type": "json_object"}, "grammar": "root ::= [a]"})
    assert take_constraint({"response_format": {"type": "text"}, "json_schema": {}}).param == "json_schema"


def test_engines_declare_constraints_by_kind():
    """The kinds of constraint that an engine declares determine which parameters it honours."""

    class Some(Engine):
        name = "some"
        parameters = frozenset({"seed"})
        constraints = frozenset({"json_schema"})

        def load(self, spec, progress):
            raise NotImplementedError

    assert Some.parameters == {"seed"} | {name for name, kinds in NAMES.items() if "json_schema" in kinds}
