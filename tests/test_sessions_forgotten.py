"""What the session keeper removes: sessions to be forgotten, and expired ones."""

import asyncio
import threading
import time
from array import array
from collections.abc import Sequence

import pytest
from attrs import evolve
from waits_for_tests import GUARD

from lllms_core.builtin.sessions import MemoryStore
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.session_rules import SessionLimits
from lllms_core.sessions import SessionEntry
from lllms_core.worker.loop import Inbox
from lllms_core.worker.wire import FindSession, PutSession, Survey

pytestmark = pytest.mark.slow


def line(tokens: Sequence[int]) -> bytes:
    return array("i", tokens).tobytes()


async def written(keeper: SessionKeeper) -> None:
    """Wait until everything queued is written."""
    done, loop = asyncio.Event(), asyncio.get_running_loop()
    keeper._writing.run(lambda: loop.call_soon_threadsafe(done.set))
    async with asyncio.timeout(GUARD):
        await done.wait()


async def keep(keeper: SessionKeeper, *lines: Sequence[int]) -> None:
    """Store sessions of these tokens, which can only be resumed whole, so that their prefixes stay."""
    for tokens in lines:
        keeper.put("tiny", PutSession("here", line(tokens), whole=True, state=b"state"))
    await written(keeper)


async def lengths(keeper: SessionKeeper) -> list[int]:
    return sorted(entry.tokens for entry in await keeper.list())


async def test_all_of_a_conversation_is_forgotten() -> None:
    """With a session go its extensions and its prefixes, and no others."""
    keeper = SessionKeeper(MemoryStore(), SessionLimits(min_tokens=1))
    talk = [*range(300)]
    others = [*range(130), *range(900, 1100)], [*range(5000, 5170)]  # one has a common beginning
    for length, left in ((200, [170, 330]), (300, [170, 330]), (100, [170])):  # all but one begin with those 100
        await keep(keeper, talk[:100], talk[:200], talk, *others)
        gone = await keeper.forget(line(talk[:length]))
        assert await lengths(keeper) == left
        assert len(gone) == 5 - len(left)
        for other in others:
            await keeper.forget(line(other))
    # Tokens that are less than a block, or end within one, are compared, too.
    await keep(keeper, talk[:30], talk[:150], [*range(31), *range(500, 700)])
    assert len(await keeper.forget(line(talk[:31]))) == 3
    assert await lengths(keeper) == []
    await keeper.close(GUARD)


async def test_what_waits_to_be_stored_is_forgotten_too() -> None:
    """A session that is being stored when its conversation is forgotten is not there afterwards."""
    store = MemoryStore()
    keeper = SessionKeeper(store, SessionLimits(min_tokens=1))
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()
    keeper._writing.run(lambda: asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(GUARD))  # type: ignore[arg-type]
    keeper.put("tiny", PutSession("here", line(range(200)), whole=False, state=b"state"))
    keeper.put("tiny", PutSession("here", line(range(7, 200)), whole=False, state=b"state"))
    assert len(await keeper.forget(line(range(100)))) == 1
    go_on.set()
    await written(keeper)
    assert [entry.tokens for entry in store.list()] == [193]
    await keeper.close(GUARD)


async def test_what_is_just_being_stored_is_forgotten_too() -> None:
    """A session that is forgotten while the store writes it is deleted as soon as it is written."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def put(self, entry: SessionEntry, data: bytes) -> None:
            begun.set()
            assert go_on.wait(GUARD)
            super().put(entry, data)

    store = Slow()
    keeper = SessionKeeper(store, SessionLimits(min_tokens=1))
    keeper.put("tiny", PutSession("here", line(range(200)), whole=False, state=b"state"))
    assert await asyncio.to_thread(begun.wait, GUARD)
    assert len(await keeper.forget(line(range(200)))) == 1
    go_on.set()
    await written(keeper)
    assert list(store.list()) == []
    await keeper.close(GUARD)


async def test_what_is_too_old_is_not_gone_on_with() -> None:
    """An expired session is neither found nor listed, even before it is deleted."""
    store = MemoryStore()
    keeper = SessionKeeper(store, SessionLimits(ttl=100, min_tokens=1))
    await keep(keeper, range(100))
    question = FindSession("1", "here", line(range(101)), 0, whole=False)
    assert (await keeper.find("tiny", question)).tokens
    [old] = store.list()
    store._sessions[old.id] = evolve(old, used=time.time() - 101), store._sessions[old.id][1]
    assert not (await keeper.find("tiny", question)).tokens
    assert list(await keeper.list()) == []
    assert await keeper.tokens(old.id) is None
    await keeper.close(GUARD)


def test_what_is_to_be_forgotten_is_urgent() -> None:
    """A long step is interrupted when something is to be forgotten, but not for mere lookups."""
    inbox = Inbox()
    inbox.put(Survey(1))
    assert not inbox.interrupt.is_set()
    for urgent in (Survey(2, (line(range(9)),)), Survey(3, everything=True)):
        inbox.interrupt.clear()
        inbox.put(urgent)
        assert inbox.interrupt.is_set()


async def test_what_is_too_old_is_deleted_without_anybody_asking() -> None:
    """A keeper evicts expired sessions, and those beyond the size limit, when it starts and later."""
    store = MemoryStore()
    keeper = SessionKeeper(store, SessionLimits(ttl=100, min_tokens=1))
    await keep(keeper, range(100), range(200, 300))
    [old, fresh] = store.list()
    store._sessions[old.id] = evolve(old, used=time.time() - 101), store._sessions[old.id][1]
    keeper.start()
    await asyncio.sleep(0)  # its task begins
    await written(keeper)
    assert [entry.id for entry in store.list()] == [fresh.id]
    assert (await keeper.find("tiny", FindSession("1", "here", line(range(200, 301)), 0, whole=True))).tokens
    await keeper.close(GUARD)
