"""For every template shape: its calls are read, forced calls can be read, and answers can be sent back."""

import json
from itertools import pairwise
from random import Random

import jsonschema
import pytest
from attrs import evolve
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_answers_for_tests import random_text
from shapes_for_tests import ASK, SHAPES, form_of, rendered, template, tools_with_calls, without_ends, written

from lllms_core.apis.messages import read_messages
from lllms_core.builtin.openai.tool_calls import message_value
from lllms_core.chat import call_constraint, settle_results
from lllms_core.chat.gather import gather_message
from lllms_core.chat.parser import AnswerParser
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Delta, Message, Tool, ToolCall

pytestmark = pytest.mark.slow

Case = tuple[tuple[Tool, ...], tuple[ToolCall, ...]]
"""Tools, and calls of them."""
ROUND = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
"""A few examples for each shape, different in each run."""
by_shape = pytest.mark.parametrize("shape", SHAPES)


def read(shape: str, tools: tuple[Tool, ...], pieces: list[str], *, complete: bool = True) -> Message:
    """The message of an answer that arrives in pieces."""
    parser = AnswerParser(template(shape).answer_format, tools, answer_id="7")
    fed = [parser.feed(piece) for piece in pieces] + [parser.finish(complete=complete)]
    return gather_message([Delta("1", one.text, reasoning=one.reasoning, calls=one.calls) for one in fed])


def cut(text: str, data: st.DataObject) -> list[str]:
    bounds = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=30)) | {0, len(text)})
    return [text[one:other] for one, other in pairwise(bounds)]


def values(calls: tuple[ToolCall, ...]) -> list[str]:
    """Names and arguments in a comparable form: true is not 1, though 1.0 is."""
    return [f"{call.name} {exact(json.loads(call.arguments))}" for call in calls]


def exact(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {exact(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(exact, value))}]"
    return repr(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)


def sent_back(message: Message) -> Message:
    """Our answer, as it is read when a client sends it back."""
    value = json.loads(json.dumps(message_value(message, functions=False)))
    [back] = read_messages([value])
    return back


def check_reading(shape: str, case: Case, data: st.DataObject) -> None:
    tools, calls = case
    text = written(shape, tools, calls)
    whole = read(shape, tools, [text])
    assert values(whole.tool_calls) == values(calls), text
    assert without_ends(whole.content) == "", text
    assert read(shape, tools, cut(text, data)) == whole


def check_return(shape: str, case: Case, data: st.DataObject) -> None:
    tools, calls = case
    del data
    answer = read(shape, tools, [written(shape, tools, calls)])
    assert [call.id for call in answer.tool_calls] == [call.id for call in calls]
    results = [Message("tool", f"result {call.id}", tool_call_id=call.id) for call in calls]
    more = Message("user", "More?")
    want = settle_results([ASK, Message("assistant", "", tool_calls=calls), *results, more])
    history = settle_results([ASK, evolve(sent_back(answer), content=""), *results, more])
    assert rendered(shape, history, tools) == rendered(shape, want, tools)


def check_cut(shape: str, case: Case, data: st.DataObject) -> None:
    tools, calls = case
    text = f"Hm. {written(shape, tools, calls)}"
    answer = read(shape, tools, [text[: data.draw(st.integers(0, len(text)))]], complete=False)
    back = sent_back(answer)
    assert (back.content, back.reasoning, back.tool_calls) == (answer.content, answer.reasoning, answer.tool_calls)
    results = [Message("tool", f"result {at}", tool_call_id=call.id) for at, call in enumerate(back.tool_calls)]
    prompts = [
        rendered(shape, settle_results([ASK, back, *given, Message("user", "More?")]), tools)
        for given in ([results] if all(map(_is_whole, back.tool_calls)) else [results, results[:-1]])
    ]
    assert all(call.name in prompt for call in back.tool_calls for prompt in prompts)
    assert all(result.content in prompts[0] for result in results)
    assert all("More?" in prompt for prompt in prompts)


def _is_whole(call: ToolCall) -> bool:
    try:
        return isinstance(json.loads(call.arguments), dict)
    except ValueError:
        return False


def check_grammar(shape: str, tools: tuple[Tool, ...], seed: int) -> None:
    form = form_of(shape)
    request = ChatRequest("1", "m", (ASK,), tools=tools, tool_choice="required")
    try:
        constraint = call_constraint(request, form, {})
    except UnsupportedParameter:
        return  # refused with its reason, which other tests check
    ends = [form.section_end, form.call_end, form.arguments_end, form.value_end, form.quote, form.parts[2]]
    text = random_text(constraint, Random(seed), [end.rstrip() for end in ends])
    assume(text is not None)
    if form.shape == "tagged":
        # A string inside a JSON value may contain the mark that ends values: the parser ends the value there.
        assume((text or "").count(form.value_end.strip()) <= (text or "").count(form.parameter_start.strip()))
    message = read(shape, tools, [text or ""])
    assert message.tool_calls, text
    assert without_ends(message.content) == "", text
    schemas = {tool.name: tool.parameters for tool in tools}
    for call in message.tool_calls:
        jsonschema.Draft202012Validator(schemas[call.name]).validate(json.loads(call.arguments))


@by_shape
def test_what_a_template_writes_is_read_and_comes_back(shape: str) -> None:
    """Calls with random arguments are read as they were, at any split, and come back into the same prompt.

    No mark of a call becomes text. An answer that was cut in its calls comes back, too, with results or without.
    """

    @ROUND
    @given(case=tools_with_calls(shape), data=st.data())
    def check(case: Case, data: st.DataObject) -> None:
        check_reading(shape, case, data)
        check_return(shape, case, data)
        check_cut(shape, case, data)

    check()


@by_shape
def test_what_a_grammar_writes_is_read(shape: str) -> None:
    """Forced calls, sampled from their grammar, are read as calls whose arguments conform to the schema."""

    @ROUND
    @given(case=tools_with_calls(shape), seed=st.integers(0, 10**9))
    def check(case: Case, seed: int) -> None:
        check_grammar(shape, case[0], seed)

    check()
