"""Threads that wait hold nothing of what they have done: sessions and requests may have hundreds of megabytes."""

import gc
import socket
import threading
import weakref
from array import array
from collections.abc import Iterator

import httpx
import pytest
from serving_for_tests import serving
from waits_for_tests import GUARD, poll, until

from lllms_core.builtin.sessions import MemoryStore
from lllms_core.pool import keeper as keeping
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.session_rules import SessionLimits
from lllms_core.types import Message
from lllms_core.worker.channel import Channel, Heavy
from lllms_core.worker.child import fill
from lllms_core.worker.loop import Inbox
from lllms_core.worker.wire import Cancel, FindSession, PutSession

pytestmark = pytest.mark.slow

TOKENS = array("i", range(300)).tobytes()


async def test_a_stored_session_is_held_by_its_store_alone() -> None:
    """The keeper lets go of a session as soon as it is stored, and of one that was found as soon as it is sent."""
    keeper = SessionKeeper(MemoryStore(), SessionLimits(min_tokens=1))
    session = PutSession("here", TOKENS, whole=True, state=bytes(1000))
    question = FindSession("request", "here", TOKENS, 0, whole=True)
    held = [weakref.ref(session), weakref.ref(question)]
    keeper.put("tiny", session)
    found = await keeper.find("tiny", question)
    held.append(weakref.ref(found))
    del session, question, found
    await until(lambda: not any(one() for one in held))
    await keeper.close(GUARD)


def test_a_channel_holds_no_message() -> None:
    """Neither end of a channel keeps the last session that it has sent or received."""
    ends, held, ended = socket.socketpair(), [], threading.Event()

    def received(message: Heavy) -> None:
        held.append(weakref.ref(message))

    there, here = Channel(ends[0], received, ended.set), Channel(ends[1], received, ended.set)
    session = PutSession("here", TOKENS, whole=True, state=bytes(1000))
    held.append(weakref.ref(session))
    here.send(session)
    del session
    poll(lambda: len(held) == 2 and not any(one() for one in held))
    here.close()
    there.close()
    assert ended.wait(GUARD)


def test_a_worker_holds_no_request_that_it_has_answered() -> None:
    """While a worker waits for the next message, nothing refers to the one before."""
    held = []

    def arrived() -> Iterator[object]:
        yield made()
        held.append(message())
        yield made()

    def made() -> Cancel:
        nonlocal message
        new = Cancel("request")
        message = weakref.ref(new)
        return new

    class Careless(Inbox):
        def put(self, message: object) -> None:
            """It is handled at once."""

    message: weakref.ref[Cancel]
    fill(Careless(), arrived(), lambda _: None)
    assert held == [None]


async def test_the_spaces_of_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that gets one configuration after the other remembers the spaces of the last ones."""
    monkeypatch.setattr(keeping, "MOST_SPACES", 3)
    keeper = SessionKeeper(MemoryStore(), SessionLimits(min_tokens=1))
    for number in range(6):
        await keeper.find("tiny", FindSession("request", f"space {number}", TOKENS, 0, whole=True))
    assert [*keeper._spaces] == ["space 3", "space 4", "space 5"]
    await keeper.close(GUARD)


def messages_with(text: str) -> int:
    gc.collect()
    return sum(isinstance(one, Message) and one.role == "user" and one.content == text for one in gc.get_objects())


async def test_an_answer_that_can_be_read_again_holds_no_request() -> None:
    """For a while, an answer that has ended can be read again: its events are kept, and not what it answered."""
    config = {"server": {"port": 0, "spare_workers": 0}, "models": {"m": {"engine": "mock", "isolation": "thread"}}}
    async with serving(config) as url, httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        said = "said in a chat"
        events = (await client.post("/api/v1/chat", json={"model": "m", "message": said})).text
        [chat_id] = {line.removeprefix("id: ").rpartition("-")[0] for line in events.splitlines() if line[:4] == "id: "}
        await until(lambda: messages_with(said) == 0)
        again = await client.get(f"/api/v1/chat/{chat_id}")
        assert (again.status_code, again.text) == (200, events)

        said = "said in the background"
        made = (await client.post("/v1/responses", json={"model": "m", "input": said, "background": True})).json()
        await until(lambda: messages_with(said) == 0)
        again = await client.get(f"/v1/responses/{made['id']}", params={"stream": "true"})
        assert "response.completed" in again.text
