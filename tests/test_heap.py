"""Memory that a process has freed goes back to the system."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from queue import Queue

import pytest
from waits_for_tests import until

from lllms_core.machine import duties, heap, private_memory

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")

THREADS_BYTES = 8 << 20
PIECES, SIZE = 500, 100_000
FREED = PIECES * SIZE * 9 // 10


def scatter() -> list[bytes]:
    """Take 50 MB and free 45 MB of them, between pieces that stay, as requests do; returns these."""
    pieces = [b"x" * (SIZE + number) for number in range(PIECES)]
    return pieces[::10]


def taken() -> int:
    size = private_memory(os.getpid())
    assert size is not None
    return size


def test_free_pages_between_others_go_back() -> None:
    """The allocator keeps what was freed between objects that stay, until it is asked to give it back."""
    heap.give_back()
    before = taken()
    stay = scatter()
    assert taken() - before > FREED
    assert heap.give_back()
    assert taken() - before < FREED / 4
    assert len(stay) == PIECES // 10


async def test_a_server_gives_free_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that works returns what it has freed, without being asked."""
    monkeypatch.setattr(heap, "SECONDS", 0.01)
    heap.give_back()
    before = taken()
    async with duties():
        stay = scatter()
        until_then = sum(range(2_000_000))  # more processor time than the least
        await until(lambda: taken() - before < FREED / 4)
    assert (len(stay), until_then > 0) == (PIECES // 10, True)


def test_the_free_end_of_a_threads_heap_goes_back() -> None:
    """What a thread has freed goes back, also in a process that has freed large blocks before.

    By itself, glibc keeps the end of its heap then, and `malloc_trim` passes over it.
    """
    returned, returned_with_short_ends = (
        int(subprocess.run([sys.executable, __file__, *how], capture_output=True, text=True, check=True).stdout)
        for how in ([], ["short"])
    )
    assert returned < THREADS_BYTES / 4
    assert returned_with_short_ends > THREADS_BYTES * 3 / 4


async def test_an_idle_server_has_nothing_to_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without work in between, the allocator is not asked again."""
    asked = asyncio.Event()
    looks = 0

    def work_of_this_process() -> float:
        nonlocal looks
        looks += 1
        return 1.0  # in all, and nothing since the last look

    def give_back() -> bool:
        assert not asked.is_set()
        asked.set()
        return True

    monkeypatch.setattr(heap, "SECONDS", 0.0)
    monkeypatch.setattr(heap, "give_back", give_back)
    monkeypatch.setattr(time, "process_time", work_of_this_process)
    tending = asyncio.create_task(heap.tend_heap())
    await asked.wait()
    await until(lambda: looks > 20)
    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)


def test_other_systems_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library is another one, nothing is asked."""
    heap._glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        assert not heap.give_back()
        asyncio.run(heap.tend_heap())  # returns at once
    finally:
        monkeypatch.undo()
        heap._glibc.cache_clear()


def free_in_a_thread() -> int:
    """Let a thread take memory and free it, after a large block was freed; return how many bytes of it went back."""
    bytes(20 << 20)
    pieces = [b""] * (THREADS_BYTES // SIZE)
    tasks: Queue[Callable[[int], bytes] | None] = Queue()

    def work() -> None:
        while (piece := tasks.get()) is not None:
            for place in range(len(pieces)):
                pieces[place] = piece(place)
            tasks.task_done()

    def let(piece: Callable[[int], bytes]) -> int:
        tasks.put(piece)
        tasks.join()
        heap.give_back()
        return taken()

    thread = threading.Thread(target=work)
    thread.start()
    full, left = let(lambda place: b"x" * (SIZE + place)), let(lambda _: b"")
    tasks.put(None)
    thread.join()
    return full - left


if __name__ == "__main__":
    if sys.argv[1:] == ["short"]:
        heap.keep_short_ends()
    sys.stdout.write(str(free_in_a_thread()))
