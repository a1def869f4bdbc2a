import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from lllms_core import Host, Message, ServerTool, parse_config
from lllms_core.errors import InvalidRequest, UnsupportedParameter
from lllms_core.host.conversation import Handler
from lllms_core.types import Delta, Tool

ADD = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}
BOTH = [{"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "ask", "arguments": {}}]
SCRIPT = [
    {"when": "both", "calls": BOTH, "replies": ["Done."]},
    {"when": "add", "calls": BOTH[:1], "replies": ["It is done."], "thinks": "Hm."},
    {"when": "other", "replies": ['<tool_call>{"name": "other", "arguments": {}}</tool_call>']},
    {"when": "wait", "replies": ["one two three"], "fault": "hang", "after": 1},
]
ASK = Message("user", "add")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host() -> AsyncIterator[Host]:
    async with Host(parse_config({"models": {"mock": {"engine": "mock", "options": {"script": SCRIPT}}}})) as host:
        yield host


def add(handler: Handler | None = lambda a, b: a + b, **fields: Any) -> ServerTool:
    return ServerTool("add", parameters=ADD, handler=handler, **fields)


async def result(host: Host, tool: ServerTool) -> str:
    """What the model receives as the result of the tool's call."""
    async with host.converse("mock", messages=[ASK], tools=[tool]) as conversation:
        assert (await conversation.gather()).text == "It is done."
    [_, _, message, _] = conversation.messages
    assert (message.role, message.name) == ("tool", "add")
    return message.content


async def test_tools_with_handlers_are_run(host: Host) -> None:
    """The host runs the tools that the model calls, coroutines or not, and the model continues with the results."""

    async def later(a: float, b: float) -> object:
        return {"sum": a + b, "é": True}

    assert await result(host, add()) == "3"
    assert await result(host, add(later)) == '{"sum": 3, "é": true}'
    assert await result(host, add(lambda a, b: "text")) == "text"


async def test_faults_of_handlers_are_told_to_the_model(host: Host) -> None:
    """A handler that raises, takes other arguments, returns no JSON value or takes too long fails only its call."""

    def fail(a: float, b: float) -> None:
        raise ValueError("too small")

    async def hang(a: float, b: float) -> None:
        await asyncio.Event().wait()

    assert json.loads(await result(host, add(fail))) == {"error": "ValueError: too small"}
    assert "unexpected keyword" in json.loads(await result(host, add(lambda b: 1)))["error"]
    assert "TypeError" in json.loads(await result(host, add(lambda a, b: object())))["error"]
    assert json.loads(await result(host, add(hang, timeout=0.01))) == {"error": "no result within 0.01 s"}


async def test_calls_of_tools_that_are_not_offered_are_told_to_the_model(host: Host) -> None:
    """A call of another name does not end the conversation: its result lists the available tools."""
    async with host.converse("mock", messages=[Message("user", "other")], tools=[add()], max_rounds=1) as conversation:
        answer = await conversation.gather()
    [_, called, result, _] = conversation.messages
    assert (called.tool_calls[0].name, result.tool_call_id) == ("other", called.tool_calls[0].id)
    assert json.loads(result.content) == {"error": "there is no tool 'other'; the tools are add"}
    assert answer.finish.reason == "stop"


async def test_everything_is_streamed(host: Host) -> None:
    """Deltas of all answers and the results are streamed in order, and the tokens of all answers are counted."""
    async with host.converse("mock", messages=[ASK], tools=[add()]) as conversation:
        parts = [part async for part in conversation]
    results = [at for at, part in enumerate(parts) if isinstance(part, Message)]
    finishes = [at for at, part in enumerate(parts) if isinstance(part, Delta) and part.finish is not None]
    assert finishes[0] < results[0] < finishes[1] == len(parts) - 1
    texts = [part.text + part.reasoning for part in parts[results[0] :] if isinstance(part, Delta)]
    assert "".join(texts) == "Hm.It is done."
    used = [part.finish.usage for part in parts if isinstance(part, Delta) and part.finish is not None]
    assert conversation.usage.completion_tokens == sum(usage.completion_tokens for usage in used)
    assert conversation.usage.reasoning_tokens == sum(usage.reasoning_tokens for usage in used) > 0


async def test_calls_without_a_handler_are_the_callers(host: Host) -> None:
    """The conversation ends there, contains the results of the other calls, and can be continued."""
    tools = [add(), Tool("ask")]
    async with host.converse("mock", messages=[Message("user", "both")], tools=tools) as conversation:
        answer = await conversation.gather()
    assert answer.finish.reason == "tool_calls"
    [_, calls, done] = conversation.messages
    assert [call.name for call in calls.tool_calls] == ["add", "ask"]
    messages = [*conversation.messages, Message("tool", "yes", tool_call_id=calls.tool_calls[1].id)]
    assert done.content == "3"
    async with host.converse("mock", messages=messages, tools=tools) as conversation:
        assert (await conversation.gather()).text == "Done."


async def test_rounds_are_bounded() -> None:
    """A model that keeps calling tools is finally asked without them, and has to answer."""
    counted = []

    async with Host() as host:
        tool = ServerTool("ask", parameters={"type": "object", "properties": {}}, handler=lambda: counted.append(1))
        # tiny-chat answers this greeting with text; a call forced in the first round shows that it is not forced again.
        named = {"type": "function", "function": {"name": "ask"}}
        asked = {"tool_choice": named, "parallel_tool_calls": False, "temperature": 0, "max_tokens": 60}
        schema = {**tool.parameters, "additionalProperties": False}
        tool = ServerTool("ask", parameters=schema, handler=tool.handler)
        messages = [Message("user", "Hi!")]
        async with host.converse("tiny-chat", messages=messages, tools=[tool], parameters=asked, max_rounds=1) as talk:
            answer = await talk.gather()
    assert len(counted) == 1
    assert not answer.message.tool_calls


async def test_what_a_conversation_cannot_have_is_refused(host: Host) -> None:
    """Several answers, tools among the parameters and zero rounds are refused; other faults come from the request."""
    for parameters, rounds in (({"n": 2}, 8), ({"tools": []}, 8), ({}, 0)):
        with pytest.raises(InvalidRequest):
            host.converse("mock", messages=[ASK], tools=[], parameters=parameters, max_rounds=rounds)
    with pytest.raises(UnsupportedParameter):
        await host.converse("mock", messages=[ASK], tools=[], parameters={"grammar": 'root ::= "x"'}).gather()


async def test_closing_cancels(host: Host) -> None:
    """Closing a conversation early cancels its answer and stops its iteration."""
    async with host.converse("mock", messages=[Message("user", "wait")], tools=[]) as conversation:
        async for _ in conversation:
            await conversation.aclose()
    assert conversation.answer is None
    assert len(conversation.messages) == 1
