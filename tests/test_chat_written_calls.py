"""The parser reads whatever the grammar of calls can write, and it conforms to the schema."""

import json
from collections.abc import Iterator, Mapping
from random import Random

import jsonschema
import pytest
from forms_for_tests import FORMS
from grammars_for_tests import NAMES, keeps, matcher_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from samples_for_tests import sample

from lllms_core.chat import call_constraint
from lllms_core.chat.answer_format import AnswerFormat, CallFormat
from lllms_core.chat.call_grammar import lazy_calls
from lllms_core.chat.parser import AnswerParser
from lllms_core.errors import RequestError
from lllms_core.types import ChatRequest, Message, Tool

pytestmark = pytest.mark.slow

DEFS: dict[str, object] = {
    "label": {"type": "string", "minLength": 1, "maxLength": 4},
    "point": {
        "type": "object", "properties": {"x": {"type": "integer"}, "label": {"$ref": "#/$defs/label"}},
        "required": ["x"], "additionalProperties": False,
    },
    "tree": {
        "type": "object", "required": ["leaf"], "additionalProperties": False,
        "properties": {"leaf": {"type": "boolean"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"},
                                                            "maxItems": 2}},
    },
}
VALUES: dict[str, object] = {
    "text": {"type": "string"}, "pattern": {"type": "string", "pattern": "^[a-c/]{2,5}$"},
    "found": {"type": "string", "pattern": r"x\d", "maxLength": 8},
    "either": {"type": "string", "pattern": "^a|b$", "maxLength": 5}, "short": {"type": "string", "maxLength": 3},
    "long": {"type": "string", "minLength": 2, "maxLength": 9}, "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"}, "ipv6": {"type": "string", "format": "ipv6"},
    "const": {"const": "<b> & \"q\""}, "enum": {"enum": ["a", "b c", 1, None, "2"]},
    "integer": {"type": "integer", "minimum": -3, "maximum": 12}, "number": {"type": "number"},
    "boolean": {"type": "boolean"}, "null": {"type": "null"}, "maybe": {"type": ["string", "null"]},
    "optional": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
    "mixed": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]},
    "many": {"anyOf": [{"type": "string", "maxLength": 3}, {"$ref": "#/$defs/point"}, {"type": "boolean"}]},
    "label": {"$ref": "#/$defs/label"}, "point": {"$ref": "#/$defs/point"}, "tree": {"$ref": "#/$defs/tree"},
    "points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 2},
    "words": {"type": "array", "items": {"type": "string"}, "maxItems": 3}, "any": {},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
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


def asked(*tools: Tool, **fields: object) -> ChatRequest:
    return ChatRequest("1", "m", (Message("user", "?"),), tools=tools, parallel_tool_calls=False, **fields)


def drawn(
    form: CallFormat, schema: Mapping[str, object], seed: int, count: int, names: Mapping[str, int] | None = None,
) -> Iterator[object]:
    """Yield the arguments that are read from calls sampled from a grammar, after checking them against the schema."""
    tool = Tool("some-tool", parameters=schema)
    constraint = call_constraint(asked(tool, tool_choice="required"), form, names or {})
    assert constraint is not None
    compiled = matcher_of(constraint)
    lazy = lazy_calls(asked(tool), form, names or {})
    ends = (form.value_end, form.call_end, form.quote, f"{form.value_end}{form.call_end}", form.arguments_end)
    for number in range(count):
        text = sample(compiled.deep_copy(), Random(seed + number), ends, names)
        if text is None:
            continue
        said, calls = read(form, tool, text)
        assert (said, [name for name, _ in calls]) == ("", ["some-tool"]), (text, said, calls)
        jsonschema.Draft202012Validator(schema).validate(calls[0][1])
        assert keeps(lazy, text.lstrip(), names), text
        yield calls[0][1]


@pytest.mark.parametrize("form", FORMS)
def test_values_of_each_kind(form: str) -> None:
    """An argument of each kind of schema is written so that it is read as a value of that schema."""
    for number, (kind, value) in enumerate(VALUES.items()):
        schema = {
            "type": "object", "properties": {"key": value}, "required": ["key"], "additionalProperties": False,
            "$defs": DEFS,
        }
        assert any(True for _ in drawn(FORMS[form], schema, 7 * number, 3)), kind


def test_marks_that_are_tokens() -> None:
    """Quotes that are tokens of the vocabulary are written as tokens, and strings do not contain their letters."""
    schema = {"type": "object", "properties": {"key": {"type": "string"}, "map": VALUES["map"]}, "required": ["key"]}
    assert any(True for _ in drawn(FORMS["braces"], schema, 1, 12, NAMES))


KEYS = ["city", "b-2", "more_of", "x.y", "@timestamp", "$filter", "a/b", "k:1", "[0]", "a b", "\u0416"]
SCHEMAS = st.sampled_from(sorted(VALUES)).map(VALUES.__getitem__)


@st.composite
def objects(draw: st.DrawFn, depth: int = 1) -> dict[str, object]:
    """Schemas of arguments, with combinations."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=3))
    schema: dict[str, object] = {"type": "object", "properties": {key: draw(SCHEMAS) for key in keys}}
    schema["required"] = draw(st.lists(st.sampled_from([*keys, "beside"]), unique=True, max_size=3))
    others = draw(st.sampled_from([None, False, True, {"type": "integer"}, {"type": "string", "maxLength": 3}]))
    if others is not None:
        schema["additionalProperties"] = others
    if others is False:
        least = draw(st.integers(0, 2))
        schema |= {"minProperties": least, "maxProperties": draw(st.integers(max(least, 1), 4))}
    if depth and draw(st.booleans()):
        join = draw(st.sampled_from(["anyOf", "allOf"]))
        schema[join] = [draw(objects(depth=0)) for _ in range(draw(st.integers(1, 2)))]
    return schema


@settings(max_examples=60, deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), schema=objects(), seed=st.integers(0, 2**32))
def test_any_object(form: str, schema: dict[str, object], seed: int) -> None:
    """Whatever the schema of the arguments combines, written calls conform to it, or the schema is refused."""
    whole = {**schema, "$defs": DEFS}
    try:
        drawn_calls = list(drawn(FORMS[form], whole, seed, 2))
    except (RequestError, AssertionError) as error:
        if isinstance(error, AssertionError) and not impossible(error):
            raise
        assume(False)
    else:
        assert len(drawn_calls) <= 2


def impossible(error: AssertionError) -> bool:
    """Whether llguidance has no grammar for a schema, or found that no object conforms to it."""
    words = ("Unsatisfiable", "no text can match", "NoExtension", "only supported", "level exceeded")
    return any(word in str(error) for word in words)
