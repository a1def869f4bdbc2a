"""Grammars of calls whose arguments are not a JSON object."""

import json
from collections.abc import Mapping
from time import process_time

import pytest
from attrs import evolve
from forms_for_tests import BRACES, PYTHON, TAGGED, TYPED
from grammars_for_tests import NAMES, accepts, keeps

from lllms_core.chat import call_constraint
from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.call_grammar import lazy_calls
from lllms_core.chat.fit_tools import write_calls
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Message, Tool, ToolCall

FIELDS: dict[str, object] = {
    "city": {"type": "string", "description": "where"}, "days": {"type": "integer"}, "now": {"type": "boolean"},
    "unit": {"enum": ["c", "f", 1]}, "code": {"type": "string", "pattern": "^[A-Z]+$"},
    "more": {"type": "array", "items": {"type": "string"}},
}


def tool(*required: str, **fields: object) -> Tool:
    return Tool("f", parameters={"type": "object", "properties": fields, "required": list(required)})


def takes(form: CallFormat, used: Tool, text: str, names: Mapping[str, int] | None = None) -> bool:
    """Whether a forced call may be this text; its marks are tokens if they have `names`."""
    request = ChatRequest("1", "m", (Message("user", "?"),), tools=(used,), tool_choice="required")
    return accepts(call_constraint(request, form, names or {}), text, names)


@pytest.mark.parametrize(
    ("arguments", "good"),
    [
        ('city="Rome"', True), ("city='Rome'", True), ("city='L\\'A'", True), ('city="a", days=3', True),
        ('city="a",now=True', True), ('city="a", now=true', True), ('city="a", unit="c"', True),
        ('city="a", unit=1', True), ('city="a", code="AB"', True), ('city="a", more=["x", "y"]', True),
        ("", False), ("days=3", False), ('days=3, city="a"', False), ('city="a", unit="k"', False), ("city=3", False),
        ('city="a", code="ab"', False), ("city='a', code='AB'", True),
        ("city='a', code='ab'", False), ('city="a", more=[1]', False),
        ('city="a" days=3', False), ('city="a", town=1', False),
    ],
)
def test_python(arguments: str, good: bool) -> None:
    """Values are in JSON notation, or with Python's words and quotes, in the order of the schema."""
    assert takes(PYTHON, tool("city", **FIELDS), f"<calls>[f({arguments})]</calls>") == good


@pytest.mark.parametrize("names", [{}, NAMES], ids=["letters", "tokens"])
@pytest.mark.parametrize(
    ("arguments", "good"),
    [
        ('city:<|"|>Ro"me<|"|>', True), ('city:<|"|>a<|"|>,days:3,now:true', True), ("days:3", True), ("", True),
        ('unit:<|"|>c<|"|>', True), ("unit:1", True), ('more:[<|"|>x<|"|>,<|"|>y<|"|>]', True), ("more:[]", True),
        ('code:<|"|>AB<|"|>', True), ('code:"AB"', False), ('code:<|"|>ab<|"|>', False), ("city:Rome", False),
        (",days:3", False), ("more:[1]", False), ('unit:<|"|>k<|"|>', False),
    ],
)
def test_braces(names: dict[str, int], arguments: str, good: bool) -> None:
    """Strings stand between the form's own quotes, and conform to their schema."""
    assert takes(BRACES, tool(**FIELDS), f"<call>call:f{{{arguments}}}</call>", names) == good


@pytest.mark.parametrize("end", ["</p>\n", "</<~>p>\n"])
@pytest.mark.parametrize(
    ("key", "string", "value", "good"),
    [
        ("city", "true", 'a "b"\n</x>', True), ("city", "false", '"a"', False), ("days", "false", "3", True),
        ("days", "true", "3", False), ("now", "false", "true", True), ("now", "false", "True", False),
        ("unit", "true", "c", True), ("unit", "false", "1", True), ("unit", "true", "1", False),
        ("code", "false", '"AB"', False), ("code", "true", "AB", True), ("code", "true", "ab", False),
        ("more", "false", '["x"]', True),
    ],
)
def test_tags_that_tell_strings(end: str, key: str, string: str, value: str, good: bool) -> None:
    """A tag declares whether each value is a string, even if part of the mark that ends values is a token."""
    form = evolve(TYPED, value_end=end)
    text = f'<calls>\n<invoke name="f">\n<p name="{key}" string="{string}">{value}{end}</invoke>\n</calls>'
    assert takes(form, tool(**FIELDS), text, NAMES) == good


def test_plain_tags_hold_words_of_python() -> None:
    """If tags declare nothing about a value, a boolean may be written as in Python."""
    text = "<tool_call>\n<function=f>\n<parameter=now>\n{}\n</parameter>\n</function>\n</tool_call>"
    taken = [takes(TAGGED, tool(**FIELDS), text.format(word)) for word in ("true", "True", "yes")]
    assert taken == [True, True, False]


ROOTS: dict[str, tuple[dict[str, object], list[dict[str, object]], list[dict[str, object]]]] = {
    "allOf": (
        {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"properties": {"b": {"const": 1}}}]},
        [{"a": "x"}, {"a": "x", "b": 1}], [{}, {"b": 1}, {"a": "x", "b": 2}],
    ),
    "anyOf": (
        {"anyOf": [{"properties": {"a": {"const": "x"}}, "required": ["a"]},
                   {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]},
        [{"a": "x"}, {"b": 3}], [{}, {"a": "y"}, {"b": "x"}],
    ),
    "oneOf": (
        {"properties": {"kind": {"type": "string"}}, "required": ["kind"],
         "oneOf": [{"properties": {"kind": {"const": "one"}}},
                   {"properties": {"kind": {"const": "two"}, "n": {"type": "integer"}}, "required": ["n"]}]},
        [{"kind": "one"}, {"kind": "two", "n": 2}], [{"kind": "two"}, {"kind": "three"}, {}],
    ),
    "$ref": (
        {"$ref": "#/$defs/point", "$defs": {"point": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}},
        [{"x": 1}], [{}, {"x": "y"}],
    ),
    "other keys": ({"additionalProperties": {"type": "integer"}}, [{}, {"k": 1}, {"k": 1, "m": 2}], [{"k": "x"}]),
    "patterns": (
        {"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
        [{}, {"n_a": 1}], [{"m": 1}, {"n_a": "x"}],
    ),
    "required beside": ({"properties": {"a": {"type": "integer"}}, "required": ["b"]}, [{"a": 1, "b": 2}], [{"a": 1}]),
    "counted": (
        {"properties": {key: {"type": "integer"} for key in "abc"}, "minProperties": 1, "maxProperties": 2,
         "additionalProperties": False},
        [{"a": 1}, {"b": 1, "c": 2}], [{}, {"a": 1, "b": 1, "c": 1}],
    ),
}


def shown(form: CallFormat, arguments: Mapping[str, object]) -> str:
    return write_calls([ToolCall("1", "f", json.dumps(arguments))], form).strip()


@pytest.mark.parametrize("form", [TAGGED, TYPED, BRACES, PYTHON], ids=["tagged", "typed", "braces", "python"])
@pytest.mark.parametrize("name", ROOTS)
def test_combinations_of_the_whole_arguments(form: CallFormat, name: str) -> None:
    """Combinations and references at a schema's root are enforced, and so are keys other than those that it lists."""
    schema, good, bad = ROOTS[name]
    used = Tool("f", parameters={"type": "object", **schema})
    for arguments in good:
        assert takes(form, used, shown(form, arguments)), arguments
    for arguments in bad:
        assert not takes(form, used, shown(form, arguments)), arguments


def test_an_alternative_of_another_type_allows_no_object() -> None:
    """Beside strings and booleans, only the objects of their own alternative are written."""
    point = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    used = tool("a", a={"anyOf": [{"type": "string", "maxLength": 3}, point, {"type": "boolean"}]})
    for good in ("{x:1}", "true", '<|"|>abc<|"|>'):
        assert takes(BRACES, used, f"<call>call:f{{a:{good}}}</call>"), good
    for bad in ("{}", "{y:1}", '{x:<|"|>b<|"|>}', '<|"|>abcd<|"|>'):
        assert not takes(BRACES, used, f"<call>call:f{{a:{bad}}}</call>"), bad


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "(^a|b)c"}}}, "anchor in its middle"),
        ({"properties": {"a": {"type": "string", "not": {"const": "x"}}}}, "the keyword 'not'"),
        ({"properties": {"a": {"$ref": "https://x.org/y"}}, "required": ["a"]}, "leads out of the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/y"}}, "required": ["a"]}, "leads nowhere"),
        ({"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, "do not visibly exclude each other"),
        ({"dependentRequired": {"a": ["b"]}}, "the keyword 'dependentRequired'"),
        ({"properties": {"a": {"type": "string", "frobnicate": 1}}}, "the keyword 'frobnicate'"),
        ({"properties": {"a": {}}, "minProperties": 3}, "no object can conform"),
        ({"properties": {" a": {"type": "string"}}, "required": [" a"]}, "nothing can be written for ' a'"),
        ({"properties": {"a": {"enum": []}}, "required": ["a"]}, "nothing can be written for 'a'"),
    ],
)
def test_what_a_form_cannot_keep_is_refused_with_the_reason(schema: dict[str, object], reason: str) -> None:
    """A forced or strict call with such a schema is refused; otherwise only the name is enforced."""
    used = Tool("f", parameters={"type": "object", **schema})
    request = ChatRequest("1", "m", (Message("user", "?"),), tools=(used,))
    with pytest.raises(UnsupportedParameter, match=reason) as caught:
        call_constraint(evolve(request, tool_choice="required"), TAGGED, {})
    assert caught.value.param == "tools"
    with pytest.raises(UnsupportedParameter, match=reason):
        lazy_calls(evolve(request, tools=(evolve(used, strict=True),)), TAGGED, {})
    text = "<tool_call>\n<function={}>\n<parameter=k>\n1\n</parameter>\n</function>\n</tool_call>"
    lazy = lazy_calls(request, TAGGED, {})
    assert [keeps(lazy, text.format(name)) for name in ("f", "g")] == [True, False]


def test_keys_with_other_characters() -> None:
    """Keys with symbols are unquoted where they are distinct from the end of a key, else in the form's quotes."""
    used = tool(**{key: {"type": "integer"} for key in ("@at", "$filter", "a/b", "[0]", "k:1", "\u0416 x")})
    written = '@at:1,$filter:2,a/b:3,[0]:4,<|"|>k:1<|"|>:5,<|"|>\u0416 x<|"|>:6'
    assert takes(BRACES, used, f"<call>call:f{{{written}}}</call>")
    assert takes(PYTHON, used, "<calls>[f(@at=1, $filter=2, a/b=3, [0]=4)]</calls>")


@pytest.mark.parametrize(("mark", "good"), [("<tool_call>\n<function=", True), ("<function=", True), ("<func=", False)])
def test_a_call_is_kept_from_the_first_mark_that_is_there(mark: str, good: bool) -> None:
    """A model may leave out the first tag; text that is not a mark is free."""
    lazy = lazy_calls(ChatRequest("1", "m", (Message("user", "?"),), tools=(tool(),)), TAGGED, {})
    assert keeps(lazy, f"So: {mark}nobody>\n") != good
    assert keeps(lazy, f"So: {mark}f>\n</function>\n</tool_call> Then: <func")


def test_hostile_schemas_take_no_time() -> None:
    """References that double at each step, thousands of alternatives, and slow patterns are refused at once."""
    doubling = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(60)}
    many = [{"properties": {"a": {"const": at}}} for at in range(5_000)]
    wide = {f"w{at}": {"type": "object", "properties": {"x": {"description": "x" * 4000}}} for at in range(40)}
    refers = {f"k{at}": {"type": "array", "items": {"$ref": "#/properties/k1"}} for at in range(100)}
    schemas: list[dict[str, object]] = [
        {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**doubling, "d60": {"type": "string"}}},
        {"$ref": "#/$defs/d0", "$defs": {**doubling, "d60": {"type": "object"}}}, {"anyOf": many},
        {"allOf": [{"anyOf": many[:30]}] * 30}, {"properties": refers, "$defs": wide}, {"$ref": "#"},
        {"properties": {"a" * 60: {"type": "string"}}, "patternProperties": {"^(a+)+$": {}}},
    ]
    started = process_time()
    for schema in schemas:
        request = ChatRequest("1", "m", (Message("user", "?"),), tools=(Tool("f", parameters=schema),))
        with pytest.raises(UnsupportedParameter):
            call_constraint(evolve(request, tool_choice="required"), TAGGED, {})
        for form in (TAGGED, BRACES):
            assert len(lazy_calls(request, form, {}).constraint.text) < 200_000
    assert process_time() - started < 5
