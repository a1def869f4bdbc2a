"""The pool at work, with real workers."""

import asyncio
import os
import threading
from pathlib import Path

import engines_for_tests as engines
import psutil
import pytest
from engines_for_tests import Options
from pools_for_tests import Pools, ask
from waits_for_tests import GUARD

from lllms_core.answers import Stream
from lllms_core.errors import (
    EngineDied,
    InvalidRequest,
    LllmsError,
    ModelLoadFailed,
    ModelUnknown,
    QueueFull,
    ShuttingDown,
    WaitedTooLong,
)
from lllms_core.pool import setbacks
from lllms_core.pool.instance import Patience
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import ModelLimits, PoolLimits
from lllms_core.types import Isolation

pytestmark = pytest.mark.slow


async def text(stream: Stream) -> str:
    async with asyncio.timeout(GUARD):
        return (await stream.gather()).text


async def error(stream: Stream) -> LllmsError:
    async with asyncio.timeout(GUARD):
        with pytest.raises(LllmsError) as raised:
            await stream.gather()
    return raised.value


async def running(pool: Pool, prompt: str = "count", model: str = "scripted") -> Stream:
    """A request whose answer has begun."""
    stream = pool.submit(ask(prompt, model))
    async with asyncio.timeout(GUARD):
        await stream.take()
    return stream


async def reaches(pool: Pool, **counts: int) -> None:
    """Return when the pool has these counts."""
    async with asyncio.timeout(GUARD):
        while any(getattr(pool.status(), name) != count for name, count in counts.items()):
            await pool._dispatcher.change()


def open_gate(gate: Path) -> None:
    """Let loads that wait at the gate continue; returns when one does."""
    os.close(os.open(gate, os.O_WRONLY))


async def test_ten_waiters_share_one_load(pools: Pools) -> None:
    """Ten simultaneous requests for a model that is not loaded cause one load, and each gets its own answer."""
    pool = await pools.start(Options(slots=8), model_limits=ModelLimits(max_instances=3))
    answers = await asyncio.gather(*(text(pool.submit(ask(f"echo secret {n}"))) for n in range(10)))
    assert answers == [f"secret {n}" for n in range(10)]
    assert len(pool.status().instances) == 1


async def test_answer_is_named_after_its_instance(pools: Pools) -> None:
    """The id of an answer shows the model, the instance and the request."""
    pool = await pools.start()
    request = ask("echo x")
    async with asyncio.timeout(GUARD):
        answer = await pool.submit(request).gather()
    [instance] = pool.status().instances
    assert instance.id.startswith("scripted:")
    assert answer.id == f"{instance.id}-{request.id}"


async def test_two_clients_two_models(pools: Pools) -> None:
    """Requests for two models in a pool with one place both finish, one after the other."""
    pool = await pools.start(models=("a", "b"), limits=PoolLimits(max_instances=1, cores=2))
    assert await asyncio.gather(*(text(pool.submit(ask(f"echo {m}", m))) for m in ("a", "b", "a", "b"))) == [*"abab"]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_concurrency_is_enforced(pools: Pools, concurrency: int) -> None:
    """Never more than `concurrency` requests run over all models together; all are served in the end."""
    pool = await pools.start(
        Options(slots=4), models=("a", "b"), limits=PoolLimits(concurrency=concurrency, cores=2),
        model_limits=ModelLimits(max_instances=2),
    )
    most = 0

    async def one(number: int) -> str:
        nonlocal most
        async with asyncio.timeout(GUARD), pool.submit(ask(f"echo {'x' * 20}", "ab"[number % 2])) as stream:
            answer = ""
            async for delta in stream:
                most = max(most, pool.status().running)
                answer += delta.text
        return answer

    assert set(await asyncio.gather(*map(one, range(12)))) == {"x" * 20}
    assert most == concurrency


async def test_cancel_while_waiting(pools: Pools) -> None:
    """A request that is closed in the queue leaves it; those after it are served."""
    pool = await pools.start(Options(slots=1))
    first = await running(pool)
    second, third = pool.submit(ask("echo second")), pool.submit(ask("echo third"))
    assert pool.status().waiting == 2
    await second.aclose()
    assert pool.status().waiting == 1
    await first.aclose()
    assert await text(third) == "third"


async def test_cancel_while_loading(pools: Pools, gate: Path) -> None:
    """A request that is closed during a load leaves; the load continues for the others."""
    pool = await pools.start(Options(gate=str(gate)), model_limits=ModelLimits(ttl=-1))
    first, second = pool.submit(ask("echo first")), pool.submit(ask("echo second"))
    await first.aclose()
    await asyncio.to_thread(open_gate, gate)
    assert await text(second) == "second"


async def test_cancel_at_work_frees_the_slot(pools: Pools) -> None:
    """A running request that is closed frees its slot for the next; its neighbour continues."""
    pool = await pools.start(Options(slots=2))
    first, neighbour = await running(pool), await running(pool)
    waiting = pool.submit(ask("echo next"))
    await first.aclose()
    assert await text(waiting) == "next"
    assert await neighbour.take()
    await neighbour.aclose()
    await reaches(pool, running=0)


async def test_timeout_keeps_the_partial_answer(pools: Pools) -> None:
    """A request whose time is up ends with its answer so far, and the reason `timeout`."""
    pool = await pools.start()
    async with asyncio.timeout(GUARD):
        answer = await pool.submit(ask("count", timeout=0.5)).gather()
    assert answer.finish.reason == "timeout"
    assert answer.text.startswith("0 1 ")
    assert answer.finish.usage.completion_tokens > 0
    await reaches(pool, running=0)


async def test_request_in_time_stops_its_clock(pools: Pools) -> None:
    """A request that ends before its time limit ends as it would without one."""
    pool = await pools.start()
    async with asyncio.timeout(GUARD):
        answer = await pool.submit(ask("echo ok", timeout=GUARD)).gather()
    assert (answer.text, answer.finish.reason) == ("ok", "stop")


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_worker_that_hangs_is_given_up(pools: Pools, isolation: Isolation) -> None:
    """A worker that ignores a cancel is killed; its other requests fail, and the next request starts a new worker."""
    engines.RELEASE.clear()
    pool = await pools.start(isolation=isolation, patience=Patience(close=0.1, cancel=0.1))
    neighbour = await running(pool)
    hanging = await running(pool, "cancel hang")
    await hanging.aclose()
    died = await error(neighbour)
    assert isinstance(died, EngineDied)
    assert "did not end a cancelled request within 0.1 s" in died.message
    assert await text(pool.submit(ask("echo again"))) == "again"
    engines.RELEASE.set()  # so that the thread ends


@pytest.mark.parametrize("fault", ["hang", "hold-gil", "raise"])
async def test_worker_that_does_not_close_is_killed(pools: Pools, fault: str) -> None:
    """A worker that was told to close and does not is killed after a while."""
    pool = await pools.start(Options(close=fault), isolation="process", patience=Patience(close=0.05))  # type: ignore[arg-type]
    assert await text(pool.submit(ask("echo x"))) == "x"
    [instance] = pool.status().instances
    async with asyncio.timeout(GUARD):
        await pool.close(grace=0)
    assert not psutil.pid_exists(instance.pid or 0)


async def test_ttl_ends_the_process(pools: Pools) -> None:
    """An instance whose ttl is over is unloaded, and its process is gone; the next request loads again."""
    pool = await pools.start(isolation="process", model_limits=ModelLimits(ttl=0.05))
    pid = int(await text(pool.submit(ask("pid"))))
    async with asyncio.timeout(GUARD):
        while pool.status().instances:
            await pool._dispatcher.change()
    assert not psutil.pid_exists(pid)
    assert int(await text(pool.submit(ask("pid")))) != pid


async def test_ttl_of_zero_with_a_waiter(pools: Pools) -> None:
    """With ttl 0, requests that come while the instance unloads are served by a new one."""
    pool = await pools.start(model_limits=ModelLimits(ttl=0), limits=PoolLimits(max_instances=1, cores=1))
    for number in range(3):
        assert await text(pool.submit(ask(f"echo {number}"))) == str(number)
    async with asyncio.timeout(GUARD):
        while pool.status().instances:
            await pool._dispatcher.change()


async def test_full_queue_refuses(pools: Pools) -> None:
    """A request that finds the queue full is refused with the time to retry; the others are served."""
    pool = await pools.start(Options(slots=1), limits=PoolLimits(queue_size=1, cores=2))
    first = await running(pool)
    waiting = pool.submit(ask("echo waited"))
    refused = await error(pool.submit(ask("echo refused")))
    assert isinstance(refused, QueueFull)
    assert refused.retry_after >= 1
    await first.aclose()
    assert await text(waiting) == "waited"


async def test_waiting_too_long_refuses(pools: Pools) -> None:
    """A request that waits longer than `queue_timeout` is refused without any other event."""
    limits = PoolLimits(queue_timeout=0.02, cores=2)
    pool = await pools.start(Options(slots=1), limits=limits, model_limits=ModelLimits(1))
    first = await running(pool)
    assert isinstance(await error(pool.submit(ask("echo x"))), WaitedTooLong)
    assert await first.take()
    await first.aclose()


async def test_failed_load_is_no_dead_end(pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that could not be loaded is tried again on the next request after its cooldown."""
    monkeypatch.setattr(setbacks, "FIRST_COOLDOWN", 0.0)
    missing = tmp_path / "gate"
    pool = await pools.start(Options(gate=str(missing)))
    failed = await error(pool.submit(ask("echo x")))
    assert isinstance(failed, ModelLoadFailed)
    assert "No such file" in failed.message
    missing.touch()
    assert await text(pool.submit(ask("echo x"))) == "x"


async def test_cores_are_shared(pools: Pools) -> None:
    """The running engines are told how many cores they may use: all, or their share."""
    pool = await pools.start(models=("a", "b"), limits=PoolLimits(cores=4))
    assert await text(pool.submit(ask("threads", "a"))) == "4"
    busy = await running(pool, model="b")
    await text(pool.submit(ask("echo so that a has worked beside b", "a")))
    beside = await running(pool, model="a")
    assert {instance.model: instance.threads for instance in pool.status().instances} == {"a": 2, "b": 2}
    assert await text(pool.submit(ask("threads", "a"))) == "2"
    await busy.aclose()
    await reaches(pool, running=1)
    assert await text(pool.submit(ask("threads", "a"))) == "4"
    await beside.aclose()


async def test_slow_reader_holds_nobody_up(pools: Pools) -> None:
    """An answer that is not read costs the others nothing, and is complete when it is read."""
    pool = await pools.start(isolation="process")
    unread = pool.submit(ask("echo " + "x" * 5000))
    assert await text(pool.submit(ask("echo " + "y" * 1000))) == "y" * 1000
    assert await text(unread) == "x" * 5000


async def test_status_tells_states_and_counts(pools: Pools, gate: Path) -> None:
    """The status shows an instance while it loads, works and idles."""
    pool = await pools.start(Options(gate=str(gate)), isolation="process")
    stream = pool.submit(ask("count"))
    async with asyncio.timeout(GUARD):
        while pool.status().instances[0].progress < 0.9:  # noqa: ASYNC110  # the pool does not tell of progress
            await asyncio.sleep(0)
    [loading] = pool.status().instances
    assert (loading.state, loading.running, loading.info, pool.status().waiting) == ("loading", 0, None, 1)
    assert pool.info("scripted") is None
    await asyncio.to_thread(open_gate, gate)
    async with asyncio.timeout(GUARD):
        await stream.take()
    [ready] = pool.status().instances
    assert (ready.state, ready.running, ready.progress, ready.idle_seconds) == ("ready", 1, 1.0, 0.0)
    assert ready.pid is not None
    assert ready.info == pool.info("scripted")
    await stream.aclose()
    await reaches(pool, running=0, waiting=0)
    assert pool.status().instances[0].idle_seconds >= 0


async def test_requests_that_nobody_can_serve(pools: Pools) -> None:
    """An unknown model, and an id that is in use, are refused with a reason; other requests are unaffected."""
    pool = await pools.start()
    unknown = await error(pool.submit(ask("echo x", "nonsense")))
    assert isinstance(unknown, ModelUnknown)
    assert unknown.message == "no model 'nonsense'; there are: scripted"
    first = await running(pool)
    assert isinstance(await error(pool.submit(first.request)), InvalidRequest)
    assert await first.take()
    await first.aclose()


async def test_close_lets_the_running_finish(pools: Pools) -> None:
    """During the grace running requests finish; waiting and new ones are refused at once."""
    pool = await pools.start(Options(slots=1), isolation="process")
    first = await running(pool, "echo " + "x" * 3000)
    waiting = pool.submit(ask("echo x"))
    closing = asyncio.create_task(pool.close(grace=GUARD))
    assert isinstance(await error(waiting), ShuttingDown)
    assert isinstance(await error(pool.submit(ask("echo x"))), ShuttingDown)
    assert not pool.open
    assert (await first.gather()).finish.reason == "stop"
    async with asyncio.timeout(GUARD):
        await closing


async def test_close_ends_what_does_not_finish(pools: Pools) -> None:
    """After the grace the rest fails, and no child is left; a second close with less grace shortens the first."""
    pool = await pools.start(isolation="process")
    endless = await running(pool)
    pid = pool.status().instances[0].pid or 0
    patient = asyncio.create_task(pool.close(grace=1000))
    await asyncio.sleep(0)
    async with asyncio.timeout(GUARD):
        await pool.close(grace=0.01)
        await patient
    assert isinstance(await error(endless), ShuttingDown)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_close_does_not_wait_for_a_load(pools: Pools, isolation: Isolation, gate: Path) -> None:
    """A pool that closes in the middle of a load does not wait for it."""
    pool = await pools.start(Options(gate=str(gate)), isolation=isolation)
    waiting = pool.submit(ask("echo x"))
    async with asyncio.timeout(GUARD):
        await pool.close(grace=0)
    assert isinstance(await error(waiting), ShuttingDown)
    assert pool.status().instances == ()


async def test_close_before_a_worker_has_started(pools: Pools) -> None:
    """A pool that closes while a process is being started ends it."""
    pool = await pools.start(isolation="process")
    pool.submit(ask("echo x"))
    async with asyncio.timeout(GUARD):
        await pool.close(grace=0)
    assert pool.status().instances == ()


async def test_pool_that_is_not_started_takes_nothing() -> None:
    """Before `start` a request is refused, and `close` has nothing to do."""
    pool = Pool({}, PoolLimits())
    assert not pool.open
    async with asyncio.timeout(GUARD):
        await pool.close(grace=1)


async def test_threads_come_and_go(pools: Pools) -> None:
    """Instances in threads leave no threads behind."""
    before = set(threading.enumerate())
    for _ in range(50):
        pool = await pools.start(model_limits=ModelLimits(1))
        assert await text(pool.submit(ask("echo x"))) == "x"
        await pool.close(grace=0)
    left = {thread for thread in threading.enumerate() if thread.name.startswith("lllms ")} - before
    for thread in left:
        await asyncio.to_thread(thread.join, GUARD)
    assert not any(thread.is_alive() for thread in left)
