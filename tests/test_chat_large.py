"""Large and deeply nested conversations and answers: linear time, in chunks, and no RecursionError."""

import json
import sys
from threading import Event, Timer
from time import process_time

import pytest
from forms_for_tests import FORMS
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.cancellation import WorkCancelled, cancelled_by
from lllms_core.chat import ChatTemplate, control
from lllms_core.chat.answer_format import AnswerFormat, CallFormat
from lllms_core.chat.control import ControlTokens
from lllms_core.chat.fit_tools import fit_tools, write_calls
from lllms_core.chat.history import CallStyle, message_values
from lllms_core.chat.learn_calls import ToolSupport
from lllms_core.chat.parser import AnswerParser
from lllms_core.chat.results import settle_results
from lllms_core.engines.answer_text import AnswerText
from lllms_core.errors import EngineFailed
from lllms_core.types import ChatRequest, Message, Tool, ToolCall

pytestmark = pytest.mark.slow

TOOLS = (Tool("f", parameters={"properties": {"a": {"type": "string"}, "b": {}}}),)
DEEP = 990
"""A few frames deeper than Python can read JSON."""
TOKENS = ["<|a|>", "<|a", "<|ab|>", "<<", "a|>", "</s>"]
LITERALS = ["\n\n", "\n", "tool", "<tool>", "toolbox", "|a"]
SECONDS = 10.0
"""CPU time limit: linear code needs a tenth of it, other code minutes."""
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NESTED = ["[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP]
texts = st.lists(st.sampled_from([*TOKENS, *LITERALS, "<", "|", "a", "x", " ", "é"]), max_size=60).map("".join)


@given(text=texts, chunk=st.integers(8, 20))
def test_chunks_change_nothing(text: str, chunk: int) -> None:
    """Disguises, and the control tokens of a text, do not depend on how it is split into chunks."""
    tokens = ControlTokens(TOKENS, LITERALS)
    disguise = tokens.disguise(text)
    expected = disguise.text(text), tokens.find(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "_CHUNK", chunk)
        assert tokens.disguise(text).text(text) == expected[0]
        assert tokens.find(text) == expected[1]
        assert disguise.undo(expected[0]) == text


@given(text=texts, words=st.lists(texts.filter(str.strip), min_size=1, max_size=8))
def test_every_control_token_is_found(text: str, words: list[str]) -> None:
    """All occurrences of the tokens are found, even if several overlap or start at the same place."""
    found = ControlTokens(words).find(text)
    assert sorted(found) == sorted({
        (at, at + len(word)) for word in words for at in range(len(text)) if text.startswith(word, at)
    })


@pytest.mark.parametrize("text", ["<" * 2_000_000, "<|a" * 700_000, "\n" * 1_000_000])
def test_beginnings_of_control_tokens_cost_little(text: str) -> None:
    """Megabytes of control tokens' beginnings, or of the template's literals, take a moment."""
    tokens = ControlTokens([f"<|{'ab' * number}|>" for number in range(1, 40)], LITERALS)
    start = process_time()
    disguise = tokens.disguise(text)
    tokens.separate(text, disguise.text(text))
    assert process_time() - start < SECONDS / 2


def test_long_histories_are_linear() -> None:
    """The time to prepare a history of many messages, results and calls is linear in its length."""
    count = 20_000
    calls = tuple(ToolCall(str(at), "f", "{}") for at in range(count))
    results = [Message("tool", "x" * 500, tool_call_id=str(at), name="f") for at in range(count)]
    start = process_time()
    messages = settle_results([Message("user", "go"), Message("assistant", "", tool_calls=calls), *results])
    assert len(message_values(messages, CallStyle(one_call=True))) == 2 * count + 1
    fitted, _ = fit_tools(messages, (), ToolSupport(declares=False, style=None, results=False, calls=None), write_calls)
    assert len(fitted) == 3
    assert process_time() - start < SECONDS


def test_rendering_can_be_cancelled() -> None:
    """A template that would write for minutes stops soon after its rendering is cancelled."""
    template = ChatTemplate("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}")
    flag = Event()
    Timer(0.1, flag.set).start()
    start = process_time()
    with cancelled_by(flag), pytest.raises(WorkCancelled):
        template.render([Message("user", "go")])
    assert process_time() - start < SECONDS


@pytest.mark.parametrize("arguments", ["[" * DEEP, '{"a":' * 300 + "1" + "}" * 300, '{"a":' + "[" * DEEP])
@pytest.mark.parametrize("style", [CallStyle(), CallStyle(text_arguments=True)])
def test_nested_arguments_in_a_history_are_text(style: CallStyle, arguments: str) -> None:
    """Arguments nested too deeply for Python reach the template as text, like truncated ones."""
    message = Message("assistant", "", tool_calls=(ToolCall("c", "f", arguments),))
    assert message_values([message], style)
    assert all(write_calls(message.tool_calls, form) for form in FORMS.values())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("value", NESTED, ids=range(4))
def test_nested_answers_are_read(form: CallFormat, value: str, quoted: bool) -> None:
    """Whatever a model nests, in any form, comes out as text or as a call with valid arguments."""
    arguments = json.dumps(value) if quoted else value
    written = write_calls([ToolCall("c", "f", '{"b": 12345}')], form)
    for answer in (written.replace("12345", arguments), written.replace('{"b": 12345}', arguments)):
        parser = AnswerParser(AnswerFormat(form), TOOLS)
        pieces = [parser.feed(answer[at : at + 7]) for at in range(0, len(answer), 7)] + [parser.finish()]
        if parser.calls:
            text = "".join(piece.arguments for one in pieces for piece in one.calls if piece.index == 0)
            try:
                assert isinstance(json.loads(text), dict)
            except RecursionError:
                assert text.count("}") == text.count("{")


def test_answers_that_cannot_be_read_fail_alone() -> None:
    """If the stack is too small for an answer's nesting, that answer fails, and nothing else does."""
    output = AnswerText(ChatRequest("r", "m", (), tools=TOOLS), AnswerFormat(FORMS["hermes"]))
    limit = sys.getrecursionlimit()
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
    sys.setrecursionlimit(depth + 60)
    try:
        with pytest.raises(EngineFailed, match="nested too deeply"):
            output.feed(b'<tool_call>\n{"name": "f", "arguments": {"b": ' + b"[" * 60)
        assert output.end("cancelled")
    finally:
        sys.setrecursionlimit(limit)
