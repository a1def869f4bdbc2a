"""Deltas that a stream passes on in a callback, without waking up its reader."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools_for_tests import ask
from waits_for_tests import GUARD

from lllms_core.answers import Stream
from lllms_core.errors import EngineFailed
from lllms_core.types import Delta, Finish, Usage

END = Finish("stop", Usage(1, 2))


def reader() -> Stream:
    return Stream(ask("count"), lambda _: None)


def put(stream: Stream, text: str, finish: Finish | None = None) -> None:
    stream.put(Delta(stream.request.id, text, 1, finish))


def texts(deltas: Sequence[Delta]) -> list[str]:
    return [delta.text for delta in deltas]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def taking(taken: list[list[str]], *, takes: Callable[[], bool] = lambda: True) -> Callable[[Sequence[Delta]], bool]:
    def pass_on(deltas: Sequence[Delta]) -> bool:
        if takes():
            taken.append(texts(deltas))
        return takes()

    return pass_on


async def test_what_arrives_is_passed_on_while_the_reader_sleeps() -> None:
    """Deltas of one turn are passed on together, in order; only the last one of the answer wakes the reader up."""
    stream, taken = reader(), list[list[str]]()
    waiting = asyncio.create_task(stream.wait(GUARD, taking(taken)))
    await turns()
    for batch in (["a"], ["b", "c"], ["d"]):
        for text in batch:
            put(stream, text)
        await turns()
        assert not waiting.done()
    assert taken == [["a"], ["b", "c"], ["d"]]
    put(stream, "e")
    put(stream, "f", END)
    assert await waiting
    assert texts(await stream.take()) == ["e", "f"]
    assert len(taken) == 3
    assert stream.finish == END


async def test_what_is_not_taken_is_left_to_the_reader() -> None:
    """A refusal wakes the reader up, who finds all deltas in their order, with those that came meanwhile."""
    stream, taken, open_ = reader(), list[list[str]](), [True]
    waiting = asyncio.create_task(stream.wait(GUARD, taking(taken, takes=lambda: open_[0])))
    await turns()
    put(stream, "a")
    await turns()
    open_[0] = False
    put(stream, "b")
    await turns(1)
    put(stream, "c")
    open_[0] = True
    assert await waiting
    assert taken == [["a"]]
    assert texts(await stream.take()) == ["b", "c"]


async def test_nothing_is_passed_on_past_a_reader() -> None:
    """What has arrived before the wait is the reader's, and so is what arrives after it."""
    stream, taken = reader(), list[list[str]]()
    put(stream, "a")
    assert await stream.wait(GUARD, taking(taken))
    put(stream, "b")
    await turns()
    assert not taken
    assert texts(await stream.take()) == ["a", "b"]


async def test_an_error_of_the_one_who_takes_is_the_readers() -> None:
    """What the callback raises is raised by `wait`, and concerns no other stream."""
    def broken(_: Sequence[Delta]) -> bool:
        raise ValueError("no")

    stream, other, taken = reader(), reader(), list[list[str]]()
    waiting = asyncio.create_task(stream.wait(GUARD, broken))
    others = asyncio.create_task(other.wait(GUARD, taking(taken)))
    await turns()
    put(stream, "a")
    put(other, "b")
    with pytest.raises(ValueError, match="no"):
        await waiting
    assert taken == [["b"]]
    put(other, "", END)
    assert await others


async def test_an_error_of_the_answer_ends_the_wait() -> None:
    """A failed request wakes the reader up, who gets the text before the failure and then the error."""
    stream, taken = reader(), list[list[str]]()
    waiting = asyncio.create_task(stream.wait(GUARD, taking(taken)))
    await turns()
    put(stream, "a")
    stream.put(Delta(stream.request.id, "b", error=EngineFailed("no")))
    assert await waiting
    assert texts(await stream.take()) == ["a", "b"]
    with pytest.raises(EngineFailed):
        await stream.take()
    assert not taken


async def test_silence_counts_from_the_last_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait is over once nothing has come for its time; what is passed on meanwhile begins that time anew."""
    loop, turned = asyncio.get_running_loop(), [0.0]
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + turned[0])
    stream, taken = reader(), list[list[str]]()
    waiting = asyncio.create_task(stream.wait(1000, taking(taken)))
    await turns()
    for _ in range(3):
        turned[0] += 600
        put(stream, "a")
        await turns()
        assert not waiting.done()
    assert len(taken) == 3
    turned[0] += 1001
    assert not await waiting


async def test_a_closed_stream_passes_nothing_on() -> None:
    """Once its client has left, nothing is written to it, not even what had arrived in the same turn."""
    stream, taken = reader(), list[list[str]]()
    waiting = asyncio.create_task(stream.wait(GUARD, taking(taken)))
    await turns()
    put(stream, "a")
    await stream.aclose()
    put(stream, "b")
    await turns()
    assert not taken
    assert await waiting


async def test_a_reader_that_is_cancelled_passes_nothing_on() -> None:
    """A response that ends while something is due to be passed on leaves it alone."""
    stream, taken = reader(), list[list[str]]()
    waiting = asyncio.create_task(stream.wait(GUARD, taking(taken)))
    await turns()
    put(stream, "a")
    waiting.cancel()
    await turns()
    assert not taken


@given(st.lists(st.sampled_from(["put", "turn", "refuse", "take"]), max_size=40))
def test_nothing_is_lost_doubled_or_reordered(steps: list[str]) -> None:
    """Whatever arrives, is passed on or is refused in whatever order, the client gets the answer as it was written."""
    async def play() -> None:
        stream, got, takes, written = reader(), list[str](), [True], 0

        def pass_on(deltas: Sequence[Delta]) -> bool:
            if takes[0]:
                got.extend(texts(deltas))
            return takes[0]

        async def read() -> None:
            while True:
                await stream.wait(GUARD, pass_on)
                deltas = await stream.take()
                if not deltas:
                    return
                got.extend(texts(deltas))

        reading = asyncio.create_task(read())
        for step in steps:
            match step:
                case "put":
                    put(stream, str(written))
                    written += 1
                case "turn":
                    await asyncio.sleep(0)
                case "refuse":
                    takes[0] = False
                case "take":
                    takes[0] = True
        put(stream, "end", END)
        await asyncio.wait_for(reading, GUARD)
        assert got == [*map(str, range(written)), "end"]

    asyncio.run(play())
