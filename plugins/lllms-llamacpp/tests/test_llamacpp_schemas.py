import json
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Annotated, Literal
from uuid import UUID

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from lllms_llamacpp.grammars import MAX_LENGTH, translate
from lllms_llamacpp.keywords import FORMATS
from lllms_llamacpp.schemas import fit, relax
from lllms_llamacpp.trial import limits
from pydantic import AnyUrl, BaseModel, Field, StringConstraints
from schemas_for_tests import BYTES, kept_schemas, left_out_schemas, values, write

from lllms_core.errors import InvalidRequest
from lllms_core.text.formats import FORMATS as CHECKED_FORMATS
from lllms_core.text.json_schema import SchemaCheck, Unchecked
from lllms_core.text.pointers import write_pointer
from lllms_core.types import Constraint


class One(BaseModel):
    kind: Literal["one"]


class Two(BaseModel):
    kind: Literal["two", "three"]


@settings(max_examples=80, deadline=None)
@given(kept_schemas, st.integers(0, 2**32))
def test_what_the_grammar_allows_is_valid(schema, seed):
    """Any text that a schema's grammar allows is JSON and valid for the schema; it never runs into a dead end."""
    text = write(schema, Random(seed))
    assume(text is not None)
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@settings(max_examples=80, deadline=None)
@given(left_out_schemas, st.integers(0, 2**32))
def test_what_is_not_enforced_is_named(schema, seed):
    """An answer to a relaxed schema breaks only those restrictions of the original that are named."""
    relaxed, named = relax(json.dumps(schema))
    matcher = LLMatcher(BYTES, translate(Constraint("json_schema", relaxed)), log_level=0, limits=limits())
    assert not matcher.is_error() or "Unsatisfiable" in matcher.get_error()
    text = write(json.loads(relaxed), Random(seed))
    assume(text is not None)
    try:
        paths = SchemaCheck(schema).find_violations(json.loads(text))
    except Unchecked:
        assume(False)
    for path in paths:
        broken = write_pointer(path)
        assert any(one == broken or one.startswith(f"{broken}/") or broken.startswith(f"{one}/") for one in named)


@settings(max_examples=100, deadline=None)
@given(left_out_schemas, values)
def test_relaxing_forbids_nothing(schema, value):
    """A relaxed schema still allows every value of the original; its remaining restrictions can be enforced."""
    relaxed, named = relax(json.dumps(schema))
    assert not fit(json.loads(relaxed)).faults
    assert bool(named) == (relaxed != json.dumps(schema))
    try:
        fits = not SchemaCheck(schema).find_violations(value)
    except Unchecked:
        assume(False)
    assert not fits or not SchemaCheck(json.loads(relaxed)).find_violations(value)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.integers(0, 2**32))
def test_formats_are_those_that_are_checked(form, seed):
    """A string that a format's grammar allows passes the check of that format."""
    text = write({"type": "string", "format": form}, Random(seed))
    assume(text is not None)
    assert CHECKED_FORMATS[form](json.loads(text)), text


@pytest.mark.parametrize(("schema", "word", "target"), [
    ({"not": {}}, "'not'", "#/not"),
    ({"type": "string", "minLenght": 3}, "'minLenght'", "#/minLenght"),
    ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "in properties.a.items: the keyword 'uniqueItems'",
     "#/properties/a/items/uniqueItems"),
    ({"$defs": {"d": {"anyOf": [{}, {"if": {}, "then": {}}]}}}, "in $defs.d.anyOf[1]: the keyword 'if'",
     "#/$defs/d/anyOf/1/if"),
    ({"x-guidance": {"lenient": True}}, "'x-guidance'", "#/x-guidance"),
    ({"prefixItems": [{}], "additionalItems": False}, "'additionalItems'", "#/additionalItems"),
    ({"minProperties": 2}, "'minProperties': 2", "#/minProperties"),
    ({"maxProperties": 1, "properties": {"a": {}, "b": {}}}, "beside optional", "#/maxProperties"),
    ({"const": 2**53 + 1}, "too large", "#/const"),
    ({"enum": [[{"a": 123456789.12345679}]]}, "in enum: the number 123456789.12345679", "#/enum"),
    ({"type": "number", "minimum": 1e400}, "in minimum: a number is too large", "#/minimum"),
    ({"type": "integer", "minimum": 2**63 - 2, "maximum": 2**63 - 1}, "too large", "#/minimum"),
    ({"type": "number", "minimum": 0.12345678901234567, "maximum": 0.12345678901234569}, "too many digits",
     "#/maximum"),
    ({"const": "\0"}, "control characters", "#/const"),
    ({"properties": {"\x01": {}}}, "control characters", "#/properties/%01"),
    ({"contains": {"const": 1}, "minContains": 2}, "'contains'", "#/contains"),
    ({"propertyNames": {"minLength": 2, "pattern": "a"}}, "'propertyNames'", "#/propertyNames"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "'oneOf'", "#/oneOf"),
    ({"type": "string", "pattern": "(a)\\1"}, "in pattern: the expression has the escape '\\1'", "#/pattern"),
    ({"patternProperties": {"\\ba": {}}}, "in patternProperties", "#/patternProperties/%5Cba"),
    ({"type": "array", "uniqueItems": True, "items": {"enum": list("abcdef")}}, "'uniqueItems'", "#/uniqueItems"),
    ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]}, "'unevaluated", "#/unevaluatedProperties"),
])
def test_what_would_be_ignored_is_refused_or_left_out(schema, word, target):
    """A restriction that llguidance would not enforce exactly is found, and named with its place.

    A strict schema is refused because of it; any other loses it.
    """
    assert any(word in str(fault) for fault in fit(schema).faults)
    constraint = Constraint("json_schema", json.dumps(schema), "tools[0].function.parameters")
    if any(fault.sure for fault in fit(schema).faults):
        with pytest.raises(InvalidRequest) as raised:
            translate(constraint)
        assert raised.value.param == "tools[0].function.parameters"
        assert raised.value.code == "invalid_json_schema"
        assert word in raised.value.message or len(fit(schema).faults) > 1
    else:
        assert LLMatcher(BYTES, translate(constraint), log_level=0).is_error()
    relaxed, named = relax(json.dumps(schema))
    assert target in named
    translate(Constraint("json_schema", relaxed))


@pytest.mark.parametrize("schema", [
    {"properties": {"a": 3}}, {"anyOf": [{}, "b"]}, {"prefixItems": [{}], "items": [{}], "not": {}},
])
def test_malformed_schemas_are_left_as_they_are(schema):
    """A malformed schema is refused, strict or not."""
    assert relax(json.dumps(schema)) == (json.dumps(schema), ())
    with pytest.raises(InvalidRequest):
        translate(Constraint("json_schema", json.dumps(schema)))


EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
"""As zod 4 writes it."""


@pytest.mark.parametrize(("schema", "fits", "fits_not"), [
    ({"title": "T", "description": "d", "default": {"not": 1}, "examples": [{}], "deprecated": True, "x-order": 3,
      "$comment": "c", "readOnly": True, "contentEncoding": "base64", "contentMediaType": "image/png",
      "contentSchema": {"not": {}}, "type": "boolean", "$schema": "https://json-schema.org/draft/2020-12/schema",
      "externalDocs": {}}, ["true"], ["1"]),
    ({"properties": {"not": {"type": "string"}, "format": {"const": "int32"}}}, ['{"not":"a","format":"int32"}'],
     ['{"not":1}']),
    ({"minProperties": 2, "required": ["a", "b"]}, ['{"a":1,"b":2}'], ['{"a":1}']),
    ({"maxProperties": 2, "minProperties": 0, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
     ['{"a":1,"b":2}', "{}"], ['{"c":1}']),
    ({"const": 0.1}, ["0.1"], ["0.2"]),
    ({"const": 1e22}, ["10000000000000000000000", "1e+22"], ["1"]),
    ({"const": 2**60}, ["1152921504606846976"], ["1152921504606846977"]),
    ({"items": [{}], "additionalItems": False}, ["[1]"], ["[1,2]"]),
    ({"items": {"type": "integer"}, "additionalItems": False}, ["[1]"], ['["a"]']),
    *(({"type": "integer", "format": form}, ["3"], ['"3"']) for form in ("int32", "int64", "double")),
    *(({"type": "string", "format": form}, ['"x"'], ["3"])
      for form in ("password", "binary", "base64", "jwt", "path", "uuid4", "phone", "byte")),
    ({"type": "string", "format": "nanoid", "pattern": "^[a-zA-Z0-9_-]{21}$"}, ['"V1StGXR8_Z5jdHi6B-myT"'], ['"a"']),
    ({"type": "string", "format": "starts_with", "pattern": "^ab.*"}, ['"abc"'], ['"xab"']),
    ({"type": "string", "format": "email", "pattern": EMAIL}, ['"a.b@c.de"'], ['".a@c.de"', '"a..b@c.de"', '"a@c"']),
    ({"type": "string", "pattern": "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"}, ['"-1.5"', '".5"'], ['"-."', '""', '"a"']),
    ({"type": "string", "pattern": "^(?!.*x)[a-z]+$"}, ['"ab"'], ['"axb"', '""']),
    ({"type": "string", "pattern": "^(?!.*x)[a-z]+$", "allOf": [{"maxLength": 3}]}, ['"ab"'], ['"axb"', '"abcd"']),
    ({"type": "string", "allOf": [{"maxLength": 3}], "pattern": "^(?!.*x)[a-z]+$"}, ['"ab"'], ['"axb"', '"abcd"']),
    ({"type": "string", "pattern": "^(?=.*[A-Z])(?=.*\\d).{4,}$"}, ['"aB1c"'], ['"ab1c"', '"aBcd"', '"B1"']),
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}},
     ['{"a":1}'], ['{"a":"b"}']),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
     ['{"b":1}'], ['{"c":1}', '{"a":"x"}']),
    ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"type": "integer"}},
     ['{"ab":1}'], ['{"A":1}', '{"a":"x"}']),
    ({"type": "object", "propertyNames": {"minLength": 2}}, ['{"ab":1}'], ['{"a":1}']),
    ({"type": "array", "items": {"enum": ["r", "g", 1]}, "uniqueItems": True, "minItems": 2},
     ['["r","g"]', '[1,"g","r"]'], ['["r"]', '["r","r"]', '["r","g","r"]', '[1,"g","r",1]']),
    ({"type": ["array", "null"], "items": {"$ref": "#/$defs/c"}, "uniqueItems": True, "$defs": {"c": {"enum": ["r"]}}},
     ['["r"]', "[]", "null"], ['["r","r"]', "3"]),
    ({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}, "uniqueItems": True, "maxItems": 2},
     ["[3,1]"], ["[1,1]", "[1,2,3]"]),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 1}, ['["x"]'], ['["x","y"]']),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": False}, ['["x","x"]'], ["[1]"]),
    ({"type": "string", "nullable": True}, ["null", '"a"'], ["1"]),
    ({"$ref": "#/$defs/a", "nullable": True, "$defs": {"a": {"type": "string"}}}, ["null", '"a"'], ["1"]),
    ({"type": "integer", "maximum": 2**63 - 1, "minimum": -(2**63)}, ["1", "-9223372036854774784"],
     ["9223372036854775808", "-9223372036854775809"]),
    ({"type": "number", "maximum": 1.7976931348623157e308, "minimum": -3.4028234663852886e38}, ["1.5"], ["1e999"]),
    ({"type": "number", "maximum": 1e400}, ["1.5"], ["1e999"]),
    ({"type": "number", "maximum": 123456789.12345679}, ["123456789.123456"], ["123456789.1234568"]),
    ({"type": "string", "maxLength": 2**53 - 1}, ['"abc"'], ["1"]),
    ({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False}, ['{"a":1}'], ['{"b":1}']),
    ({"not": False, "if": {}, "minContains": 2, "dependentRequired": {}, "unevaluatedItems": True, "type": "null"},
     ["null"], ["1"]),
    ({"$ref": "#/components/schemas/P", "components": {"schemas": {"P": {"type": "string"}, "Q": {"not": {}}}}},
     ['"a"'], ["1"]),
    ({"oneOf": [{"enum": [1, 2]}, {"enum": [3]}]}, ["1", "3"], ["4"]),
    ({"type": "object", "oneOf": [{"properties": {"k": {"const": "a"}}, "required": ["k"]},
                                  {"properties": {"k": {"const": "b"}}, "required": ["k"]}]},
     ['{"k":"a"}', '{"k":"b"}'], ['{"k":"c"}', "1"]),
    ({"type": "object", "required": ["k"], "oneOf": [{"properties": {"k": {"const": "a"}}},
                                                     {"properties": {"k": {"const": "b"}, "n": {"type": "null"}}}]},
     ['{"k":"a"}', '{"k":"b","n":null}'], ['{"k":"b","n":1}', "1"]),
])
def test_what_can_be_kept_is_taken(schema, fits, fits_not):
    """Annotations, equivalent restrictions, and bounds of many digits are accepted and kept, strict or not."""
    matcher = LLMatcher(BYTES, translate(Constraint("json_schema", json.dumps(schema))), log_level=0)
    assert not matcher.is_error(), matcher.get_error()

    def allows(text):
        one = matcher.deep_copy()
        return one.try_consume_tokens(list(text.encode())) == len(text.encode()) and one.is_accepting()

    assert any(map(allows, fits)) if "const" in schema else all(map(allows, fits))
    assert not any(map(allows, fits_not))
    assert relax(json.dumps(schema)) == (json.dumps(schema), ())


def distinct(values: str, most: int) -> dict[str, object]:
    return {"type": "array", "uniqueItems": True, "items": {"enum": [*values]}, "maxItems": most}


def of_x(schema: object) -> dict[str, object]:
    return {"properties": {"x": schema}}


@pytest.mark.parametrize(("schema", "left_out"), [
    ({"anyOf": [distinct("abcdefg", 3)], "oneOf": [distinct("abcdefg", 3)]}, ("#/oneOf/0/uniqueItems",)),
    ({"allOf": [distinct("abcd", 4)] * 3}, ("#/allOf/2/uniqueItems",)),
    ({**of_x(distinct("abcdefg", 3)), "anyOf": [of_x(distinct("abcdefg", 3))]},
     ("#/anyOf/0/properties/x/uniqueItems",)),
    ({"$defs": {"d": distinct("abcde", 5)}, "allOf": [of_x({"$ref": "#/$defs/d"})] * 2}, ("#/$defs/d/uniqueItems",)),
    ({"$defs": {"d": distinct("abcd", 4)}, "allOf": [of_x({"$ref": "#/$defs/d"})] * 2}, ()),
    ({**of_x(distinct("abcde", 5)), "anyOf": [{"required": ["x"]}, {"required": ["y"]}]}, ()),
    ({"properties": {"x": distinct("abcdefg", 3), "y": distinct("abcdefg", 3)}}, ()),
])
def test_arrays_without_repetitions_are_written_out_where_they_can_be_combined(schema, left_out):
    """Sequences of arrays that llguidance merges multiply: as many are enforced as it takes, the others are named."""
    relaxed, named = relax(json.dumps(schema))
    assert named == left_out
    matcher = LLMatcher(BYTES, translate(Constraint("json_schema", relaxed)), log_level=0, limits=limits())
    matcher.compute_bitmask()
    assert not matcher.is_error(), matcher.get_error()


class Everything(BaseModel, extra="forbid"):
    words: set[Literal["x", "y", "z"]]
    flags: frozenset[bool]
    by_word: dict[Literal["k", "l"], int]
    by_name: dict[str, Decimal]
    by_digits: dict[Annotated[str, StringConstraints(pattern=r"^\d+$")], int]
    price: Decimal = Field(ge=0)
    pair: tuple[int, str]
    moment: datetime
    length: timedelta
    key: UUID
    address: IPv4Address
    link: AnyUrl
    path: Path
    data: bytes
    maybe: int | None = Field(le=2**63 - 1)
    either: Annotated[One | Two, Field(discriminator="kind")]


def test_models_of_pydantic_are_kept() -> None:
    """The schema of a class with fields of many types is enforced as a whole, so that it may be strict."""
    schema = Everything.model_json_schema()
    assert fit(schema).faults == ()
    matcher = LLMatcher(BYTES, translate(Constraint("json_schema", json.dumps(schema))), log_level=0)
    matcher.compute_bitmask()
    assert not matcher.is_error(), matcher.get_error()


def test_name_is_not_spelt_twice():
    """A property cannot be repeated with its name spelt by an escape, and a value that breaks its schema."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    matcher = LLMatcher(BYTES, translate(Constraint("json_schema", json.dumps(schema))), log_level=0)
    allowed = matcher.validate_tokens(list(b'{"a":1,"\\u0061":"x"}'))
    assert bytes(b'{"a":1,"\\u0061":"x"}'[:allowed]) == b'{"a":1,"\\'


def test_white_space_is_bounded():
    """Two JSON tokens are separated by at most one space, or a new line with its indentation."""
    matcher = LLMatcher(BYTES, translate(Constraint("json_object")), log_level=0)
    assert matcher.validate_tokens(list(b"{  }")) == 2
    indented = b'{\n  "a": [\n    1,\n    2\n  ]\n}'
    assert matcher.validate_tokens(list(indented)) == len(indented)


@pytest.mark.parametrize(("kind", "text", "word"), [
    ("json_schema", "{", "not JSON"),
    ("json_schema", "[]", "not a JSON object"),
    ("json_schema", '{"properties":' * 5000, "nested too deeply"),
    ("json_schema", '{"items":' * 400 + "{}" + "}" * 400, "nested too deeply"),
    ("json_schema", '{"anyOf":[' * 450 + "{}" + "]}" * 450, "nested too deeply"),
    ("json_schema", '{"const": "\\ud800"}', "it cannot be read"),
    ("gbnf", "root ::= missing", "missing"),
    ("gbnf", "root = 'a'", "::="),
    ("gbnf", "other ::= [a]", "root"),
    ("gbnf", "root ::= " + "(" * 5000, "GBNF"),
    ("lark", 'start: %json {"type": "string", "minLenght": 1}', "minLenght"),
    ("lark", 'start: gen\ngen[temperature=0.5]: /a+/', "temperature"),
    ("regex", "a" * (MAX_LENGTH + 1), "262145 characters"),
])
def test_grammar_that_cannot_be_read_is_refused(kind, text, word):
    """A faulty grammar is refused with the reason and the name of its parameter."""
    with pytest.raises(InvalidRequest) as raised:
        translate(Constraint(kind, text, "grammar"))
    assert word in raised.value.message
    assert raised.value.param == "grammar"


def test_word_temperature_is_no_option():
    """A schema, a text or an expression in a Lark grammar may contain the word "temperature"."""
    lark = 'start: "temperature=1" | /[temperature=3]/ | %json {"const": "temperature = 5"}'
    assert "temperature = 5" in translate(Constraint("lark", lark))


JSON_GBNF = r'''
root   ::= object   # llama.cpp's own example has this shape
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
'''


@pytest.mark.parametrize(("grammar", "text", "fits"), [
    (JSON_GBNF, '{"a": [1, -2.5e3, true, null],\n  "é\\n": {}}', True),
    (JSON_GBNF, '{"a": [1,]}', False),
    (JSON_GBNF, "[]", False),
    ('root ::= "\\u00e9\\x41" [\\u0041-\\u0043]{2}', "éABC", True),
    ('root ::= "\\u00e9\\x41" [\\u0041-\\u0043]{2}', "éABD", False),
    ('root ::= "\\x22\\\\x" [^\\x00-\\x1f\\x5d]', '"\\x[', True),
    ('root ::= "\\x22\\\\x" [^\\x00-\\x1f\\x5d]', '"\\x]', False),
    ('root ::= item+\nitem ::= "- " [^\\r\\n]+ "\\n"', "- one\n- two\n", True),
    ('root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" expr ")"', "1+(2*30)/4", True),
    ('root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" expr ")"', "1+", False),
])
def test_gbnf_keeps_its_meaning(grammar, text, fits):
    """A grammar in llama.cpp's notation keeps its meaning."""
    matcher = LLMatcher(BYTES, translate(Constraint("gbnf", grammar)), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == fits
