import json
from random import Random

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from lllms_llamacpp.grammars import MAX_LENGTH, translate
from lllms_llamacpp.schemas import FORMATS, find_fault
from lllms_llamacpp.trial import limits

from lllms_core.errors import InvalidRequest
from lllms_core.types import Constraint

BYTES = LLTokenizer("byte")
END = BYTES.eos_token
CLOSING = set(b'"}]')
LIKELY = CLOSING | set(b":,abxy0123456789")

# -- schemas of all shapes ---------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "x y", "é"])
few = st.integers(0, 3)
texts = st.fixed_dictionaries({"type": st.just("string")}, optional={
    "minLength": few, "maxLength": st.integers(3, 8), "pattern": st.sampled_from(["^a+$", "x|y$", "\\d{2}", "[^a]"]),
})
formatted = st.sampled_from(sorted(FORMATS)).map(lambda form: {"type": "string", "format": form})
integers = st.fixed_dictionaries({"type": st.just("integer")}, optional={
    "minimum": st.integers(-20, 20), "exclusiveMaximum": st.integers(0, 500), "multipleOf": st.sampled_from([2, 7]),
})
numbers = st.fixed_dictionaries({"type": st.just("number")}, optional={
    "exclusiveMinimum": st.sampled_from([-3, 0.5]), "maximum": st.sampled_from([10, 99.5]),
    "multipleOf": st.sampled_from([0.5, 0.25]),
})
values = st.sampled_from(["a", "b\n", 1, 2.5, None, True, {"a": 1}, [1, "é"], "", '"q\\'])
constants = values.map(lambda one: {"const": one})
chosen = st.one_of(constants, st.lists(values, min_size=1).map(lambda several: {"enum": several}))
typed = st.lists(st.sampled_from(["string", "integer", "null", "boolean", "object"]), min_size=1, unique=True)
leaves = st.one_of(texts, formatted, integers, numbers, chosen, typed.map(lambda types: {"type": types}), st.booleans())


def larger(inner):
    objects = st.fixed_dictionaries({"type": st.just("object")}, optional={
        "properties": st.dictionaries(names, inner, max_size=3), "required": st.lists(names, max_size=2, unique=True),
        "additionalProperties": inner, "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner),
        "minProperties": few, "maxProperties": st.integers(1, 3),
    })
    arrays = st.fixed_dictionaries({"type": st.just("array")}, optional={
        "items": inner, "prefixItems": st.lists(inner, min_size=1, max_size=2), "minItems": few,
        "maxItems": st.integers(2, 4),
    })
    combined = st.dictionaries(st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(inner, min_size=1, max_size=3),
                               min_size=1, max_size=2)
    return st.one_of(objects, arrays, combined)


schemas = st.recursive(leaves, larger, max_leaves=8).filter(lambda schema: isinstance(schema, dict))


def write(schema, random):
    """Write a text that the grammar of a schema allows, at random; None if the schema is refused or the text long."""
    try:
        grammar = translate(Constraint("json_schema", json.dumps(schema)))
    except InvalidRequest:
        return None
    matcher = LLMatcher(BYTES, grammar, log_level=0, limits=limits())
    if matcher.is_error():
        return None
    text = bytearray()
    for step in range(1000):
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error() and not step:
            return None  # nothing matches, which the engine finds out when it compiles
        assert not matcher.is_error(), matcher.get_error()
        allowed = [byte for byte in range(256) if bits >> byte & 1]
        if bits >> END & 1 and (not allowed or step > 50 or random.random() < 0.3):
            return text.decode()
        choice = [byte for byte in allowed if byte in (CLOSING if step > 50 else LIKELY)]
        text.append(random.choice(choice if choice and random.random() < 0.9 else allowed))
        assert matcher.consume_token(text[-1])
        if matcher.is_stopped():
            return text.decode()
    return None


@settings(max_examples=80, deadline=None)
@given(schemas, st.integers(0, 2**32))
def test_what_the_grammar_allows_is_valid(schema, seed):
    """Whatever text the grammar of a schema allows is JSON, and valid for the schema; it never ends in a dead end."""
    text = write(schema, Random(seed))
    assume(text is not None)
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(("schema", "word"), [
    ({"not": {}}, "'not'"),
    ({"type": "string", "minLenght": 3}, "'minLenght'"),
    ({"type": "string", "nullable": True}, '["string", "null"]'),
    ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "in properties.a.items: the keyword 'uniqueItems'"),
    ({"$defs": {"d": {"anyOf": [{}, {"if": {}}]}}}, "in $defs.d.anyOf[1]: the keyword 'if'"),
    ({"x-guidance": {"lenient": True}, "not": {}}, "'x-guidance'"),
    ({"type": "integer", "format": "int32"}, "'int32'"),
    ({"type": "string", "format": "phone"}, "'phone'"),
    ({"prefixItems": [{}], "additionalItems": False}, "'additionalItems'"),
    ({"minProperties": 2}, "'minProperties': 2"),
    ({"const": 2**53 + 1}, "too large"),
    ({"enum": [[{"a": 123456789.12345679}]]}, "in enum: the number 123456789.12345679"),
    ({"type": "number", "maximum": 1e400}, "in maximum: a number is too large"),
    ({"const": "\0"}, "control characters"),
    ({"properties": {"\x01": {}}}, "control characters"),
    ({"properties": {"a": 3}}, "in properties.a: a schema is an object or a boolean, not 3"),
    ({"contentEncoding": "base64"}, "'contentEncoding'"),
])
def test_what_would_be_ignored_is_refused(schema, word):
    """A keyword, format or value that llguidance would not keep, or not exactly, is found and named, with its place."""
    assert word in str(find_fault(schema))
    with pytest.raises(InvalidRequest) as raised:
        translate(Constraint("json_schema", json.dumps(schema), "tools[0].function.parameters"))
    assert raised.value.param == "tools[0].function.parameters"
    assert raised.value.code == "invalid_json_schema"
    assert word in raised.value.message


@pytest.mark.parametrize("schema", [
    {"title": "T", "description": "d", "default": {"not": 1}, "examples": [{}], "deprecated": True, "x-order": 3},
    {"properties": {"not": {"type": "string"}, "format": {"const": "int32"}}},
    {"minProperties": 2, "required": ["a", "b"]},
    {"minProperties": 2, "properties": {"a": {}, "b": {}}, "additionalProperties": False},
    {"const": 0.1, "enum": [1e22, -5, "\n"]},
    {"items": [{}], "additionalItems": False},
])
def test_what_says_nothing_is_no_fault(schema):
    """Annotations, names of properties that look like keywords, and values that can be kept are no faults."""
    assert find_fault(schema) is None


def test_name_is_not_spelt_twice():
    """A property cannot come again under a name that is spelt with an escape, with a value of another schema."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    matcher = LLMatcher(BYTES, translate(Constraint("json_schema", json.dumps(schema))), log_level=0)
    allowed = matcher.validate_tokens(list(b'{"a":1,"\\u0061":"x"}'))
    assert bytes(b'{"a":1,"\\u0061":"x"}'[:allowed]) == b'{"a":1,"\\'


def test_white_space_is_bounded():
    """Between two tokens of JSON stands at most a space, or a new line with its indentation."""
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
    """A grammar with a fault is refused with the reason, and with the parameter that brought it."""
    with pytest.raises(InvalidRequest) as raised:
        translate(Constraint(kind, text, "grammar"))
    assert word in raised.value.message
    assert raised.value.param == "grammar"


def test_word_temperature_is_no_option():
    """A schema, a text or an expression in a Lark grammar may speak of temperatures."""
    lark = 'start: "temperature=1" | /[temperature=3]/ | %json {"description": "temperature = 5"}'
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
    """A grammar in llama.cpp's notation allows what it says."""
    matcher = LLMatcher(BYTES, translate(Constraint("gbnf", grammar)), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == fits
