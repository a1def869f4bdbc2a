"""Many requests of one client: a few at a time, all in the end."""

import asyncio

import pytest
from engines_for_tests import Options
from pools_for_tests import Pools, ask
from test_pool_work import error, reaches, running, text
from waits_for_tests import GUARD

from lllms_core.errors import QueueFull, ShuttingDown
from lllms_core.pool.state import PoolLimits

pytestmark = pytest.mark.slow


async def test_more_than_the_queue_holds_are_answered(pools: Pools) -> None:
    """A hundred requests for a queue of two are all answered; never more than twice the concurrency are in the pool."""
    pool = await pools.start(Options(slots=2), limits=PoolLimits(concurrency=2, queue_size=2, cores=2))
    streams = pool.submit_all([ask(f"echo {at}") for at in range(100)])
    assert pool.status().waiting + pool.status().running <= 4
    assert await asyncio.gather(*map(text, streams)) == [str(at) for at in range(100)]
    await reaches(pool, running=0, waiting=0)


async def test_the_first_decides(pools: Pools) -> None:
    """If the first request finds a full queue, all are refused at once; if it is admitted, none is refused later."""
    pool = await pools.start(Options(slots=1), limits=PoolLimits(concurrency=1, queue_size=1, cores=2))
    busy = await running(pool)
    waiting = pool.submit(ask("echo waited"))
    refused = pool.submit_all([ask("x") for _ in range(5)])
    assert {type(await error(stream)) for stream in refused} == {QueueFull}
    await waiting.aclose()
    first, *others = pool.submit_all([ask("echo in") for _ in range(4)])
    assert isinstance(await error(pool.submit(ask("x"))), QueueFull)
    await busy.aclose()
    assert await text(first) == "in"
    assert await asyncio.gather(*map(text, others)) == ["in"] * 3


async def test_others_are_served_between(pools: Pools) -> None:
    """A request that comes after a thousand of another client is served before most of them."""
    pool = await pools.start(Options(slots=1), limits=PoolLimits(concurrency=1, cores=2))
    streams = pool.submit_all([ask(f"echo {at}") for at in range(1000)])
    assert await text(pool.submit(ask("echo other"))) == "other"
    assert sum(stream.ended for stream in streams) < 10
    for stream in streams[::-1]:
        await stream.aclose()
    await reaches(pool, running=0, waiting=0)


async def test_closed_ones_never_enter(pools: Pools) -> None:
    """Requests that are closed before their turn are never submitted; the others get their turns."""
    pool = await pools.start(Options(slots=1), limits=PoolLimits(concurrency=1, cores=2))
    busy = await running(pool)
    streams = pool.submit_all([ask(f"echo {at}") for at in range(10)])
    for stream in streams[3:9]:
        await stream.aclose()
    await busy.aclose()
    assert [await text(streams[at]) for at in (0, 1, 2, 9)] == ["0", "1", "2", "9"]
    assert {stream.instance for stream in streams[3:9]} == {None}


async def test_all_end_with_the_pool(pools: Pools) -> None:
    """When the pool closes, all requests that wait for their turn get the error, whether two or two thousand."""
    pool = await pools.start(Options(slots=1), limits=PoolLimits(concurrency=1, cores=2))
    first = await running(pool)
    streams = pool.submit_all([ask("count") for _ in range(2000)])
    async with asyncio.timeout(GUARD):
        await pool.close(grace=0)
    assert isinstance(await error(first), ShuttingDown)
    assert {type(await error(stream)) for stream in streams} == {ShuttingDown}


async def test_a_worker_that_dies_ends_those_it_ran(pools: Pools) -> None:
    """The running ones fail with their worker; the others are answered by the next one."""
    pool = await pools.start(Options(slots=2), isolation="process", limits=PoolLimits(concurrency=1, cores=2))
    dying, *others = pool.submit_all([ask("kill"), *(ask(f"echo {at}") for at in range(6))])
    assert "failed while it worked" in (await error(dying)).message
    assert await asyncio.gather(*map(text, others)) == [str(at) for at in range(6)]
