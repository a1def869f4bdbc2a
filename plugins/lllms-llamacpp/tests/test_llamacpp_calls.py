"""Calls that the model makes of its own accord: only offered names, with valid arguments, at any temperature."""

import json

import jsonschema
import pytest

from lllms_core.chat import gather_message
from lllms_core.errors import InvalidRequest
from lllms_core.types import ChatRequest, Constraint, Message, Sampling, Tool

pytestmark = pytest.mark.slow

CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"],
        "additionalProperties": False}
WEATHER = Tool("W-get_weather", parameters=CITY)
NEAR = {"type": "object", "properties": {"where": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["where", "days"], "additionalProperties": False}
BOTH = "What is the weather in Paris and Berlin?"


def ask(model, *tools, text=BOTH, **fields):
    model.open(ChatRequest("1", "tiny", (Message("user", text),), tools=tools or (WEATHER,), max_tokens=200, **fields))
    deltas = []
    while not model.idle:
        deltas += model.step()
    return deltas


def calls_of(deltas, index=0):
    return gather_message(delta for delta in deltas if delta.index == index).tool_calls


def test_only_offered_names_are_called(tiny):
    """A model that prefers other names writes only offered ones, at its default temperature."""
    for seed in range(12):
        deltas = ask(tiny.model, sampling=Sampling(seed=seed))
        message = gather_message(deltas)
        assert message.tool_calls, message
        assert {call.name for call in message.tool_calls} == {"W-get_weather"}
        assert "tool_call" not in message.content
        if deltas[-1].finish.reason == "tool_calls":
            for call in message.tool_calls:
                jsonschema.validate(json.loads(call.arguments), CITY)


def test_arguments_keep_to_their_schema(tiny):
    """Tools that are not strict are also called with the arguments of their schema, in each of several answers."""
    sampling = Sampling(seed=3, temperature=1.2)
    deltas = ask(tiny.model, Tool("near", parameters=NEAR), n=3, sampling=sampling, top_logprobs=2)
    for index in range(3):
        for call in calls_of(deltas, index):
            assert call.name == "near"
            jsonschema.validate(json.loads(call.arguments), NEAR)
    assert sum(len(delta.scores) for delta in deltas) == deltas[-1].finish.usage.completion_tokens
    assert all(score.logprob <= 0 for delta in deltas for score in delta.scores)


def test_text_is_what_it_is_without_a_grammar(tiny):
    """Without a call the text is the same as without a grammar; calls may be several or, on request, a single one."""
    hello = gather_message(ask(tiny.model, text="Hi!", sampling=Sampling(temperature=0)))
    assert (hello.content, hello.tool_calls) == ("Hello! How can I help you?", ())
    greedy = Sampling(temperature=0)
    lookup = Tool("get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
    cities = [json.loads(call.arguments) for call in calls_of(ask(tiny.model, lookup, sampling=greedy))]
    assert cities == [{"city": "Paris"}, {"city": "Berlin"}]
    once = ask(tiny.model, lookup, sampling=greedy, parallel_tool_calls=False)
    assert [json.loads(call.arguments) for call in calls_of(once)] == [{"city": "Paris"}]


def test_a_schema_that_cannot_be_kept_costs_only_itself(tiny):
    """A schema with an unsupported keyword still keeps calls to offered names; in a strict tool it is refused."""
    odd = {"type": "object", "properties": {"city": {"type": "string", "not": {"const": "x"}}}}
    [call, *_] = calls_of(ask(tiny.model, Tool("W-get_weather", parameters=odd), sampling=Sampling(seed=1)))
    assert call.name == "W-get_weather"
    error = ask(tiny.model, Tool("W-get_weather", parameters=odd, strict=True))[-1].error
    assert isinstance(error, InvalidRequest)
    assert "'not'" in error.message
    assert error.param == "tools"


def test_turns_reuse_what_calls_evaluated(tiny):
    """The turn after a call finds the previous turn's tokens in the cache."""
    deltas = ask(tiny.model, sampling=Sampling(temperature=0))
    said = gather_message(deltas)
    results = [Message("tool", "sunny", tool_call_id=call.id) for call in said.tool_calls]
    tiny.model.open(ChatRequest("2", "tiny", (Message("user", BOTH), said, *results), tools=(WEATHER,), max_tokens=8))
    more = []
    while not tiny.model.idle:
        more += tiny.model.step()
    usage = deltas[-1].finish.usage
    assert more[-1].finish.usage.cached_tokens >= usage.prompt_tokens + usage.completion_tokens // 2


def test_a_matcher_begins_after_any_text(tiny):
    """A matcher accepts earlier text byte by byte, even white space, brackets or half a character, and no other."""
    matcher = tiny.model.matcher(Constraint("lark", 'start: "\\n a{" "\u00e9" "d"', "tools")).result(10)
    for good in (b"", b"\n a{", b"\n a{\xc3", b"\n a", b"\n a{\xc3\xa9d"):
        assert matcher.begin(good), good
    assert matcher.complete
    for bad in (b" ", b"a", b"\na", b"\n a{\xc3\xa0", b"\n a{\xc3\xa9de"):
        assert not matcher.begin(bad), bad
    assert matcher.begin(b"\n ")
    assert not matcher.complete
