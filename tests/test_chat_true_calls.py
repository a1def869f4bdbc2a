"""A call reaches the client as the model wrote it, or else its text does: nothing is truncated, lost or invented."""

import json
from time import process_time

import jsonschema
import pytest
from answers_for_tests import FUNCTION, THINK, Answer, hermes, is_json, read
from forms_for_tests import BARE, BRACES, FORMS, NAMED, NESTED, TAGGED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lllms_core.chat.answer_format import HERMES, CallFormat
from lllms_core.chat.argument_types import ANY, ArgumentTypes, names_within, type_of
from lllms_core.chat.fit_tools import write_calls
from lllms_core.chat.json_copy import Malformed, mended
from lllms_core.types import Tool, ToolCall

PLOT = Tool("plot", parameters={"properties": {"function": {}, "args": {}, "type": {}, "id": {}}})
LS = ("run", {"command": "ls"})


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r'{"command": "rm -rf /tmp/a\ b"}', {"command": r"rm -rf /tmp/a\ b"}),
        (r'{"command": "C:\Users\ann"}', {"command": r"C:\Users\ann"}),
        (r'{"command": "x = \d, \u12, \u0041"}', {"command": r"x = \d, \u12, A"}),
        ('{"command": "a\nb\t"}', {"command": "a\nb\t"}),
        ("{'command': 'it's \"a\" \\'b\\'.py'}", {"command": "it's \"a\" 'b'.py"}),
        ('{"command": None, "n": [True, False,]}', {"command": None, "n": [True, False]}),
        ('{"command": "ls", }', {"command": "ls"}),
    ],
)
def test_broken_json_is_mended_without_loss(written: str, value: object) -> None:
    """Unambiguous errors are repaired: backslashes, line breaks, single quotes, Python's words, a trailing comma."""
    assert read(hermes(f'{{"name": "run", "arguments": {written}}}')).made == [("run", value)]
    assert json.loads(mended(written)) == value


@pytest.mark.parametrize(
    "written",
    [
        '{"command": "echo "hi""}', '{"command": "echo "}", "n": 1}', '{"command": ls}', '{"command": "ls" "n": 1}',
        '{"command": "ls"', '{"command": "ls', '{"n": [1, 2}', '{"n": 01}', '{"n": NaN}', '["ls"]', '"ls"', "7",
        "{'command': 'a', b'}", '{"n": ' + "[" * 70 + "]" * 70 + "}",
    ],
)
@pytest.mark.parametrize("form", [HERMES, NAMED], ids=["hermes", "named"])
def test_other_broken_json_is_text(written: str, form: CallFormat) -> None:
    """A call whose arguments are not JSON is text, as the model wrote it, and no other call is made of it."""
    call = f'{{"name": "run", "arguments": {written}' if form is HERMES else f"run{form.name_end}{written}"
    raw = f"So: {form.section_start}{form.call_start}{call}"
    assert (raw, []) == (read(raw, form).text, read(raw, form).calls)
    if form is NAMED or written != '{"command": "ls"':  # closed by the bracket that closes the call
        raw += "}" * (form is HERMES) + form.call_end + form.section_end + " Done."
        assert (raw, []) == (read(raw, form).text, read(raw, form).calls)


def test_a_call_after_a_broken_one_is_read() -> None:
    """A broken call does not take the next one with it."""
    broken = hermes('{"name": "run", "arguments": {"command": "x}}')
    answer = read(broken + "\n" + hermes('{"name": "run", "arguments": {"command": "ls"}}'))
    assert (answer.text, answer.made) == (broken, [LS])


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "run", "parameters": {"command": "ls"}}', '{"name": "run", "args": {"command": "ls"}}',
        '{"parameters": {"command": "ls"}, "name": "run"}', '{"name": "run", "command": "ls"}',
        '{"command": "ls", "name": "run", "id": "7", "type": "function"}',
        '{"name": "run", "arguments": {}, "parameters": {"command": "ls"}}',
        '{"name": "run", "arguments": null, "command": "ls"}',
        r'{"name": "run", "arguments": "{\"command\": \"ls\"}"}', r'{"name": "run", "input": "{\"command\": \"ls\"}"}',
        '{"function": "run", "arguments": {"command": "ls"}}',
        '{"type": "function", "function": {"name": "run", "arguments": {"command": "ls"}}}',
        '{"type": "function", "function": {"name": "run", "command": "ls"}}',
        "{'name': 'run', 'arguments': {'command': 'ls'}}",
        '{"name": "run", "arguments": {"command": "ls"}', '{"name": "run", "arguments": {"command": "ls"}}}',
    ],
)
def test_arguments_are_read_where_they_are(call: str) -> None:
    """Arguments may be under another key, beside the name, inside a string, or with a bracket too few or too many."""
    assert read(hermes(call)) == Answer(calls=[["call_7_0", "run", read(hermes(call)).calls[0][2]]])
    assert read(hermes(call)).made == [LS]
    nested = read(f"<c>{call}</c>", NESTED)
    assert (nested.text, nested.made) == ("", [LS])


@pytest.mark.parametrize(
    "call", ['{"name": "run", "cmd": "ls"}', '{"name": "run", "arguments": "ls"}', '{"name": "run", "args": ["ls"]}'],
)
def test_arguments_that_are_not_understood_are_not_none(call: str) -> None:
    """Possible arguments are never dropped from a call: if they are not understood, the whole call is text."""
    answer = read(hermes(call))
    assert (hermes(call), []) == (answer.text, answer.calls)


def test_an_argument_may_have_any_name() -> None:
    """If a tool has an argument with such a name, the key does not mean all arguments."""
    made = [read(hermes(call), tools=[PLOT]).made for call in (
        '{"name": "plot", "function": {"a": 1}}', '{"name": "plot", "args": {"a": 1}, "type": "function"}',
        '{"name": "plot", "id": 7, "type": "line"}', '{"name": "plot", "arguments": {"args": {}}}',
        '{"name": "plot", "id": 7, "arguments": {}, "thought": "none"}', '{"name": "plot", "type": "function"}',
    )]
    assert [arguments for [(_, arguments)] in made] == [
        {"function": {"a": 1}}, {"args": {"a": 1}}, {"id": 7, "type": "line"}, {"args": {}}, {}, {},
    ]


@pytest.mark.parametrize(
    "raw",
    [
        '{"name": "run", "cmd": "ls"}', '{"name": "Ann", "command": "ls"}', '{"command": "ls", "name": "run"}',
        '{"name": "run"}', '{"input": {"command": "ls"}}', '{"function": "f", "arguments": {}}',
    ],
)
def test_an_object_that_is_an_answer_is_text(raw: str) -> None:
    """If calls are unannounced, an object that is not surely a call is an answer."""
    assert read(raw, BARE) == Answer(raw)
    assert read('{"name": "run", "arguments": {"command": "ls"}}', BARE).made == [LS]
    assert read('{"name": "run", "command": "ls"}', BARE).made == [LS]


SCHEMA: dict[str, object] = {
    "type": "object",
    "$defs": {
        "text": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}, "a/b": {"type": ["string", "null"]},
        "base": {"properties": {"based": {"type": "string"}}},
    },
    "allOf": [{"$ref": "#/$defs/base"}],
    "properties": {
        "list": {"type": ["string", "null"]}, "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "one": {"oneOf": [{"type": "string"}, {"type": "integer"}]}, "all": {"allOf": [{"type": "string"}]},
        "ref": {"$ref": "#/$defs/text"}, "deep": {"$ref": "#/$defs/a~1b"}, "enum": {"enum": ["1", "true"]},
        "mixed": {"enum": ["1", 2]}, "const": {"const": "7"}, "null": {"type": "string", "nullable": True},
        "free": {}, "count": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}, "far": {"$ref": "http://x/y"},
        "parts": {"type": ["array", "string"]}, "ratio": {"type": ["number", "string"]},
    },
    "additionalProperties": {"type": "string"},
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("list", "12345", "12345"), ("list", "null", None), ("any", "true", "true"), ("any", '"x"', '"x"'),
        ("one", "7", 7), ("one", "7.5", "7.5"), ("one", " 7 ", 7), ("all", "1.5", "1.5"),
        ("ref", '{"a": 1}', '{"a": 1}'),
        ("deep", "[1]", "[1]"), ("deep", "null", None), ("enum", "1", "1"), ("enum", "true", "true"),
        ("mixed", "1", "1"), ("mixed", "2", 2), ("const", "7", "7"), ("null", "null", None), ("null", "1", "1"),
        ("free", "7", 7), ("free", "x", "x"), ("count", "7", 7), ("count", "x", "x"), ("loop", "7", 7), ("far", "7", 7),
        ("parts", "['a', 1]", ["a", 1]), ("parts", "7", "7"), ("ratio", "3", 3), ("ratio", "True", "True"),
        ("based", "7", "7"), ("other", "7", "7"), ("count", "True", "True"), ("count", " 7.5", "7.5"),
        ("list", " a\n", " a\n"),
    ],
)
def test_a_value_between_tags_is_typed_by_its_schema(key: str, text: str, value: object) -> None:
    """A value is parsed as JSON if the schema allows the resulting type; otherwise it is a string."""
    raw = f"<tool_call>\n<function=f>\n<parameter={key}>\n{text}\n</parameter>\n</function>\n</tool_call>"
    [(_, arguments)] = read(raw, TAGGED, tools=[Tool("f", parameters=SCHEMA)]).made
    assert arguments == {key: value}
    assert type(arguments[key]) is type(value)


PLAIN: list[object] = [
    {}, True, {"type": "string"}, {"type": ["integer", "null"]}, {"type": "number"}, {"enum": ["1", 2.5, None]},
    {"const": True}, {"const": []}, {"$ref": "#/$defs/text"}, {"type": "object"}, {"type": "array", "enum": [[], 1]},
]
SCHEMAS = st.recursive(
    st.sampled_from(PLAIN),
    lambda inner: st.builds(
        lambda key, parts, more: {key: parts, **more}, st.sampled_from(["anyOf", "allOf"]),
        st.lists(inner, min_size=1, max_size=3), st.sampled_from([{}, {"type": "string"}, {"enum": [1, "1"]}]),
    ),
    max_leaves=5,
)
SAMPLES = [None, True, 1, 2.5, -1.0, "", "1", "a", [], [1], {}, {"a": 1}]


@given(SCHEMAS, st.sampled_from(["properties", "additionalProperties"]), st.booleans())
def test_types_are_those_of_valid_values(schema: object, where: str, combined: bool) -> None:
    """Every value that a schema allows has one of the types that are derived from it."""
    part: dict[str, object] = {where: {"a": schema} if where == "properties" else schema}
    whole = {"$defs": {"text": {"type": "string"}}, **({"allOf": [part]} if combined else part)}
    validator = jsonschema.Draft202012Validator(whole)
    types = ArgumentTypes(whole).of("a")
    assert {type_of(value) for value in SAMPLES if validator.is_valid({"a": value})} <= types


def test_schemas_of_any_kind_are_read() -> None:
    """Circular references, references nested hundreds deep, and schemas of wrong types restrict nothing."""
    chain = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(3000)}
    twice = {f"e{at}": {"anyOf": [{"$ref": f"#/$defs/e{at + 1}"}] * 2} for at in range(60)}
    parts: dict[str, object] = {
        "$defs": {**chain, **twice}, "anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/e0"}, 7], "allOf": "x",
        "properties": {"a": {"$ref": "#/$defs/d0"}, "b": {"$ref": "#/$defs/e0"}, "c": False, "d": {"type": []}, "e": 1},
    }
    start = process_time()
    types = ArgumentTypes(parts)
    assert [types.of(name) for name in "abcdef"] == [ANY] * 6
    assert [types.listed(name) for name in "abcdef"] == [()] * 6
    assert types.names() == set("abcde")
    assert names_within({"properties": {"a": {"items": [{"properties": {"b": 1}}]}}}) == {"a", "b"}
    assert process_time() - start < 5


# -- calls that are slightly wrong -------------------------------------------------------------------------------------

def test_the_opening_mark_may_be_left_out() -> None:
    """A call with its function tag and its end is one even without the first mark, if its tool is offered."""
    for raw in (f"{FUNCTION}\n</tool_call>", FUNCTION, f"<tool_call>{FUNCTION}"):
        assert (read(raw, TAGGED).text, read(raw, TAGGED).made) == ("", [LS])
    two = read(f"So.\n{FUNCTION}\n</tool_call>\n{FUNCTION}\n</tool_call>", TAGGED)
    assert (two.text, two.made) == ("So.", [LS, LS])
    deepseek = CallFormat(
        "named", section_start="<calls|begin>", call_start="<call|begin>function<sep>", name_end="\n",
        call_end="<call|end>", separator="\n", section_end="<calls|end>",
    )
    raw = '<call|begin>function<sep>run\n{"command": "ls"}<call|end><calls|end>'
    assert (read(raw, deepseek).text, read(raw, deepseek).made) == ("", [LS])
    stranger, unclosed = FUNCTION.replace("run", "nobody") + "\n</tool_call>", FUNCTION.removesuffix("</function>")
    for raw in (stranger, unclosed, FUNCTION[:20]):
        assert read(raw, TAGGED) == Answer(raw)


def test_calls_end_thoughts_that_were_not_closed() -> None:
    """Complete calls of offered tools at the end of thoughts are calls; those followed by more thoughts are not."""
    call, add = hermes('{"name": "run", "arguments": {"command": "ls"}}'), hermes('{"name": "add", "arguments": {}}')
    end = {"reasoning": THINK, "thinking": True}
    answer = read(f"Hm.\n{call}\n{add}\n", **end)
    assert (answer.text, answer.reasoning, answer.made) == ("", "Hm.", [LS, ("add", {})])
    assert read(f"Hm.\n{call}\n{add}", **end, parallel=False).made == [LS]
    assert read(f"<think>{FUNCTION}\n</tool_call>", TAGGED, reasoning=THINK).made == [LS]
    stranger = hermes('{"name": "nobody", "arguments": {}}')
    for thought in (f"Hm.\n{call}\nOr {add} not.", f"Hm.\n{stranger}", f"Hm.\n{call[:-20]}"):
        assert read(thought, **end) == Answer("", thought)
        assert read(f"{thought}\n</think>\nYes.", **end) == Answer("Yes.", thought)
    assert read(f"Hm.\n{call}", **end, complete=False) == Answer("", f"Hm.\n{call}")


def test_keys_in_braces_have_any_characters() -> None:
    """Unquoted keys may contain symbols and spaces; those of the schema may even contain commas and brackets."""
    raw = (
        '<call>call:es{body:{sort:{@timestamp:<|"|>desc<|"|>}},$filter:1,a/b:true,xml:lang:<|"|>en<|"|>,f[0]:[1],'
        "my key:{}}</call>"
    )
    keys = {"$filter": 1, "a/b": True, "xml:lang": "en", "f[0]": [1], "my key": {}}
    assert read(raw, BRACES).made == [("es", {"body": {"sort": {"@timestamp": "desc"}}, **keys})]
    odd = Tool("odd", parameters={"properties": {"a, b": {}, "{c}": {"properties": {"d:1": {}, "d": {}}}, " e": {}}})
    raw = "<call>call:odd{a, b:1,{c}:{d:1:2,d:1}, e:3}</call>"
    assert read(raw, BRACES, tools=[odd]).made == [("odd", {"a, b": 1, "{c}": {"d:1": 2, "d": 1}, " e": 3})]
    raw = "<call>call:odd{city:Paris}</call>"
    assert read(raw, BRACES, tools=[odd]) == Answer(raw)


KEYS = st.text("ab:/@$[], {\u00e9", min_size=1, max_size=4).filter(lambda key: key[0] != "{" and key.strip() == key)


@settings(deadline=None)
@given(st.dictionaries(KEYS, st.integers() | st.text("ab ", max_size=3), max_size=2))
@example({": :[": 0})
@example({"a :{": "a", "b": 1})
def test_keys_of_the_schema_are_read_in_braces(arguments: dict[str, object]) -> None:
    """Whatever names a schema has, a call with them in braces comes back, unless one is a prefix of another."""
    names = list(arguments)
    if not any(one != other and one.startswith(other) for one in names for other in names):
        raw = write_calls([ToolCall("c", "f", json.dumps(arguments))], BRACES)
        tool = Tool("f", parameters={"properties": {name: {} for name in names}})
        assert read(raw, BRACES, tools=[tool]).made == [("f", arguments)]


def test_a_tool_that_is_not_offered_is_called() -> None:
    """A call of an unknown name is a call in every form that announces calls; one of an impossible name is text."""
    for name, form in FORMS.items():
        raw = write_calls([ToolCall("c", "W-get_it", '{"a": 1}')], form)
        assert read(raw, form).made == ([] if name == "bare" else [("W-get_it", {"a": 1})])
    raw = hermes('{"name": "not a name", "arguments": {}}')
    assert read(raw) == Answer(raw)
    assert read(raw.replace("not a name", "x"), tools=()) == Answer(raw.replace("not a name", "x"))


BROKEN = ["\\ ", "\\d", "\\U", "a", "\n", "\x01", "\\u12x", "\u00e9", "'", "/"]


@given(st.lists(st.sampled_from(BROKEN)), st.sampled_from("\"'"))
def test_mending_keeps_every_character(pieces: list[str], quote: str) -> None:
    """A string with wrong escapes and raw control characters keeps every character."""
    text = "".join(pieces)
    if quote == '"' or "'" not in text:
        assert json.loads(mended(f'{{"a": {quote}{text}{quote}}}')) == {"a": text}


@given(st.text('{}[]",:\\ 1atrue\'', max_size=30))
def test_what_is_mendedis_json(text: str) -> None:
    """Any text is repaired to valid JSON, or refused; valid JSON is unchanged."""
    valid = is_json(text)
    try:
        result = mended(text)
    except Malformed:
        assert not valid
    else:
        assert is_json(result)
        if valid:
            assert result.strip() == text.strip()
