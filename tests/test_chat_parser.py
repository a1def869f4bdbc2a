"""How answers in the forms of model families are read, however they are split."""

import itertools
import json
import string

import pytest
from answers_for_tests import THINK, TOOLS, Answer, parse
from forms_for_tests import FORMS, TAGGED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lllms_core.chat.answer_format import HERMES, AnswerFormat
from lllms_core.chat.fit_tools import write_calls
from lllms_core.chat.parser import AnswerParser
from lllms_core.types import ToolCall

WEATHER = ("get_weather", {"city": "Paris"})
ADD = ("add", {"a": 1, "b": 2.5})
HERMES_ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HERMES_TWO = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}\n</tool_call>'

CASES: list[tuple[str, str, str, list[tuple[str, object]]]] = [
    ("hermes", "Hello < world", "Hello < world", []),
    ("hermes", HERMES_ONE, "", [WEATHER]),
    ("hermes", f"Let me see.\n\n{HERMES_ONE}\n{HERMES_TWO}", "Let me see.", [WEATHER, ADD]),
    ("hermes", f"{HERMES_ONE} Done. {HERMES_TWO}", " Done.", [WEATHER, ADD]),
    ("hermes", '<tool_call>{"arguments":{"city":"Paris"},"name":"get_weather"}</tool_call>', "", [WEATHER]),
    ("hermes", '<tool_call> {"name": "add"} </tool_call>', "", [("add", {})]),
    ("hermes", '<tool_call>{"name": "add", "arguments": null}</tool_call>', "", [("add", {})]),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("add", {"a": 1})]),
    ("hermes", '<tool_call>{"id": [1, {}], "name": "add", "arguments": {}}', "", [("add", {})]),
    # A call of a tool that is not offered is still a call: the client can answer it.
    ("hermes", '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>', "", [("nobody", {})]),
    ("hermes", '<tool_call>{"name": "no body", "arguments": {}}</tool_call>',
     '<tool_call>{"name": "no body", "arguments": {}}</tool_call>', []),
    ("hermes", "The tag <tool_call> begins a call.", "The tag <tool_call> begins a call.", []),
    ("hermes", "<tool_call>\n{", "<tool_call>\n{", []),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb\\u00e9\\"{}"}}', "",
     [("get_weather", {"city": 'a\nb\u00e9"{}'})]),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": [1, {"x": [true, null]}, -1.5e3], "b": {}}}', "",
     [("add", {"a": [1, {"x": [True, None]}, -1500.0], "b": {}})]),
    # A call whose arguments are broken or incomplete is text.
    *(("hermes", raw, raw, []) for raw in (
        '<tool_call>{"name": "get_weather", "arguments": {"city": Paris}}</tool_call>',
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Par',
        '<tool_call>{"name": "add", "arguments": {"a": [1, ',
        '<tool_call>{"name": "add", "arguments": {"a": 1,, }}</tool_call>',
    )),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1,}}', "", [("add", {"a": 1})]),
    ("bare", '{"name": "add", "parameters": {"a": 1, "b": 2.5}}', "", [ADD]),
    ("bare", ('\n{"type": "function", "name": "add", "parameters": {"a": 1, "b": 2.5}}; '
             '{"name": "get_weather", "parameters": {"city": "Paris"}}'), "", [ADD, WEATHER]),
    ("bare", '{"name": "Ann", "age": 31}', '{"name": "Ann", "age": 31}', []),
    ("bare", '{"name": "add"}', '{"name": "add"}', []),
    ("bare", '{"answer": 1}', '{"answer": 1}', []),
    ("bare", 'So: {"name": "add", "parameters": {}}', 'So: {"name": "add", "parameters": {}}', []),
    ("list", ('[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": 2.5}}, '
             '{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abc"}]'), "", [ADD, WEATHER]),
    ("list", '[TOOL_CALLS][{"name":"add","arguments":{"a":1,"b":2.5}}]x', "x", [ADD]),
    ("nested", '<c>{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2.5}}}</c>', "", [ADD]),
    ("named", ('<calls><call>function<sep>add\n```json\n{"a": 1, "b": 2.5}\n```</call>\n'
              '<call>function<sep>get_weather\n```json\n{"city": "Paris"}\n```</call></calls>'), "", [ADD, WEATHER]),
    ("tagged", ("<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
               "</tool_call>\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2.5\n</parameter>\n"
               "</function>\n</tool_call>"), "", [WEATHER, ADD]),
    ("tagged", ("<tool_call>\n<function=get_weather>\n<parameter=city>\n  a \"b\"\n\n<c>\n\n</parameter>\n</function>\n"
               "</tool_call>"), "", [("get_weather", {"city": '  a "b"\n\n<c>\n'})]),
    ("tagged", ("<tool_call><function=add><parameter=a>[1, 2]</parameter><parameter=b>True</parameter>"
               "<parameter=c>word</parameter></function></tool_call>!"), "!",
     [("add", {"a": "[1, 2]", "b": "True", "c": "word"})]),
    ("tagged", "<tool_call>\n<function=add>\n</function>\n</tool_call>", "", [("add", {})]),
    ("python", 'Well. <calls>[add(a=1, b=2.5), get_weather(city="Paris")]</calls>', "Well.", [ADD, WEATHER]),
    ("python", "<calls>[ get_weather ( city = 'Paris', ) ]</calls>", "", [WEATHER]),
    ("python", "<calls>[add()]</calls> Done.", " Done.", [("add", {})]),
    ("python", """<calls>[add(a=[1., .5, 1_000, -2e3, (True, None), "x"], b={'k': {"v": false}, "e": {}})]</calls>""",
     "",
     [("add", {"a": [1.0, 0.5, 1000, -2000.0, [True, None], "x"], "b": {"k": {"v": False}, "e": {}}})]),
    ("python", r"""<calls>[get_weather(city='L\'Aquila "\x41\u00e9\n\q\\"')]</calls>""", "",
     [("get_weather", {"city": 'L\'Aquila "A\u00e9\n\\q\\"'})]),
    # Quotes that should have been escaped, as some templates write them.
    ("python", """<calls>[get_weather(city='L'Aquila "x"\n')]</calls>""", "",
     [("get_weather", {"city": 'L\'Aquila "x"\n'})]),
    ("python", '<calls>[nobody(a=1)]</calls>', "", [("nobody", {"a": 1})]),
    ("python", '<calls>[add(1)]</calls>', '<calls>[add(1)]</calls>', []),
    ("python", "See add(a=1), or [add(a=1)].", "See add(a=1), or [add(a=1)].", []),
    *(("python", raw, raw, []) for raw in (
        "<calls>[add(a=b)]</calls>", "<calls>[add(a=[1, {'x': 'y", "<calls>[add(a=1",
    )),
    ("braces", '<call>call:add{a:1,b:2.5}</call><call>call:get_weather{city:<|"|>Paris<|"|>}</call>', "",
     [ADD, WEATHER]),
    ("braces", "<call>call:add{a:[<|\"|>x <|\"|>,None,{k:{}}],b:{c:<|\"|>\"'\\n<|\"|>}}</call>", "",
     [("add", {"a": ["x ", None, {"k": {}}], "b": {"c": "\"'\\n"}})]),
    ("braces", '<call>call:get_weather{city:"Paris"}</call>!', "!", [WEATHER]),
    ("braces", "<call>call:add{}</call>", "", [("add", {})]),
    ("braces", "<call>call:nobody{}</call>", "", [("nobody", {})]),
    ("lines", '<calls>\nadd(a=1, b=2.5)\nget_weather(city="Paris")\n</calls> Done.', " Done.", [ADD, WEATHER]),
    ("lines", "<calls>\nadd()\nnobody()\n</calls>", "", [("add", {}), ("nobody", {})]),
    ("lines", "<calls>\nadd()\nnobody(1)\n</calls>", "\nnobody(1)\n</calls>", [("add", {})]),
    ("typed", ('<calls>\n<invoke name="get_weather">\n<p name="city" string="true">Paris</p>\n</invoke>\n'
               '<invoke name="add">\n<p name="a" string="false">1</p>\n<p name="b" string="false">2.5</p>\n</invoke>\n'
               "</calls>"), "", [WEATHER, ADD]),
    # The tag declares the type of a value, whatever the schema says.
    ("typed", ('<calls><invoke name="add"><p name="a" string="true">1</p><p name="b" string="false">[null]</p></invoke>'
               "</calls>"), "", [("add", {"a": "1", "b": [None]})]),
]


@pytest.mark.parametrize(("form", "raw", "text", "made"), CASES)
def test_text_and_calls_come_apart(form: str, raw: str, text: str, made: list[tuple[str, object]]) -> None:
    """A model's output becomes text and calls with valid arguments, and nothing is lost."""
    answer = parse(raw, calls=FORMS[form])
    assert (text, made) == (answer.text, answer.made)
    assert [call[0] for call in answer.calls] == [f"call_7_{index}" for index in range(len(made))]


@pytest.mark.parametrize(("form", "raw", "text", "made"), CASES)
@pytest.mark.parametrize("complete", [True, False])
def test_the_cut_does_not_matter(form: str, raw: str, text: str, made: object, complete: bool) -> None:
    """Single characters give the same answer as the whole text, even if the answer is incomplete."""
    for thinking, kept in itertools.product([False, True], repeat=2):
        fields: dict[str, object] = {"complete": complete, "thinking": thinking, "kept": kept}
        whole = parse(raw, calls=FORMS[form], reasoning=THINK, **fields)
        assert whole == parse(*raw, calls=FORMS[form], reasoning=THINK, **fields)


KEYS = st.text(string.ascii_letters + "_", min_size=1, max_size=5)
PIECES = st.sampled_from([
    *"abc \n<>{}[]\",:\\;=/1", "<tool_call>", "</tool_call>", '{"name": "', "add", "get_weather", '", "arguments": ',
    '", "parameters": ', "<think>", "</think>", "[TOOL_CALLS] [", "<calls>", "<call>function<sep>", "\n```json\n",
    "\n```</call>", "</calls>", "<function=", "<parameter=", "</parameter>", "</function>", '{"a": 1}', "true",
    HERMES_ONE, HERMES_TWO, "\U0001f600", "<calls>[", "<calls>\n", "(", ")", "add(a=", "'", "[1, ", "]</calls>", "None",
    "<call>call:add{", "b:", '<|"|>', "</call>", '<invoke name="add">', '<p name="a', '" string="', 'true">', 'false">',
    "</p>", "</invoke>",
])


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=25), st.sampled_from(sorted(FORMS)), st.booleans(), st.data())
def test_any_cut_of_any_text_gives_the_same(words: list[str], form: str, complete: bool, data: st.DataObject) -> None:
    """Whatever is written and however it is split: one answer, valid arguments once it is complete, no text lost."""
    raw = "".join(words)
    thinking, parallel, kept = (data.draw(st.booleans()) for _ in range(3))
    given_: dict[str, object] = {
        "calls": FORMS[form], "reasoning": THINK, "complete": complete, "thinking": thinking, "parallel": parallel,
        "kept": kept,
    }
    cuts = sorted({0, len(raw), *data.draw(st.lists(st.integers(0, len(raw)), max_size=8))})
    whole = parse(raw, **given_)
    assert whole == parse(*[raw[a:b] for a, b in itertools.pairwise(cuts)], **given_)
    assert whole == parse(*raw, **given_)
    if complete and not kept:
        assert all(isinstance(arguments, dict) for _, arguments in whole.made)
    if not whole.calls:
        assert whole.reasoning in raw or raw.count("<think>") + thinking > 1, "thoughts of several passages are joined"
        shown, written = ("".join(text.replace("</think>", "").split()) for text in (whole.text, raw))
        assert shown in written, "only marks that end no thoughts are left out"


@given(st.text(max_size=60))
@example("<think> <tool_call>")
def test_text_without_tools_passes_as_it_is(text: str) -> None:
    """If no tools are offered and no thoughts are marked, every text comes out unchanged."""
    assert parse(*text, tools=()) == Answer(text)


@given(st.dictionaries(st.text(max_size=5), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=6,
), max_size=4), st.booleans())
def test_arguments_arrive_as_they_were_written(arguments: dict[str, object], ascii_only: bool) -> None:
    """Valid arguments come out character by character as the model wrote them."""
    written = json.dumps(arguments, ensure_ascii=ascii_only)
    answer = parse(*f'<tool_call>\n{{"name": "add", "arguments": {written}}}\n</tool_call>')
    assert [("call_7_0", "add", written)] == [tuple(call) for call in answer.calls]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from(["python", "braces", "lines", "typed"]))
def test_arguments_that_are_no_object_become_one(arguments: dict[str, object], form: str) -> None:
    """Values of every type, in a form's notation, come out as the same values in JSON."""
    raw = write_calls([ToolCall("c", "add", json.dumps(arguments))], FORMS[form])
    if '<|"|>' not in json.dumps(arguments) and "</p>" not in json.dumps(arguments):
        assert [("add", arguments)] == parse(*raw, calls=FORMS[form]).made


@given(st.text(max_size=40))
def test_tagged_strings_arrive_as_they_were_written(value: str) -> None:
    """A string between tags keeps its quotes, line breaks and white space."""
    raw = f"<tool_call>\n<function=get_weather>\n<parameter=city>\n{value}\n</parameter>\n</function>\n</tool_call>"
    if "</parameter>" not in value:
        assert [("get_weather", {"city": value})] == parse(*raw, calls=TAGGED).made


def test_arguments_stream() -> None:
    """If a grammar keeps calls whole, the name comes first, then the arguments as the model writes them."""
    parser = AnswerParser(AnswerFormat(HERMES), TOOLS)
    parser.kept = True
    assert not parser.feed('<tool_call>{"name": "get_weather", ').calls
    [first] = parser.feed('"arguments": {').calls
    assert (first.name, first.arguments) == ("get_weather", "{")
    pieces = [parser.feed(text).calls[0].arguments for text in ('"city": "P', "ari", 's"')]
    assert pieces == ['"city": "P', "ari", 's"']


def test_text_is_held_back_only_while_it_may_begin_a_call() -> None:
    """Plain text passes at once; white space and the beginning of a mark wait for the text after them."""
    parser = AnswerParser(AnswerFormat(HERMES), TOOLS)
    texts = [parser.feed(text).text for text in ("Hello", " world ", "<tool", "box>", " yes")]
    assert texts == ["Hello", " world", "", " <toolbox>", " yes"]


def test_one_call_is_enough_where_only_one_is_wanted() -> None:
    """Without parallel calls the answer is over as soon as its first call is complete."""
    parser = AnswerParser(AnswerFormat(HERMES), TOOLS, parallel=False)
    parser.feed(f"{HERMES_ONE[:-20]}")
    assert not parser.done
    parser.feed(HERMES_ONE[-20:])
    assert parser.done
    assert parse(HERMES_ONE, HERMES_TWO, parallel=False).made == [WEATHER]


@pytest.mark.parametrize(
    ("raw", "thinking", "reasoning", "text"),
    [
        ("<think>\nHm. <b>\n</think>\n\nYes.", False, "Hm. <b>", "Yes."),
        ("\n<think></think>Yes. </think>", False, "", "Yes. "),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("Hm. </thin", True, "Hm. </thin", ""),
        ("Hm.\n", True, "Hm.\n", ""),
        (" Yes <think>no</think>", False, "", " Yes <think>no</think>"),
        ("<thin", False, "", "<thin"),
    ],
)
def test_thoughts_come_apart(raw: str, thinking: bool, reasoning: str, text: str) -> None:
    """Thoughts at the beginning are separated from the text, without the white space around them."""
    assert Answer(text, reasoning) == parse(*raw, reasoning=THINK, thinking=thinking)


@pytest.mark.parametrize("raw", ["<think>", "<think>\n", "Hm.</think>", "Hm.</think>\n", "Hm.</think><think>"])
def test_marks_of_thoughts_are_left_out_where_an_answer_is_cut(raw: str) -> None:
    """An answer that is cut right after a mark has the mark in neither its thoughts nor its text."""
    answer = parse(raw, reasoning=THINK, complete=False, thinking=raw.startswith("Hm."))
    assert (answer.text.strip(), answer.reasoning.strip()) == ("", "Hm." if "Hm." in raw else "")


def test_thoughts_before_calls() -> None:
    """Thoughts, text and calls may follow each other."""
    answer = parse(f"<think>\nA call?\n</think>\n\nOne moment.\n{HERMES_ONE}", reasoning=THINK)
    assert (answer.reasoning, answer.text, answer.made) == ("A call?", "One moment.", [WEATHER])


def test_a_call_that_is_cut_stays_open() -> None:
    """If the answer is cut inside a call, the call's arguments end there, and no markup becomes text."""
    answer = parse('<tool_call>{"name": "get_weather", "arguments": {"city": "Par', complete=False)
    assert [tuple(call) for call in answer.calls] == [("call_7_0", "get_weather", '{"city": "Par')]
    assert not answer.text
