"""What the grammar of calls can write, the parser reads, and it conforms to the schema."""

import json
from collections.abc import Mapping
from random import Random

import jsonschema
import pytest
from forms_for_tests import FORMS
from samples_for_tests import sample

from lllms_core.chat import call_constraint
from lllms_core.chat.answer_format import AnswerFormat, CallFormat
from lllms_core.chat.parser import AnswerParser
from lllms_core.types import ChatRequest, Message, Tool

pytestmark = pytest.mark.slow

DEFS = {"point": {"type": "object", "properties": {"x": {"type": "integer"}, "label": {"$ref": "#/$defs/label"}},
                  "required": ["x"], "additionalProperties": False},
        "label": {"type": "string", "minLength": 1, "maxLength": 4},
        "tree": {"type": "object", "properties": {"v": {"type": "boolean"}, "kids": {"type": "array", "maxItems": 2,
                 "items": {"$ref": "#/$defs/tree"}}}, "required": ["v"], "additionalProperties": False}}
VALUES: dict[str, object] = {
    "text": {"type": "string"}, "pattern": {"type": "string", "pattern": "^[a-c]{2,5}$"},
    "found": {"type": "string", "pattern": "x[0-9]"}, "either": {"type": "string", "pattern": "^a|b$"},
    "short": {"type": "string", "maxLength": 3}, "long": {"type": "string", "minLength": 2, "maxLength": 9},
    "date": {"type": "string", "format": "date"}, "uuid": {"type": "string", "format": "uuid"},
    "const": {"const": "<b> & \"q\""}, "enum": {"enum": ["a", "b c", 1, None, "2"]},
    "integer": {"type": "integer", "minimum": -3, "maximum": 12}, "number": {"type": "number"},
    "boolean": {"type": "boolean"}, "null": {"type": "null"}, "maybe": {"type": ["string", "null"]},
    "optional": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
    "mixed": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]},
    "label": {"$ref": "#/$defs/label"}, "point": {"$ref": "#/$defs/point"}, "tree": {"$ref": "#/$defs/tree"},
    "points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 2},
    "words": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    "any": {}, "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "all": {"allOf": [{"type": "string", "pattern": "^[a-z]*$"}, {"maxLength": 5}]},
    "one": {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "boolean"}]},
}


def read(form: CallFormat, tool: Tool, text: str) -> tuple[str, list[tuple[str, object]]]:
    """The text and the calls that a parser finds in an answer."""
    parser = AnswerParser(AnswerFormat(calls=form), [tool])
    pieces = parser.feed(text).followed_by(parser.finish())
    calls: dict[int, list[str]] = {}
    for piece in pieces.calls:
        call = calls.setdefault(piece.index, [piece.name, ""])
        call[1] += piece.arguments
    return pieces.text, [(name, json.loads(arguments)) for name, arguments in calls.values()]


def written(form: CallFormat, tool: Tool, seed: int, names: Mapping[str, int] | None = None) -> str | None:
    request = ChatRequest(
        "1", "m", (Message("user", "?"),), tools=(tool,), tool_choice="required", parallel_tool_calls=False,
    )
    constraint = call_constraint(request, form, names or {})
    assert constraint is not None
    ends = (form.value_end, form.call_end, form.quote, f"{form.value_end}{form.call_end}", form.arguments_end)
    return sample(constraint, Random(seed), ends, names)


def check(form: CallFormat, schema: Mapping[str, object], seed: int, names: Mapping[str, int] | None = None) -> bool:
    """Draw a call, and compare what the parser makes of it with the schema; False if it did not come to an end."""
    tool = Tool("some-tool", parameters=schema)
    text = written(form, tool, seed, names)
    if text is None:
        return False
    said, calls = read(form, tool, text)
    assert (said, len(calls)) == ("", 1), (text, said, calls)
    jsonschema.Draft202012Validator(schema).validate(calls[0][1]), text
    return True


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("form", FORMS)
def test_values_of_each_kind(form: str, kind: str) -> None:
    """A required argument of each kind of schema is written so that it is read as a value of that schema."""
    schema = {
        "type": "object", "properties": {"key": VALUES[kind]}, "required": ["key"], "additionalProperties": False,
        "$defs": DEFS,
    }
    done = [check(FORMS[form], schema, seed) for seed in range(6)]
    assert any(done)
