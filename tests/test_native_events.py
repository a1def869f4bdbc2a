"""The events of the native chat, and their readers: pure."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.answers import Answer, choices
from lllms_core.apis.event_buffer import EventBuffer
from lllms_core.builtin.chat.chat_body import read_chat_body
from lllms_core.builtin.chat.chat_events import EVENTS, ChatEvents, whole_value
from lllms_core.builtin.chat.said_messages import answer_value, read_said
from lllms_core.client import ServerError
from lllms_core.client.chat_flow import ChatFlow
from lllms_core.client.event_lines import EventLines
from lllms_core.client.server_place import server_address
from lllms_core.errors import RequestError
from lllms_core.status import Waiting
from lllms_core.types import CallPiece, ChatRequest, Delta, Finish, Message, Timings, ToolCall, Usage

FINISH = Finish("stop", Usage(7, 5, 3, 2), stop="x", timings=Timings(1, 2, 3, 4))


@st.composite
def answers(draw: st.DrawFn) -> list[list[Delta]]:
    """The deltas of one answer, in the groups in which they are taken; calls come in order."""
    made: list[Delta] = []
    calls = -1
    for kind in draw(st.lists(st.sampled_from(["text", "thoughts", "call", "arguments", "all"]), max_size=12)):
        piece = draw(st.text(max_size=4))
        if kind in {"call", "all"} or (kind == "arguments" and calls < 0):
            calls += 1
            begun = (CallPiece(calls, f"id{calls}", "add"), CallPiece(calls, arguments='{"a": 1'))
        else:
            begun = (CallPiece(calls, arguments="}"),) if kind == "arguments" else ()
        said = piece if kind in {"text", "all"} else ""
        thought = piece if kind in {"thoughts", "all"} else ""
        made.append(Delta("r", said, reasoning=thought, calls=begun, admitted=None if made else Usage(7, 0, 3)))
    made.append(Delta("r", draw(st.text(max_size=3)), finish=FINISH))
    groups: list[list[Delta]] = []
    for delta in made:
        if not groups or draw(st.booleans()):
            groups.append([])
        groups[-1].append(delta)
    return groups


def written(groups: list[list[Delta]], *, thoughts: bool = True) -> bytes:
    events = ChatEvents("chat_1", "c", thoughts=thoughts)
    return b"".join([event for group in groups for event in events.add(group)] + events.end(FINISH))


@given(answers(), st.booleans())
def test_events_are_the_answer(groups: list[list[Delta]], thoughts: bool) -> None:
    """The pieces of an answer's events are together what the whole answer is, in either client's eyes."""
    deltas = [delta for group in groups for delta in group]
    request = ChatRequest("r", "bot", (Message("user", "Hi"),))
    answer = Answer("a", choices(request, deltas, FINISH), FINISH)
    whole: Any = whole_value("chat_1", "bot", "c", answer, thoughts=thoughts)
    flow = ChatFlow({})
    told = list(flow.read(written(groups, thoughts=thoughts)))
    assert flow.ended
    result = flow.result
    assert (result.text, result.thoughts) == (whole["text"], whole["thoughts"])
    assert [(one.id, one.name, one.arguments, one.text) for one in result.calls] == [
        (one["id"], one["name"], one["arguments"], one.get("text")) for one in whole["calls"]
    ]
    assert (result.reason, result.stop, result.conversation) == ("stop", "x", "c")
    assert result.usage is not None
    assert result.usage.timings == whole["usage"]["timings"] == {"queued": 1, "load": 2, "prompt": 3, "answer": 4}
    assert [type(one).__name__ for one in told[-2:]] == ["UsageEvent", "DoneEvent"]


@given(answers(), st.lists(st.integers(0, 400), max_size=8))
def test_events_are_read_from_any_pieces(groups: list[list[Delta]], cuts: list[int]) -> None:
    """Wherever the bytes of a stream are cut, and between its comments, the same events are read."""
    data = written(groups)
    whole = EventLines().read(data)
    assert [one.id for one in whole] == [f"chat_1-{number}" for number in range(len(whole))]
    assert {one.name for one in whole} <= set(EVENTS)
    places = sorted({min(cut, len(data)) for cut in cuts})
    lines = EventLines()
    read = []
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        read += lines.read(data[start:end])
    assert read == whole
    assert EventLines().read(data.replace(b"\n\n", b"\n\n: waiting\n\n")) == whole


@given(answers(), st.data())
def test_a_broken_stream_goes_on_where_it_broke(groups: list[list[Delta]], data: st.DataObject) -> None:
    """After a cut at any byte, the request for the rest and its events make the same answer."""
    events = [part + b"\n\n" for part in written(groups).split(b"\n\n")[:-1]]
    cut = data.draw(st.integers(0, len(b"".join(events)) - 1))
    flow, whole = ChatFlow({}), ChatFlow({})
    list(whole.read(b"".join(events)))
    assert flow.ask.method == "POST"
    list(flow.read(b"".join(events)[:cut]))
    with pytest.raises(ServerError) as broken:
        flow.check_ended()
    ask = flow.ask
    if cut < len(events[0]):
        assert ask.method == "POST"
        with pytest.raises(ServerError, match="early"):
            flow.pause_after(broken.value)
        return
    assert flow.pause_after(broken.value) == 0.25
    assert ask.path == "/api/v1/chat/chat_1"
    last = int(ask.headers["Last-Event-ID"].removeprefix("chat_1-"))
    list(flow.read(b"".join(events[last + 1 :])))
    assert flow.result == whole.result


def test_what_is_waited_for_is_told_once() -> None:
    """Each change is an event; the same again is none."""
    events = ChatEvents("c", None, thoughts=True)
    waits = [
        Waiting("queued", 2), Waiting("queued", 2), Waiting("memory", 1, reason="big holds it"),
        Waiting("downloading", progress=0.5), Waiting("loading", progress=0.25), Waiting("prompt", progress=0.125),
        None,
    ]
    told = EventLines().read(b"".join(event for one in waits for event in events.waits(one)))
    assert [(one.name, json.loads(one.data)) for one in told] == [
        ("queued", {"position": 2, "reason": None}), ("queued", {"position": 1, "reason": "big holds it"}),
        ("loading", {"progress": 0.5, "stage": "downloading", "about": "downloading 50 %"}),
        ("loading", {"progress": 0.25, "stage": "loading", "about": "loading 25 %"}),
        ("prompt", {"progress": 0.125, "tokens": None, "cached": None, "conversation": None}),
    ]


def test_a_cut_call_keeps_its_words() -> None:
    """Arguments that are no object are null, with the text; such a call is not kept in a conversation."""
    events = ChatEvents("c", None, thoughts=True)
    pieces = (CallPiece(0, "1", "add"), CallPiece(0, arguments='{"a":1}'), CallPiece(1, "2", "add", '{"a":'))
    data = b"".join([*events.add([Delta("r", calls=pieces)]), *events.end(FINISH)])
    calls = [json.loads(one.data) for one in EventLines().read(data) if one.name == "call"]
    assert calls == [
        {"id": "1", "name": "add", "arguments": {"a": 1}},
        {"id": "2", "name": "add", "arguments": None, "text": '{"a":'},
    ]
    assert [call.id for call in events.message.tool_calls] == ["1"]


ARGUMENTS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3)


@given(st.text(), st.none() | st.text(min_size=1), st.lists(ARGUMENTS, max_size=3))
def test_a_kept_answer_is_read_as_it_was(text: str, thoughts: str | None, arguments: list[dict[str, object]]) -> None:
    """An answer that a conversation keeps becomes the same message of the next request."""
    calls = tuple(
        ToolCall(f"c{number}", "add", json.dumps(one, ensure_ascii=False)) for number, one in enumerate(arguments)
    )
    message = Message("assistant", text, tool_calls=calls, reasoning=thoughts)
    kept = json.loads(json.dumps(answer_value(message)))
    assert read_said([kept]) == (message,)


@pytest.mark.parametrize(("body", "parameter"), [
    ({}, "model"), ({"model": "m"}, "message"), ({"model": "m", "message": "a", "messages": []}, "message"),
    ({"model": "m", "messages": []}, "messages"), ({"model": "m", "message": 3}, "message"),
    ({"model": "m", "message": {"role": "x"}}, "message.role"),
    ({"model": "m", "message": {"role": "user"}}, "message.content"),
    ({"model": "m", "messages": [{"role": "assistant", "calls": [{"id": "1", "name": "a", "arguments": "{}"}]}]},
     "messages[0].calls[0].arguments"),
    ({"model": "m", "messages": [{"role": "assistant", "content": "", "thoughts": 3}]}, "messages[0].thoughts"),
    ({"model": "m", "messages": [{"role": "tool", "content": "3"}]}, "messages[0].call"),
    ({"model": "m", "message": "a", "conversation": "a b"}, "conversation"),
    ({"model": "m", "message": "a", "n": 2}, "n"),
    ({"model": "m", "message": "a", "stream": 1}, "stream"), ({"model": "m", "message": "a", "system": 1}, "system"),
])
def test_bodies_are_refused_by_place(body: dict[str, object], parameter: str) -> None:
    """What is wrong with a body is told with its place, in this protocol's words."""
    with pytest.raises(RequestError) as refused:
        read_chat_body(json.dumps(body).encode())
    assert refused.value.param == parameter
    assert not any(word in refused.value.text for word in ("messages[0]'", "reasoning_content", "tool_call_id"))


async def test_a_slow_reader_is_told_that_it_lost_events() -> None:
    """A reader that the buffer has overtaken gets no event out of order: it gets the notice, and the end."""
    buffer = EventBuffer(30)
    following = buffer.follow(0, 10, b": ping\n\n", b"LOST")
    buffer.put([b"a" * 10, b"b" * 10])
    assert await anext(following) == b"a" * 10 + b"b" * 10
    buffer.put([b"c" * 10, b"d" * 10, b"e" * 10, b"f" * 10])
    assert (buffer.first, buffer.next, buffer.size) == (3, 6, 30)
    assert [part async for part in following] == [b"LOST"]


async def test_readers_wait_together() -> None:
    """Two readers at different places get every event from theirs on, pings in silence, and the end."""
    buffer = EventBuffer(1000)
    buffer.put([b"0", b"1"])
    reading = [asyncio.create_task(collected(buffer, number)) for number in (0, 1, 2)]
    await asyncio.sleep(0)
    buffer.put([b"2"])
    buffer.end()
    assert await asyncio.gather(*reading) == [b"012", b"12", b"2"]
    silent = EventBuffer(10).follow(0, 0.001, b": ping\n\n")
    assert await anext(silent) == b": ping\n\n"


async def collected(buffer: EventBuffer, number: int) -> bytes:
    return b"".join([part async for part in buffer.follow(number, 60, b"ping")])


@pytest.mark.parametrize(("given_", "address"), [
    ("localhost:3000", "http://localhost:3000"), ("http://[::1]:80/v1/", "http://[::1]:80"),
    ("https://a.b/x/api/v1", "https://a.b/x"), ("http://a/v1", "http://a"),
])
def test_addresses(given_: str, address: str) -> None:
    """A server's address is taken as users write it."""
    assert server_address(given_) == address


@pytest.mark.parametrize("wrong", ["ftp://a", "http://", "http://a:b", ""])
def test_wrong_addresses(wrong: str) -> None:
    """What is no address of a server is refused before anything is sent."""
    with pytest.raises(ServerError, match="not a server address"):
        server_address(wrong)
