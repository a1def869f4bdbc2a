"""The result of an answer that is cut in a call, of calls that break, and of stray marks."""

import itertools
import json
from time import process_time

import pytest
from answers_for_tests import FUNCTION, RUN, THINK, Answer, hermes, is_json, parse, read
from forms_for_tests import BARE, BRACES, FORMS, TAGGED, TYPED
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.chat import parser
from lllms_core.chat.answer_format import HERMES, CallFormat, ReasoningFormat
from lllms_core.chat.fit_tools import write_calls
from lllms_core.chat.marks import ends_of_call, is_beginning, late_triggers
from lllms_core.types import ToolCall

# -- marks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Hello!</think>", "Hello!"), ("Hello!\n</think>\n\nMore.", "Hello!\nMore."), ("</think>\n\nHi", "Hi"),
        ("The tags <think> and </think>.", "The tags <think> and </think>."),
        ("Close with `</think>`.", "Close with `</think>`."), ("a </thin b", "a </thin b"),
        (f"</think>{hermes('{')}", hermes("{")),
    ],
)
def test_a_mark_that_ends_no_thoughts_is_not_shown(raw: str, text: str) -> None:
    """A stray end mark is left out of the text, unless it is quoted, or closes one that the text has opened."""
    assert read(raw, reasoning=THINK) == Answer(text)
    gemma = ReasoningFormat("<|channel>thought", "<channel|>")
    swapped = [one.replace("</think>", "<channel|>").replace("<think>", "<|channel>thought") for one in (raw, text)]
    assert read(swapped[0], reasoning=gemma) == Answer(swapped[1])


CALL = hermes('{"name": "run", "arguments": {"command": "ls"}}')


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("raw", "text", "arguments"),
    [
        ("<think", "", None), ("Hm. <tool_c", "Hm.", None), ("Hm.\n<", "Hm.", None), ("Hm. < ", "Hm. < ", None),
        ("Hm </thi", "Hm", None), ("Hm. \n", "Hm. \n", None),
        ('<tool_call>\n{"name": "ed', "", None), ('<tool_call>\n{"name": "run", "arg', "", None),
        (CALL[:-18], "", '{"command": "'), (CALL[:-14], "", '{"command": "ls"}'), (CALL[:-5], "", '{"command": "ls"}'),
        (f"{CALL}\n<tool_", "", '{"command": "ls"}'), (f"{CALL} So", " So", '{"command": "ls"}'),
    ],
)
def test_no_part_of_a_mark_is_shown_where_an_answer_is_cut(
    raw: str, text: str, arguments: str | None, kept: bool,
) -> None:
    """The beginning of a mark, and a call that is cut in its head, are left out; a call cut later stays open."""
    answer = read(raw, reasoning=THINK, complete=False, kept=kept)
    assert (answer.text, [call[2] for call in answer.calls]) == (text, [] if arguments is None else [arguments])
    thoughts = read("<think>Hm</thi", reasoning=THINK, complete=False)
    assert thoughts == Answer("", "Hm")


def test_a_stop_string_inside_a_call_cuts_it() -> None:
    """A stop string cuts a call that is not complete before it, and one whose mark has only begun."""
    for raw, stop, cut in (
        (CALL[:-17], "s", True), (CALL[:-13], "</tool_call>", False), (CALL[:-13], "\n", False),
        (CALL[:-14], "}", True), ("Hi <", "tool", True), ("Hi <tool_call>", "{", True), ("Hi", "<tool_call>", False),
    ):
        answer = read(raw, complete=False, following=stop)
        assert (answer.cut, answer.text) == (cut, "Hi" if raw.startswith("Hi") else "")
    for stop in ("\n", "div", "> b"):
        assert read("a <", complete=False, following=stop) == Answer("a <"), "a text, no mark"
    tagged = f"<tool_call>\n{FUNCTION}"
    assert read(tagged.removesuffix("</function>"), TAGGED, complete=False, following="</function>").cut
    assert not read(tagged, TAGGED, complete=False, following="</tool_call>").cut


def test_marks_are_taken_apart() -> None:
    """The marks that models leave out, those that end a call, and beginnings of marks are derived from a form."""
    assert [late_triggers(FORMS[name]) for name in ("hermes", "tagged", "typed", "python", "named")] == [
        (), ("<function=",), ('<invoke name="',), (), ("<call>function<sep>",),
    ]
    assert ends_of_call(TAGGED) == ("</function>\n</tool_call>", "</tool_call>", "</function>")
    assert ends_of_call(TYPED) == ("</invoke>",)
    assert ends_of_call(BARE) == ()
    assert [is_beginning(text, "<a>\n<b") for text in ("<", " <a> <", "<a><b", "<a>x", "", " ")] == [
        True, True, False, False, False, False,
    ]


# -- properties --------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab\\ \n{}", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "yz"]), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["command", "n", "other"]), VALUES, max_size=3), st.sampled_from(sorted(FORMS)),
    st.integers(0, 10**6), st.sampled_from(["", " ", "x", '"', "\n"]),
)
def test_a_call_is_whole_or_text(arguments: dict[str, object], name: str, at: int, more: str) -> None:
    """Wherever a call ends or continues differently, its arguments are complete, or it is text."""
    form = FORMS[name]
    raw = write_calls([ToolCall("c", "run", json.dumps(arguments))], form)
    whole = read(raw, form)
    assert len(whole.calls) == 1
    broken = raw[: at % (len(raw) + 1)] + more
    answer = read(broken, form)
    if answer.calls:
        assert answer.made == whole.made
    else:
        assert answer.text == broken


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["command", "n", "other"]), VALUES, max_size=3), st.sampled_from(sorted(FORMS)),
    st.integers(0, 10**6), st.booleans(),
)
def test_a_call_that_is_cut_is_open(arguments: dict[str, object], name: str, at: int, kept: bool) -> None:
    """Wherever an answer is cut in a call, it yields no other call, and no part of it is text."""
    form = FORMS[name]
    raw = write_calls([ToolCall("c", "run", json.dumps(arguments))], form)
    whole = read(raw, form, kept=kept)
    answer = read(raw[: at % len(raw)], form, kept=kept, complete=False)
    if form.trigger:
        assert not answer.text.strip()
    for call in answer.calls:
        [written] = whole.calls
        assert written[2].startswith(call[2])
        assert call[2] == written[2] or not is_json(call[2])


@pytest.mark.parametrize("kept", [False, True])
def test_a_kept_call_that_breaks_after_all_is_passed_on(kept: bool) -> None:
    """If part of a call has been sent when it breaks, the rest follows as written: no shorter valid arguments."""
    raw = hermes('{"name": "run", "arguments": {"n": 1,, }}') + " Done."
    answer = read(raw, kept=kept)
    assert (answer.text, answer.calls) == (
        (" Done.", [["call_7_0", "run", '{"n": 1,, }}']]) if kept else (raw, [])
    )
    unclosed = read(raw[:-30], kept=kept)
    assert unclosed.cut == kept
    assert not any(is_json(call[2]) for call in unclosed.calls)


@pytest.mark.parametrize(
    ("unit", "form"),
    [
        ('<tool_call>{"name": "run", "arguments": {"command": "', HERMES), (f"<tool_call>\n{FUNCTION[:34]}\n", TAGGED),
        ('<tool_call>{"name": "run", "arguments": {"n": [', HERMES), ('<call>call:run{a:<|"|>', BRACES),
        ("</think>", HERMES), ("<tool_call>", HERMES),
    ],
)
@pytest.mark.parametrize("thinking", [False, True])
def test_calls_that_never_end_cost_little(
    unit: str, form: CallFormat, thinking: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many calls that begin and do not end are read in linear time, in the text and in thoughts."""
    monkeypatch.setattr(parser, "_MOST_REREAD", 5000)
    start = process_time()
    answer = parse(unit * 1500, calls=form, reasoning=THINK, thinking=thinking, tools=[RUN])
    assert (answer.calls, len(answer.text + answer.reasoning) > 0) == ([], unit != "</think>")
    assert process_time() - start < 10, "about 0.2 seconds; minutes if each is read to the end"


def test_a_kept_call_is_the_same_call() -> None:
    """Calls that a grammar keeps whole are read alike, whether they are held back or not."""
    for form, arguments in itertools.product(FORMS.values(), ({}, {"command": "a\\b\n", "n": [1, {"x": None}]})):
        raw = f"{write_calls([ToolCall('c', 'run', json.dumps(arguments))] * form.parallel, form)}"
        assert read(raw, form) == read(raw, form, kept=True)
