"""Checks against JSON schemas: as the standard says, within a time limit, and without access to anything else."""

import gc
import time
import tracemalloc
from contextlib import suppress
from itertools import zip_longest

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.text.formats import FORMATS
from lllms_core.text.json_schema import NoSchema, SchemaCheck, Unchecked
from lllms_core.text.pointers import read_pointer, write_pointer

DRAFT_7 = "http://json-schema.org/draft-07/schema#"

names = st.sampled_from(["a", "b", "ab"])
plain = st.sampled_from(["a", "ab", "", 1, 1.0, 2.5, None, True, False, [], {}])
leaves = st.one_of(
    st.booleans(), plain.map(lambda one: {"const": one}), st.lists(plain, min_size=1).map(lambda some: {"enum": some}),
    st.sampled_from(["string", "integer", "number", "object", "array", "null"]).map(lambda kind: {"type": kind}),
    st.sampled_from([{"minLength": 2}, {"maximum": 1}, {"pattern": "^a"}, {"uniqueItems": True}, {"required": ["a"]}]),
)


def larger(inner):
    several = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries({}, optional={
        "properties": st.dictionaries(names, inner, max_size=2), "additionalProperties": inner, "items": inner,
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=2), "contains": inner,
        "prefixItems": several, "anyOf": several, "oneOf": several, "allOf": several, "not": inner, "if": inner,
        "then": inner, "else": inner, "propertyNames": inner, "dependentSchemas": st.dictionaries(names, inner),
    })


schemas = st.recursive(leaves, larger, max_leaves=8)
values = st.recursive(plain, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3),
), max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(schemas, values)
def test_a_check_finds_what_the_standard_forbids(schema, value):
    """A value breaks a schema exactly if a validator of JSON Schema 2020-12 refuses it; the place is in the schema."""
    found = SchemaCheck(schema).find_violations(value)
    assert (not found) == jsonschema.Draft202012Validator(schema).is_valid(value)
    for path in found:
        part = schema
        for key, after in zip_longest(path, path[1:]):
            part = part if key == "if" and after in {"then", "else"} else part[key]


@pytest.mark.parametrize(("schema", "value", "paths"), [
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"items": {"$ref": "#/$defs/c"}}, "c": {"type": "string"}}}, [1],
     [("$defs", "c", "type")]),
    ({"properties": {"a": {"anyOf": [{"type": "string"}, {"not": {}}]}}}, {"a": 1}, [("properties", "a", "anyOf")]),
    ({"if": {"type": "string"}, "then": {"minLength": 3}}, "ab", [("if", "then", "minLength")]),
    ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}], [("uniqueItems",)]),
    ({"uniqueItems": True}, [1, True, "1", [1]], []),
    ({"type": "string", "nullable": True}, None, []),
    ({"$ref": "#/$defs/a", "nullable": True, "$defs": {"a": {"type": "string"}}}, None, []),
    ({"enum": ["a"], "nullable": True}, None, [("enum",)]),
    ({"items": [{"type": "string"}], "additionalItems": False}, ["a", 1], [("additionalItems",)]),
    ({"$schema": DRAFT_7, "dependencies": {"a": ["b"]}}, {"a": 1}, [("dependencies",)]),
    ({"format": "date"}, "2026-02-30", [("format",)]),
    ({"format": "uuid4"}, "anything", []),
    ({"minLenght": 9, "x-y": 1}, "a", []),
    ({"patternProperties": {"^a": {"not": {}}}, "additionalProperties": {"type": "null"}}, {"ab": 1, "b": 1},
     [("patternProperties", "^a", "not"), ("additionalProperties", "type")]),
    ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}, [("unevaluatedProperties",)]),
])
def test_places_are_those_of_the_keywords(schema, value, paths):
    """A violation is the place of its keyword in the schema, after following references; older keywords count, too."""
    assert SchemaCheck(schema).find_violations(value) == paths


@pytest.mark.parametrize("bad", [
    {"type": "thing"}, {"properties": 1}, 5, None, {"minLength": "3"}, {"not": 5}, {"pattern": "(a"}, {"$schema": 5},
    {"$schema": []}, {"$schema": "http://["},
])
def test_no_schema_is_found_out(bad):
    """An invalid schema has its own error."""
    with pytest.raises(NoSchema):
        SchemaCheck(bad)


CHAIN = {"d0": {"type": "string"}} | {
    f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n - 1}"}, {"$ref": f"#/$defs/d{n - 1}"}]} for n in range(1, 40)
}


@pytest.mark.parametrize(("schema", "value", "word"), [
    ({"pattern": "(a|aa)+$"}, "a" * 60 + "b", "too long"),
    ({"patternProperties": {"(a|aa)+$": {}}}, {"a" * 60 + "b": 1}, "too long"),
    ({"patternProperties": {"(a|aa)+$": {}}, "additionalProperties": {}}, {"a" * 60 + "b": 1}, "too long"),
    ({"$ref": "#/$defs/d39", "$defs": CHAIN}, 3, "too long"),
    ({"$ref": "#"}, 3, "too (deeply|long)"),
    ({"pattern": "a" * 20_000}, "a", "characters"),
    ({"$ref": "http://127.0.0.1:9/x"}, 1, "not in it"),
    ({"$ref": "#/$defs/x"}, 1, "not in it"),
    ({"unevaluatedProperties": False, "allOf": [{"patternProperties": {"(a|aa)+$": {}}}]}, {"a" * 60 + "b": 1},
     "beside"),
])
def test_a_check_ends(schema, value, word):
    """Whatever a schema says, its check ends within its limit, gives the reason, and fetches nothing."""
    check = SchemaCheck(schema)
    started = time.monotonic()
    with pytest.raises(Unchecked, match=word):
        check.find_violations(value, 0.1)
    assert time.monotonic() - started < 3  # mostly an allowance for a busy machine


@pytest.mark.parametrize(("schema", "value", "paths"), [
    ({"properties": {"a": {"not": {"const": 1}}}}, {"a": 1}, [("properties", "a", "not")]),
    ({"items": {"pattern": "^a+$"}}, ["aa", "b"], [("items", "pattern")]),
    ({"uniqueItems": True}, [1, 2, 1], [("uniqueItems",)]),
])
def test_a_small_check_ends_without_time(schema, value, paths):
    """A pause, such as a garbage collection's, may take all of a limit: a small check gets its result nevertheless."""
    check = SchemaCheck(schema, 0)
    assert check.find_violations(value, 0) == paths


@pytest.mark.parametrize(("schema", "value"), [
    ({"items": {"type": "integer"}}, [1] * 2_000), ({"uniqueItems": True}, [*range(2_000)]),
    ({"items": {"pattern": "a"}}, ["a"] * 20),
])
def test_a_large_check_needs_time(schema, value):
    """What is not small keeps to its limit: many values, or several expressions."""
    check = SchemaCheck(schema)
    assert check.find_violations(value, 30) == []
    with pytest.raises(Unchecked, match="too long"):
        check.find_violations(value, 0)


def check_once(schema, value):
    with suppress(Unchecked, NoSchema):
        SchemaCheck(schema).find_violations(value)


@pytest.mark.parametrize(("make", "value"), [
    (lambda name: {"pattern": name + "ab?" * 300}, "x"),
    (lambda name: {"pattern": name + "ab?" * 3 + "x" * 9000 + "(?&x)"}, "x"),
    (lambda name: {"$ref": "http://" + name + "x" * 20_000 + "#"}, 1),
    (lambda name: {"$schema": "http://" + name + "x" * 20_000}, 1),
], ids=["expression", "faulty expression", "reference", "draft"])
def test_nothing_of_a_schema_stays(make, value):
    """Libraries keep what they have read; after a check of a client's schema they keep nothing of it."""
    check_once(make("first"), value)
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(8):
            check_once(make(f"n{number}"), value)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 40_000
    finally:
        tracemalloc.stop()


def test_many_values_are_compared_quickly():
    """Ten thousand objects are compared in less time than a comparison of each pair would take."""
    check = SchemaCheck({"uniqueItems": True})
    assert check.find_violations([{"a": number} for number in range(10_000)], 30) == []


@pytest.mark.parametrize(("form", "right", "wrong"), [
    ("date", ["2024-02-29"], ["2023-02-29", "2024-2-9", "2024-02-29x"]),
    ("time", ["23:59:59Z", "01:02:03.5+02:00"], ["24:00:00Z", "01:02:03"]),
    ("date-time", ["2024-02-29T01:02:03Z"], ["2024-02-30T01:02:03Z", "2024-02-29 01:02:03"]),
    ("duration", ["P1D", "PT5M", "P2W", "P1Y2M3DT4H5M6S"], ["P", "PT", "1D", "P1"]),
    ("email", ["a@b.de"], ["a", "a b@c"]),
    ("hostname", ["a-b.c"], ["-a", "a..b", "a" * 64]),
    ("ipv4", ["1.2.3.4"], ["1.2.3", "1.2.3.256"]),
    ("ipv6", ["::1", "1::2"], ["1", "fe80::1%eth0"]),
    ("uri", ["https://a/b?c#d", "urn:x"], ["/a", "https://a b"]),
    ("uuid", ["01234567-89ab-cdef-0123-456789ABCDEF"], ["0123456789abcdef0123456789abcdef"]),
])
def test_formats(form, right, wrong):
    """Each format accepts its own strings, and no others."""
    assert [FORMATS[form](text) for text in (*right, *wrong)] == [True] * len(right) + [False] * len(wrong)


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9))))
def test_pointers_name_their_path_in_a_header(path):
    """A pointer is read back as it was written, with indices as text; it is ASCII, fit for a list in a header."""
    pointer = write_pointer(path)
    assert read_pointer(pointer) == [str(key) for key in path]
    assert pointer.isascii()
    assert not {*pointer} & {*' ,;"'}
