"""Templates that describe the form of calls only in words: it is learnt from the prompt, read, forced and written."""

import json

import pytest
import told_templates_for_tests as templates
from grammars_for_tests import accepts

from lllms_core.chat import ChatTemplate, call_constraint, chat_prompt
from lllms_core.chat.parser import AnswerParser
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Message, Tool, ToolCall

FIELDS = {"city": {"type": "string"}, "days": {"type": "integer"}}
WEATHER = Tool("get_weather", "Weather.", {"type": "object", "properties": FIELDS})
NOW = Tool("now", parameters={"type": "object", "properties": {}})
ASK = Message("user", "Paris?")
CALLS = (ToolCall("c1", "get_weather", '{"city": "Paris \\"x\\"", "days": 3}'), ToolCall("c2", "now", "{}"))

ONE, TWO = '"get_weather"', '{"city": "Paris \\"x\\"", "days": 3}'
SAID = {
    "TAGS": f'<tool_call>\n{{"name": {ONE}, "arguments": {TWO}}}\n</tool_call>',
    "SWAPPED": f'<tool_call>\n{{"name": {ONE}, "arguments": {TWO}}}\n</tool_call>',
    "LIST": f'<|tool_call|> [{{"name": {ONE}, "arguments": {TWO}}}]',
    "ACTIONS": f'<|START_ACTION|> [{{"tool_name": {ONE}, "parameters": {TWO}}}]<|END_ACTION|>',
    "FENCED": f'[{{"name": {ONE}, "arguments": {TWO}}}]',
    "BARE": f'{{"name": {ONE}, "parameters": {TWO}}}',
    "TAGGED_LIST": f'<calls>[{{"name": {ONE}, "arguments": {TWO}}}]</calls>',
}
"""A call as each template's model writes it."""


def template(shape: str) -> ChatTemplate:
    return ChatTemplate(getattr(templates, shape), bos_token="<s>", eos_token="</s>")


def rendered(model: ChatTemplate, *messages: Message) -> str:
    return "".join(segment.text for segment in model.render(messages, tools=[WEATHER, NOW]))


@pytest.mark.parametrize("shape", SAID)
def test_the_form_that_a_prompt_tells_is_read_and_forced(shape: str) -> None:
    """A call in the form that the instructions show, or describe in words, is read, and is what the grammar forces."""
    model = template(shape)
    form = chat_prompt(model, ChatRequest("1", "m", (ASK,), tools=(WEATHER, NOW))).form
    parser = AnswerParser(form, [WEATHER, NOW])
    pieces = [parser.feed(char) for char in SAID[shape]] + [parser.finish()]
    calls = [piece for one in pieces for piece in one.calls]
    assert "".join(one.text for one in pieces).strip() == ""
    assert (calls[0].name, json.loads("".join(piece.arguments for piece in calls))) == (
        "get_weather", {"city": 'Paris "x"', "days": 3},
    )
    assert form.calls is not None
    required = ChatRequest("1", "m", (ASK,), tools=(WEATHER, NOW), tool_choice="required")
    assert accepts(call_constraint(required, form.calls, {}), SAID[shape])


@pytest.mark.parametrize("shape", SAID)
def test_past_calls_are_written_in_the_form_that_is_told(shape: str) -> None:
    """A past call is part of the answer's text, as the model wrote it, and its result is shown after it."""
    said = Message("assistant", "", tool_calls=CALLS[:1])
    prompt = rendered(template(shape), ASK, said, Message("tool", "sunny", tool_call_id="c1"))
    past = prompt.rpartition(ASK.content)[2]
    assert SAID[shape] in past
    assert "sunny" in past.partition(SAID[shape])[2]
    assert "name_of_the_tool" not in prompt, "nothing is told twice"


def test_a_template_tells_no_more_than_it_says() -> None:
    """If a template shows neither calls nor their form, tools are refused, with the setting that helps."""
    with pytest.raises(UnsupportedParameter, match=r"set options\.tool_calls"):
        chat_prompt(template("UNTOLD"), ChatRequest("1", "m", (ASK,), tools=(WEATHER,)))
