"""The parameters of a request: what they mean, what is left out and named, and what is refused."""

import json
from typing import Any

import pytest
from lllms_anthropic.request_body import Asked, Vain, read_request

from lllms_core.config import parse_config
from lllms_core.errors import ModelUnknown, RequestError, UnsupportedParameter
from lllms_core.host import Host

HOST = Host(parse_config({"models": {"bot": {"engine": "mock", "aliases": ["claude-*"]}}}))
LENIENT = Host(parse_config({"server": {"unknown_parameters": "name"}, "models": {"bot": {"engine": "mock"}}}))
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}}


def read(host: Host = HOST, vain: Vain | None = None, **members: object) -> Asked:
    body = {"model": "bot", "messages": [{"role": "user", "content": "Hi"}], **members}
    given = {name: value for name, value in body.items() if value is not None}
    asked = read_request(host, given, set() if vain is None else vain)
    assert not given
    return asked


@pytest.mark.parametrize(("members", "effort", "unused"), [
    ({}, None, []),
    ({"thinking": {"type": "adaptive"}}, None, []),
    ({"thinking": {"type": "disabled"}}, "none", []),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "on", ["thinking.budget_tokens"]),
    ({"thinking": {"type": "adaptive", "display": "omitted"}}, None, ["thinking.display"]),
    ({"output_config": {"effort": "high"}}, "high", []),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "max", []),
    ({"thinking": {"type": "enabled"}, "output_config": {"effort": "low"}}, "low", []),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none", ["output_config.effort"]),
])
def test_thinking_is_an_effort(members: dict[str, object], effort: str | None, unused: list[str]) -> None:
    """`thinking` and `output_config.effort` together give the effort; a budget is named, since nothing keeps it."""
    request = read(**members).request
    assert (request.reasoning_effort, list(request.unused)) == (effort, unused)


def test_a_refused_effort_is_dropped_and_remembered() -> None:
    """A model that refused an effort is asked with the next one, then with none, and next time at once."""
    vain: Vain = set()
    asked = read(vain=vain, thinking={"type": "enabled"}, output_config={"effort": "xhigh"})
    refusal = UnsupportedParameter("no", "reasoning_effort")
    second = asked.without(refusal, vain)
    assert second is not None
    assert (second.request.reasoning_effort, second.request.unused) == ("on", ("output_config.effort",))
    third = second.without(refusal, vain)
    assert third is not None
    assert (third.request.reasoning_effort, third.request.unused) == (None, ("output_config.effort", "thinking"))
    assert len({one.request.id for one in (asked, second, third)}) == 3
    assert third.without(refusal, vain) is None
    assert asked.without(UnsupportedParameter("no", "tools"), vain) is None
    again = read(vain=vain, thinking={"type": "enabled"}, output_config={"effort": "xhigh"}).request
    assert (again.reasoning_effort, again.unused) == (None, ("output_config.effort", "thinking"))
    assert read(vain=vain, output_config={"effort": "low"}).request.reasoning_effort == "low"


def test_claude_codes_request() -> None:
    """Its bookkeeping is named, its beta fields ask for nothing more, and its bound may be far too high."""
    request = read(
        model="claude-opus-4-8", max_tokens=64000, metadata={"user_id": "u"}, thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, tools=[TOOL, SEARCH],
        output_config={"effort": "high"}, stream=True, system=[{"type": "text", "text": "You are."}],
    ).request
    assert (request.model, request.max_tokens, request.reasoning_effort) == ("bot", 64000, "high")
    assert [tool.name for tool in request.tools] == ["look"]
    assert request.unused == ("tools.web_search_20250305", "metadata", "context_management")


@pytest.mark.parametrize("members", [
    {"metadata": {}}, {"service_tier": "auto"}, {"speed": "standard"}, {"mcp_servers": []}, {"tools": []},
    {"cache_control": {"type": "ephemeral"}}, {"output_config": {}}, {"tools": [{**TOOL, "cache_control": {}}]},
    {"stop_sequences": []}, {"tool_choice": {"type": "auto"}}, {"tool_choice": {"type": "none"}},
])
def test_what_asks_for_nothing_is_not_named(members: dict[str, object]) -> None:
    """Neutral values, and caching, which happens anyway, are taken without a word."""
    assert read(**members).request.unused == ()


def test_tools_and_their_choice() -> None:
    """Custom tools are those of a chat; other fields of theirs are named; a choice may name one of them."""
    tool = {**TOOL, "type": "custom", "description": "Look.", "strict": True, "defer_loading": True}
    request = read(tools=[tool, {**TOOL, "name": "find"}], tool_choice={"type": "tool", "name": "look"}).request
    [found] = request.tools
    assert (found.name, found.description, found.strict, request.tool_choice) == ("look", "Look.", True, "required")
    assert request.unused == ("tools.defer_loading",)
    once = read(tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}).request
    assert (once.tool_choice, once.parallel_tool_calls) == ("required", False)
    assert read(tools=[TOOL], tool_choice={"type": "none"}).request.tools == ()


@pytest.mark.parametrize(("members", "param"), [
    ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "output_config.format"),
    ({"output_format": {"type": "json_schema", "schema": SCHEMA}}, "output_format"),
])
def test_a_format_is_a_schema(members: dict[str, object], param: str) -> None:
    """A format constrains the answer by its schema; refusals name the field that the client used."""
    constraint = read(**members).request.constraint
    assert constraint is not None
    assert (constraint.kind, json.loads(constraint.text), constraint.param) == ("json_schema", SCHEMA, param)


def test_many_stop_sequences() -> None:
    """More than the four of OpenAI's API are taken, and kept for telling which one ended the answer."""
    stops = [f"stop{number}" for number in range(20)]
    asked = read(stop_sequences=stops)
    assert (asked.request.stop, asked.stops) == (tuple(stops), frozenset(stops))


def test_parameters_of_ours() -> None:
    """Our own parameters may be added; unknown ones are refused, or named if the server says so."""
    request = read(seed=5, min_p=0.2, ttl=60, user="me").request
    assert (request.sampling.seed, request.sampling.min_p, request.ttl) == (5, 0.2, 60)
    assert request.unused == ("user",)
    assert read(LENIENT, novelty=1).request.unused == ("novelty",)


@pytest.mark.parametrize(("members", "param"), [
    ({"model": None}, "model"), ({"model": 3}, "model"), ({"messages": None}, "messages"), ({"stream": 1}, "stream"),
    ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "x"}, "max_tokens"), ({"temperature": 3}, "temperature"),
    ({"stop_sequences": "x"}, "stop_sequences"), ({"stop_sequences": [1]}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences"), ({"stop_sequences": ["x"] * 65}, "stop_sequences"),
    ({"tools": {}}, "tools"), ({"tools": [1]}, "tools[0]"), ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tools": [SEARCH, {"name": "a b", "input_schema": {}}]}, "tools[1].name"), ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "x", "input_schema": {"type": "string"}}]}, "tools[0].input_schema"),
    ({"tools": [{**TOOL, "description": 1}]}, "tools[0].description"),
    ({"tool_choice": {"type": "x"}}, "tool_choice.type"), ({"tool_choice": "auto"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "y"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "y"}}, "tool_choice.name"),
    ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice"),
    ({"thinking": {"budget_tokens": 3}}, "thinking.type"), ({"thinking": {"type": "x"}}, "thinking.type"),
    ({"output_config": {"effort": "none"}}, "output_config.effort"), ({"output_config": 1}, "output_config"),
    ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {}}}, "output_format":
      {"type": "json_schema", "schema": SCHEMA}}, "output_format"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"), ({"thread": {"type": "create"}}, "thread"),
    ({"novelty": 1}, "novelty"), ({"n": 3}, "n"),
    ({"logprobs": True}, "logprobs"), ({"stop": ["x"]}, "stop"), ({"stream_options": {}}, "stream_options"),
])
def test_faults_name_the_field(members: dict[str, Any], param: str) -> None:
    """What cannot be done is refused by the name that the client used."""
    with pytest.raises(RequestError) as caught:
        read(**members)
    assert caught.value.param == param


def test_an_unknown_model_is_told() -> None:
    """A name that no model and no pattern has is an error, with the names that there are."""
    with pytest.raises(ModelUnknown, match="there are: bot"):
        read(model="gpt-5")
