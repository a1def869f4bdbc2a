"""The native chat over the real server: its stream, and what becomes of readers that leave and return."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from attrs import evolve
from gates_for_tests import Gate, gated
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.builtin.chat import ChatApi
from lllms_core.builtin.chat.running_chats import ChatLimits
from lllms_core.client.event_lines import EventLines, ServerEvent
from lllms_core.errors import EngineFailed
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host

pytestmark = pytest.mark.slow

CHAT = "/api/v1/chat"
ASKED = {"model": "gate", "message": "Hi"}
LIMITS = ChatLimits(patience=0.01, look=0.005, grace=GUARD, kept=GUARD)


class Patient:
    """The plugin of a chat with other limits."""

    def __init__(self, limits: ChatLimits) -> None:
        self._limits = limits

    @hookimpl
    def lllms_apis(self) -> Sequence[ChatApi]:
        return [ChatApi(self._limits)]


@asynccontextmanager
async def serving(
    gate: Gate, limits: ChatLimits = LIMITS, **server: object,
) -> AsyncIterator[tuple[Host, httpx.AsyncClient]]:
    """A server whose model obeys a gate, and a client of it."""
    async with (
        asyncio.timeout(GUARD), gated(gate, {"patient": Patient(limits)}, disable=["chat"], **server) as host,
        published(host) as url, httpx.AsyncClient(base_url=url, timeout=GUARD, trust_env=False) as client,
    ):
        yield host, client


class Reader:
    """Reads the events of a response as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self._parts = response.aiter_raw()
        self._lines = EventLines()
        self.events: list[ServerEvent] = []

    async def reach(self, name: str, times: int = 1) -> list[ServerEvent]:
        """Read until there are this many events of a name."""
        while sum(one.name == name for one in self.events) < times:
            self.events += self._lines.read(await anext(self._parts))
        return self.events

    async def rest(self) -> list[ServerEvent]:
        """Read to the end."""
        async for part in self._parts:
            self.events += self._lines.read(part)
        return self.events


def text(events: Sequence[ServerEvent]) -> str:
    return "".join(json.loads(one.data)["text"] for one in events if one.name == "text")


def chat_id(events: Sequence[ServerEvent]) -> str:
    return events[0].id.rpartition("-")[0]


async def resume(client: httpx.AsyncClient, last: str) -> list[ServerEvent]:
    answer = await client.get(f"{CHAT}/{last.rpartition('-')[0]}", headers={"Last-Event-ID": last})
    assert answer.headers["content-type"] == "text/event-stream"
    return EventLines().read(answer.content)


async def test_an_answer_is_told_from_the_queue_to_its_end() -> None:
    """A stream tells the load, the prompt, the text, the usage and the end, with consecutive ids."""
    gate = Gate(loaded=0.5)
    async with serving(gate) as (_, client), client.stream("POST", CHAT, json=ASKED) as response:
        assert response.headers["content-type"] == "text/event-stream"
        reader = Reader(response)
        await reader.reach("loading")
        gate.load.set()
        for piece in ("one ", "two", None):
            gate.pieces.put(piece)
        events = await reader.rest()
    names = [one.name for one in events]
    assert names[-2:] == ["usage", "done"]
    assert {"loading", "prompt", "text"} <= set(names) <= {"queued", "loading", "prompt", "text", "usage", "done"}
    assert sorted(names, key=["queued", "loading", "prompt", "text", "usage", "done"].index) == names
    assert text(events) == "one two"
    assert [one.id for one in events] == [f"{chat_id(events)}-{number}" for number in range(len(events))]
    assert json.loads(events[-1].data) == {"reason": "stop", "stop": None, "conversation": None}


async def test_refusals_have_their_status_and_one_shape() -> None:
    """What is refused before the answer begins is JSON with a status; what fails in it is its last event."""
    gate = Gate()
    async with serving(gate, queue_size=1) as (_, client):
        unknown = await client.post(CHAT, json={**ASKED, "model": "none"})
        wrong = await client.post(CHAT, json={**ASKED, "temperature": 9})
        async with client.stream("POST", CHAT, json=ASKED) as response:
            reader = Reader(response)
            await reader.reach("loading")
            full = await client.post(CHAT, json=ASKED)
            gate.load.set()
            gate.pieces.put("one")
            gate.pieces.put(EngineFailed("it broke"))
    assert [one.status_code for one in (unknown, wrong, full)] == [404, 400, 429]
    for one in (unknown, wrong, full):
        assert set(one.json()["error"]) == {"code", "message", "parameter", "retry_after"}
    assert wrong.json()["error"]["parameter"] == "temperature"
    assert full.json()["error"]["retry_after"] >= 1
    async with serving(gate) as (_, client):
        gate.pieces.put("one")
        gate.pieces.put(EngineFailed("it broke"))
        events = EventLines().read((await client.post(CHAT, json=ASKED)).content)
    assert text(events) == "one"
    error = json.loads(events[-1].data)
    assert (events[-1].name, error["code"], error["parameter"]) == ("error", "engine_failed", None)
    assert "it broke" in error["message"]


async def test_a_reader_that_returns_gets_the_rest() -> None:
    """An answer whose reader has left goes on, and is read from any event on, while it is written and after its end."""
    gate = Gate()
    gate.load.set()
    async with serving(gate) as (_, client):
        async with client.stream("POST", CHAT, json=ASKED) as response:
            gate.pieces.put("one ")
            seen = list(await Reader(response).reach("text"))
        returned = asyncio.create_task(resume(client, seen[-1].id))
        other = asyncio.create_task(resume(client, seen[0].id))
        for piece in ("two ", "three", None):
            gate.pieces.put(piece)
        rest = await returned
        whole = [*seen, *rest]
        assert text(whole) == "one two three"
        assert [seen[0], *await other] == whole
        for number, event in enumerate(whole[:-1]):
            assert await resume(client, event.id) == whole[number + 1 :]
        nothing = await client.get(f"{CHAT}/{chat_id(whole)}", headers={"Last-Event-ID": whole[-1].id})
        assert (nothing.status_code, nothing.content) == (204, b"")
        from_the_start = await client.get(f"{CHAT}/{chat_id(whole)}")
        assert EventLines().read(from_the_start.content) == whole


async def test_an_answer_that_nobody_reads_ends() -> None:
    """After the grace, an answer without readers is cancelled, and frees its place; a late reader learns that."""
    gate = Gate()
    gate.load.set()
    async with serving(gate, evolve(LIMITS, grace=0.05)) as (host, client):
        async with client.stream("POST", CHAT, json=ASKED) as response:
            gate.pieces.put("one")
            reader = Reader(response)
            seen = list(await reader.reach("text"))
            await asyncio.sleep(0.1)  # longer than the grace, which has not begun
            assert host.status().running == 1
        await until(lambda: host.status().running == 0)
        await until(lambda: gate.answering == 0)
        rest = await resume(client, seen[-1].id)
        assert [one.name for one in rest] == ["error"]
        assert json.loads(rest[0].data)["code"] == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_it_waits(stream: bool) -> None:
    """Nothing stays in the queue for a client that left before the answer began."""
    gate = Gate()
    async with serving(gate, evolve(LIMITS, grace=0.05)) as (host, client):
        asking = asyncio.create_task(client.post(CHAT, json={**ASKED, "stream": stream}))
        await until(lambda: host.status().waiting == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: host.status().waiting == 0)


async def test_an_answer_is_stopped() -> None:
    """DELETE stops an answer at once; its readers are told, and it stays as it was."""
    gate = Gate()
    gate.load.set()
    async with serving(gate) as (host, client), client.stream("POST", CHAT, json=ASKED) as response:
        gate.pieces.put("one")
        reader = Reader(response)
        await reader.reach("text")
        for _ in range(2):
            stopped = await client.delete(f"{CHAT}/{chat_id(reader.events)}")
            assert stopped.json() == {"stopped": chat_id(reader.events)}
        await until(lambda: host.status().running == 0)
        assert [one.name for one in (await reader.rest())[-2:]] == ["text", "error"]
        assert json.loads(reader.events[-1].data)["message"] == "the answer was stopped"


async def test_what_is_gone_is_told() -> None:
    """An unknown answer, one kept no longer, events before the buffer, and ids of other answers: clear errors."""
    gate = Gate()
    gate.load.set()
    async with serving(gate, evolve(LIMITS, buffer=400, most_ended=1)) as (_, client):
        async def ask(*pieces: str) -> str:
            async with client.stream("POST", CHAT, json=ASKED) as response:
                reader = Reader(response)
                for number, piece in enumerate(pieces):
                    gate.pieces.put(piece)
                    await reader.reach("text", number + 1)
                gate.pieces.put(None)
                return chat_id(await reader.rest())

        first = await ask("one")
        long = await ask(*(f"{number:100}" for number in range(6)))
        answers = [
            await client.get(f"{CHAT}/{first}"), await client.delete(f"{CHAT}/{first}"),
            await client.get(f"{CHAT}/{long}", headers={"Last-Event-ID": f"{long}-0"}),
            *[await client.get(f"{CHAT}/{long}", headers={"Last-Event-ID": last.encode("latin-1")}) for last in (
                f"{first}-1", f"{long}-x", f"{long}-99", f"{long}--1", long, f"{long}-²",
            )],
        ]
    assert [one.status_code for one in answers] == [404, 404, 410, *[400] * 6]
    messages = [one.json()["error"]["message"] for one in answers]
    assert "no answer" in messages[0]
    assert f"before {long}-" in messages[2]
    assert all("Last-Event-ID" in message for message in messages[3:])


async def test_ended_answers_expire() -> None:
    """The events of an answer that has ended are forgotten after their time."""
    gate = Gate()
    gate.load.set()
    gate.pieces.put(None)
    async with serving(gate, evolve(LIMITS, kept=0.01)) as (_, client):
        events = EventLines().read((await client.post(CHAT, json=ASKED)).content)
        while (await client.get(f"{CHAT}/{chat_id(events)}")).status_code != 404:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.005)


async def test_a_slow_reader_stops_nobody() -> None:
    """While one client reads nothing of a long answer, its request ends, and others are answered."""
    gate = Gate()
    gate.load.set()
    async with serving(gate, evolve(LIMITS, buffer=20_000)) as (host, client), client.stream(
        "POST", CHAT, json=ASKED,
    ) as response:
        for _ in range(400):
            gate.pieces.put("x" * 30_000)
        gate.pieces.put(None)
        await until(lambda: host.status().running == 0)
        gate.pieces.put("two")
        gate.pieces.put(None)
        assert text(EventLines().read((await client.post(CHAT, json=ASKED)).content)) == "two"
        events = await Reader(response).rest()
    assert events[-1].name in {"error", "done"}
    numbers = [int(one.id.rpartition("-")[2]) for one in events if one.id]
    assert numbers == list(range(len(numbers)))
    if events[-1].name == "error":
        assert json.loads(events[-1].data)["code"] == "too_slow"


async def test_a_whole_answer_is_its_events() -> None:
    """Without a stream, one JSON says what the events would; a large prompt takes the same way."""
    gate = Gate()
    gate.load.set()
    async with serving(gate) as (_, client):
        for piece in ("one ", "two", None):
            gate.pieces.put(piece)
        answer: Any = (await client.post(CHAT, json={
            "model": "gate", "messages": [{"role": "user", "content": "x" * 200_000}], "stream": False,
        })).json()
    assert {**answer, "id": "", "usage": {}} == {
        "id": "", "model": "gate", "thoughts": "", "text": "one two", "calls": [], "usage": {}, "reason": "stop",
        "stop": None, "conversation": None,
    }
    assert set(answer["usage"]["timings"]) == {"queued", "load", "prompt", "answer"}
