"""The stream of one answer: what its reader can rely on."""

import asyncio

import pytest
from pools_for_tests import ask
from waits_for_tests import GUARD

from lllms_core.answers import Stream
from lllms_core.errors import EngineDied, EngineFailed
from lllms_core.types import Delta, Finish, Usage

END = Finish("stop", Usage(1, 2))


class Reader:
    """A stream for one request, and the record of its closing."""

    def __init__(self) -> None:
        self.cancelled: list[Stream] = []
        self.stream = Stream(ask("count"), self.cancelled.append)

    def put(self, text: str, finish: Finish | None = None) -> None:
        self.stream.put(Delta(self.stream.request.id, text, 1, finish))


async def take(stream: Stream) -> list[Delta]:
    async with asyncio.timeout(GUARD):
        return await stream.take()


def texts(deltas: list[Delta]) -> list[str]:
    return [delta.text for delta in deltas]


async def test_take_returns_all_that_has_arrived() -> None:
    """`take` returns every delta since the last one, then an empty list when the answer is complete."""
    reader = Reader()
    reader.put("a")
    reader.put("b")
    assert texts(await take(reader.stream)) == ["a", "b"]
    reader.put("c", END)
    assert reader.stream.finish is None
    assert texts(await take(reader.stream)) == ["c"]
    assert reader.stream.finish == END
    assert await take(reader.stream) == []
    assert await take(reader.stream) == []


async def test_take_waits() -> None:
    """`take` waits for the first delta; `wait` does the same and takes nothing."""
    reader = Reader()
    waiting = asyncio.create_task(reader.stream.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    reader.put("a")
    async with asyncio.timeout(GUARD):
        await waiting
    assert texts(await take(reader.stream)) == ["a"]


async def test_iteration_and_gather() -> None:
    """`async for` yields the deltas one by one; `gather` returns the whole answer under the instance's name."""
    reader = Reader()
    for text, finish in (("a", None), ("b", None), ("", END)):
        reader.put(text, finish)
    assert [delta.text async for delta in reader.stream] == ["a", "b", ""]
    other = Reader()
    other.stream.instance = "model:abc"
    other.put("ab", END)
    answer = await other.stream.gather()
    assert (answer.text, answer.finish) == ("ab", END)
    assert answer.id == f"model:abc-{other.stream.request.id}"


async def test_error_comes_after_the_deltas_before_it() -> None:
    """A failed request's text is taken first, even if it came together with the error; then the error is raised."""
    reader = Reader()
    reader.put("a")
    reader.stream.put(Delta(reader.stream.request.id, "b", error=EngineFailed("no")))
    assert texts(await take(reader.stream)) == ["a", "b"]
    with pytest.raises(EngineFailed, match="no"):
        await take(reader.stream)
    assert await take(reader.stream) == []
    await reader.stream.aclose()
    assert reader.cancelled == []


async def test_nothing_follows_the_end() -> None:
    """After the last delta nothing else is received: an instance's death no longer matters."""
    reader = Reader()
    reader.put("a", END)
    reader.stream.fail(EngineDied("dead"))
    assert (await reader.stream.gather()).text == "a"


async def test_close_before_the_start() -> None:
    """A stream that was never read can be closed; the request is cancelled, once."""
    reader = Reader()
    await reader.stream.aclose()
    await reader.stream.aclose()
    assert reader.cancelled == [reader.stream]
    reader.put("too late")
    assert await take(reader.stream) == []


async def test_close_after_the_end_cancels_nothing() -> None:
    """A request that has ended is not cancelled, whether or not its last delta was taken."""
    reader = Reader()
    async with reader.stream:
        reader.put("a", END)
    assert reader.cancelled == []


async def test_leaving_the_block_early_cancels() -> None:
    """`async with` closes the stream, even if its block raises."""
    reader = Reader()
    reader.put("a")
    with pytest.raises(KeyError):
        async with reader.stream:
            raise KeyError
    assert reader.cancelled == [reader.stream]


async def test_close_wakes_who_takes() -> None:
    """A pending `take` returns the empty list when another task closes the stream; `gather` says what happened."""
    reader = Reader()
    taking = asyncio.create_task(reader.stream.take())
    await asyncio.sleep(0)
    await reader.stream.aclose()
    async with asyncio.timeout(GUARD):
        assert await taking == []
        with pytest.raises(RuntimeError, match="closed before the end"):
            await reader.stream.gather()


@pytest.mark.parametrize("early", [True, False])
async def test_answer_with_unenforced_restrictions_is_kept(*, early: bool) -> None:
    """Any delta may name what no grammar enforces; the answer stays for a check if the first one does."""
    reader = Reader()
    if not early:
        reader.put("a")
    reader.stream.put(Delta(reader.stream.request.id, "b", unenforced=("tools.f#/not",)))
    reader.stream.put(Delta(reader.stream.request.id, "c", finish=END, unenforced=("tools.f#/not", "tools.g#")))
    assert reader.stream.unenforced_answer() is None
    whole = await reader.stream.gather()
    kept = reader.stream.unenforced_answer()
    assert whole.unenforced == ("tools.f#/not", "tools.g#")
    assert kept == (whole if early else None)


async def test_cancelled_take_loses_nothing() -> None:
    """A task that is cancelled in `take` takes nothing away from the next one."""
    reader = Reader()
    taking = asyncio.create_task(reader.stream.take())
    await asyncio.sleep(0)
    taking.cancel()
    reader.put("a")
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert texts(await take(reader.stream)) == ["a"]
