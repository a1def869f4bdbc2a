"""The smallest instances of schemas, and which texts and values conform."""

import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lllms_mock.conformity import Unkept
from lllms_mock.patterns import NotSimple, Patience, matches, parse, sample
from lllms_mock.smallest import conforms, smallest

NODE = {
    "type": "object", "required": ["value", "next"],
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
}
PET = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 3}},
       "required": ["name"], "additionalProperties": False}


@pytest.mark.parametrize(("schema", "expected"), [
    (PET, {"name": ""}),
    ({**PET, "required": ["age", "name"]}, {"name": "", "age": 3}),
    ({"$defs": {"pet": PET}, "$ref": "#/$defs/pet"}, {"name": ""}),
    ({"definitions": {"a/b": {"const": 1}}, "properties": {"x": {"$ref": "#/definitions/a~1b"}}, "required": ["x"]},
     {"x": 1}),
    (NODE, {"value": 0, "next": None}),
    ({"enum": ["red", "green"]}, "red"),
    ({"enum": ["red", 3], "type": "integer"}, 3),
    ({"anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}]}, "aa"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 0.5),
    ({"allOf": [{"minimum": 2}, {"minimum": 5}, {"type": "integer", "multipleOf": 4}]}, 8),
    ({"allOf": [{"properties": {"a": {"minLength": 1}}, "required": ["a"]}, {"properties": {"a": {"type": "string"}}}]},
     {"a": "a"}),
    ({"type": ["string", "null"]}, ""), ({"type": ["null", "string"]}, None), ({"type": "boolean"}, False),
    ({"type": "number", "exclusiveMinimum": 0.25, "exclusiveMaximum": 0.75}, 0.5),
    ({"type": "integer", "maximum": -3}, -3), ({"type": "integer", "exclusiveMaximum": 0}, 0 - 1),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True}, [0, 1, 2]),
    ({"type": "array", "prefixItems": [{"const": "a"}], "items": {"const": 2}, "minItems": 2}, ["a", 2]),
    ({"type": "object", "minProperties": 2, "properties": {"a": {"const": 1}}}, {"a": 1, "property0": None}),
    ({"type": "string", "format": "date"}, "2000-01-01"), ({"type": "string", "format": "nobody's"}, ""),
    ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, "AA-0"),
    ({"type": "string", "pattern": "^a*$", "minLength": 3}, "aaa"),
    ({"not": {"type": "null"}}, {}), (True, None), ({}, None),
])
def test_the_smallest_instance(schema: Any, expected: object) -> None:
    """Required properties only, the first of enum and anyOf, numbers next to 0, the shortest strings and arrays."""
    found = smallest(schema)
    assert (found, type(found)) == (expected, type(expected))
    assert conforms(found, schema)
    jsonschema.Draft202012Validator(schema).validate(found)


@pytest.mark.parametrize(("schema", "why"), [
    (False, "no small instance"), ({"enum": []}, "no small instance"),
    ({"type": "integer", "enum": ["a"]}, "no small instance"),
    ({"$ref": "#/$defs/none"}, "points nowhere"), ({"$ref": "https://example.com"}, "does not point into it"),
    ({"$ref": "#"}, "no small instance"),
    ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no small instance"),
    ({"type": "text"}, "no type 'text'"), ({"type": "string", "pattern": "(?=a)b"}, "a group of a special kind"),
    ({"type": "string", "pattern": "\\bword"}, r"the escape '\\b'"),
    ({"type": "string", "minLength": 10**9}, "'minLength' is above"),
    ({"type": "array", "minItems": 4000, "uniqueItems": True, "items": {"enum": [*range(4000)]}}, "steps"),
    ({"type": "object", "if": {}}, "does not keep 'if'"), ({"properties": []}, "where an object belongs"),
    ({"type": "integer", "minimum": 1e999}, "not a number that the mock reads"),
    ({"type": "number", "multipleOf": 0}, "above 0"),
    ({"type": "array", "minItems": 1, "contains": {}}, "does not keep 'contains'"), (7, "where an object belongs"),
    ({"type": "string", "pattern": "a" * 30 + "{2000}"}, "more than 1000 repetitions"),
    ({"type": "string", "pattern": "(" * 5000}, "nested too deeply"),
    ({"type": "integer", "enum": ["a"] * 100_000}, "steps"),
    ({"allOf": [{"properties": {str(at): {}}} for at in range(5000)]}, "steps"),
    ({"type": "string", "pattern": "^a{1000}b{1000}c{1000}$", "minLength": 4000}, "too long to be tested"),
    ({"type": "array", "minItems": 4096, "items": {"type": "string", "minLength": 4096}}, "steps"),
    ({"required": list(map(str, range(30_000)))}, "steps"),
])
def test_what_it_cannot_build_is_refused_with_the_reason(schema: Any, why: str) -> None:
    """A schema without instances, or beyond the mock, is refused, and so is one that would take very long."""
    with pytest.raises(Unkept, match=why):
        smallest(schema)


NUMBERS = st.fixed_dictionaries({"type": st.sampled_from(["integer", "number"])}, optional={
    "minimum": st.integers(-9, 9), "exclusiveMinimum": st.integers(-9, 9), "maximum": st.integers(-9, 9),
    "exclusiveMaximum": st.integers(-9, 9), "multipleOf": st.integers(1, 5),
})
STRINGS = st.fixed_dictionaries({"type": st.just("string")}, optional={
    "minLength": st.integers(0, 5), "maxLength": st.integers(0, 8),
    "pattern": st.sampled_from(["^a+$", "b", "^(x|yz){2}$", "^[^a-z]*\\d$", "a.c|d"]),
})
PLAIN = st.one_of(
    NUMBERS, STRINGS, st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"const": True}, {"enum": [1, "a", None]},
                                       {"type": ["integer", "null"]}, {"$ref": "#/$defs/leaf"}, True]),
)
NAMES = st.sampled_from(["a", "b", "c"])


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={
            "minItems": st.integers(0, 3), "maxItems": st.integers(0, 4), "uniqueItems": st.booleans(),
            "prefixItems": several,
        }),
        st.fixed_dictionaries({"type": st.just("object")}, optional={
            "properties": st.dictionaries(NAMES, inner, max_size=3), "required": st.lists(NAMES, unique=True),
            "additionalProperties": st.one_of(st.booleans(), inner),
            "minProperties": st.integers(0, 4), "maxProperties": st.integers(0, 4),
        }),
        st.fixed_dictionaries({"anyOf": several}), st.fixed_dictionaries({"oneOf": several}),
        st.fixed_dictionaries({"allOf": several}),
    )


SCHEMAS = st.recursive(PLAIN, _larger, max_leaves=6).map(
    lambda schema: schema if schema is True else {**schema, "$defs": {"leaf": {"type": "string", "maxLength": 2}}},
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from([1.0, 0.5]), st.text("abxyz1", max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)), max_leaves=5,
)


@settings(max_examples=400)
@given(SCHEMAS)
def test_an_instance_conforms(schema: Any) -> None:
    """Whatever is built is valid, and built the same again; else it is refused."""
    try:
        found = smallest(schema)
    except Unkept:
        return
    jsonschema.Draft202012Validator(schema).validate(found)
    assert smallest(schema) == found


@settings(max_examples=400)
@given(SCHEMAS, VALUES)
def test_conformity_is_that_of_json_schema(schema: Any, value: Any) -> None:
    """A value conforms if and only if it is valid."""
    assert conforms(value, schema) == jsonschema.Draft202012Validator(schema).is_valid(value)


PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "\\d", "\\w", "\\.", "[a-c-]", "\\D"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}"])).map(
            lambda two: f"({two[0]}){two[1]}",
        ),
    ), max_leaves=6,
)


@given(PATTERNS, st.text("ab1._", max_size=6), st.booleans(), st.booleans())
def test_patterns_mean_what_they_mean(pattern: str, text: str, at_start: bool, at_end: bool) -> None:
    """A simple pattern is found in the texts in which `re` finds it, and its sample is such a text."""
    pattern = f"{'^' if at_start else ''}({pattern}){'$' if at_end else ''}"
    try:
        parsed = parse(pattern)
    except NotSimple:
        return
    assert matches(parsed, text, Patience()) == bool(re.search(pattern, text))
    assert re.search(pattern, sample(parsed, 0))


def test_a_pattern_takes_no_time() -> None:
    """A pattern that takes Python's `re` for ever is tested at once; one with too many places to look is refused."""
    assert not matches(parse("^(a+)+$"), "a" * 200 + "!", Patience())
    with pytest.raises(NotSimple, match="too long"):
        matches(parse("a{1000}" * 3 + "b"), "a" * 3000, Patience())
