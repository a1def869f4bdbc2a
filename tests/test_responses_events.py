"""Whatever a model writes: the events of a response come in order, and mean what a chat's answer means."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from events_for_tests import comparable, parse, read_events
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from test_openai_any_answer import PIECES, TOOL, Server, parrot

pytestmark = pytest.mark.slow

PATH = "/v1/responses"
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with parrot() as made:
        yield made


BODIES = st.fixed_dictionaries({}, optional={
    "max_output_tokens": st.integers(1, 60), "include": st.just(["message.output_text.logprobs"]),
    "stop": st.lists(st.sampled_from(["stop", "hm", "</think>", '"a"']), max_size=2),
    "parallel_tool_calls": st.booleans(), "tools": st.just([{"type": "function", **TOOL}]),
    "store": st.just(value=False), "instructions": st.just("Be a parrot."),
})


def tokens(words: list[str], data: st.DataObject) -> str:
    """The words, split anywhere."""
    text = "".join(words)
    cuts = data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=30))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return json.dumps([text[one:other] for one, other in pairwise(bounds)])


@settings(max_examples=80, deadline=None)
@given(words=st.lists(PIECES, max_size=10), body=BODIES, data=st.data())
def test_events_tell_the_answer(server: Server, words: list[str], body: dict[str, Any], data: st.DataObject) -> None:
    """The events are in order, without gaps or contradictions, and their response is the one of a whole answer."""
    body = {"model": "parrot", "input": tokens(words, data), **body}
    whole = json.loads(server.post(body, PATH))
    told = read_events(parse(server.post({**body, "stream": True}, PATH)))
    assert comparable(told) == comparable(whole)
    assert all(item["status"] == "completed" for item in whole["output"][:-1])
    cut = whole["status"] == "incomplete"
    assert whole["output"][-1]["status"] == ("incomplete" if cut else "completed")
    assert whole["incomplete_details"] == ({"reason": "max_output_tokens"} if cut else None)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(PIECES, max_size=10), body=BODIES, data=st.data())
def test_items_are_a_chats_answer(server: Server, words: list[str], body: dict[str, Any], data: st.DataObject) -> None:
    """The texts, thoughts, calls and scores of all items are those of a chat's answer to the same conversation."""
    asked = {"model": "parrot", "input": tokens(words, data), **body}
    response = json.loads(server.post(asked, PATH))
    renamed = {name: value for name, value in body.items() if name in {"stop", "parallel_tool_calls"}}
    if "max_output_tokens" in body:
        renamed["max_tokens"] = body["max_output_tokens"]
    if "tools" in body:
        renamed["tools"] = [{"type": "function", "function": TOOL}]
    if "include" in body:
        renamed["logprobs"] = True
    chat = {"model": "parrot", "messages": [{"role": "user", "content": asked["input"]}], **renamed}
    [choice] = json.loads(server.post(chat))["choices"]
    message = choice["message"]
    parts = [(item["type"], part) for item in response["output"] for part in item.get("content", [])]
    assert "".join(part["text"] for kind, part in parts if kind == "message") == (message["content"] or "")
    assert "".join(part["text"] for kind, part in parts if kind == "reasoning") == message.get("reasoning_content", "")
    calls = [(item["name"], item["arguments"]) for item in response["output"] if item["type"] == "function_call"]
    expected = [(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", [])]
    assert calls == expected
    scores = [score for kind, part in parts if kind == "message" for score in part["logprobs"]]
    assert scores == ((choice["logprobs"] or {}).get("content") or [])
    assert (response["status"] == "incomplete") == (choice["finish_reason"] == "length")


@settings(max_examples=20, deadline=None)
@given(words=st.lists(PIECES, max_size=8), body=BODIES)
def test_the_official_client_reads_every_event(server: Server, words: list[str], body: dict[str, Any]) -> None:
    """OpenAI's own types accept every event, and the response, without conversions."""
    body = {"model": "parrot", "input": json.dumps(words), **body}
    for event in parse(server.post({**body, "stream": True}, PATH)):
        read = EVENT.validate_python(event)
        assert read.type == event["type"]
    Response.model_validate_json(server.post(body, PATH), strict=True)
