"""Stuck workers, as real processes that are really stopped: the pool notices, and no client waits forever."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator

import engines_for_tests as engines
import psutil
import pytest
from engines_for_tests import Options
from pools_for_tests import Pools, ask
from waits_for_tests import GUARD

from lllms_core.answers import Stream
from lllms_core.errors import EngineDied, LllmsError, ModelLoadFailed
from lllms_core.pool import setbacks
from lllms_core.pool.instance import Patience
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import ModelLimits, PoolLimits
from lllms_core.pool.watchdog import Watchdog
from lllms_core.types import Isolation

pytestmark = pytest.mark.slow

SOON = ModelLimits(watchdog=0.5)


async def text(stream: Stream) -> str:
    async with asyncio.timeout(GUARD):
        return (await stream.gather()).text


async def error(stream: Stream) -> LllmsError:
    async with asyncio.timeout(GUARD):
        with pytest.raises(LllmsError) as raised:
            await stream.gather()
    return raised.value


async def reaches(pool: Pool, **counts: int) -> None:
    """Return when the pool has these counts."""
    async with asyncio.timeout(GUARD):
        while any(getattr(pool.status(), name) != count for name, count in counts.items()):
            await pool._dispatcher.change()


def pid_of(pool: Pool) -> int:
    [instance] = pool.status().instances
    assert instance.pid is not None
    return instance.pid


@pytest.fixture(autouse=True)
def release() -> Iterator[None]:
    """Threads of the test that hang are released at its end."""
    engines.RELEASE.clear()
    yield
    engines.RELEASE.set()


@pytest.mark.parametrize(("fault", "isolation"), [
    ("stop", "process"), ("hold-gil", "process"), ("hang", "process"), ("open stop", "process"), ("hang", "thread"),
    ("look once", "process"),
])
async def test_stuck_worker_is_killed_and_replaced(pools: Pools, fault: str, isolation: Isolation) -> None:
    """A worker that is silent while it works is killed; its requests fail, and waiting ones get a new worker."""
    pool = await pools.start(Options(slots=2), isolation=isolation, model_limits=SOON)
    neighbour = pool.submit(ask("count"))
    async with asyncio.timeout(GUARD):
        await neighbour.take()
    stuck = pool.submit(ask(fault))
    waiting = pool.submit(ask("echo again"))
    [before] = pool.status().instances
    for stream in (stuck, neighbour):
        died = await error(stream)
        assert isinstance(died, EngineDied)
        assert "it said nothing for 0.5 s while it worked, and was killed" in died.message
        assert "models.scripted.watchdog" in died.message
    assert await text(waiting) == "again"
    [after] = pool.status().instances
    assert after.id != before.id
    assert before.pid is None or not psutil.pid_exists(before.pid)


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_long_step_that_looks_is_no_hang(pools: Pools, isolation: Isolation) -> None:
    """A step that takes many times as long as the watchdog allows continues, as long as it checks `interrupt`."""
    pool = await pools.start(isolation=isolation, model_limits=ModelLimits(watchdog=0.1))
    async with asyncio.timeout(GUARD), pool.submit(ask("look", timeout=1.0)) as stream:
        answer = await stream.gather()
    assert (answer.text.startswith("0 "), answer.finish.reason) == (True, "timeout")
    assert len(pool.status().instances) == 1


async def test_watchdog_may_be_off(pools: Pools) -> None:
    """With a watchdog of 0 a worker may be silent for any time; a cancel still has its limit."""
    limits = ModelLimits(watchdog=0)
    pool = await pools.start(isolation="process", model_limits=limits, patience=Patience(cancel=0.3))
    stream = pool.submit(ask("hang", timeout=0.5))
    async with asyncio.timeout(GUARD):
        assert (await stream.gather()).finish.reason == "timeout"
    died = pool.submit(ask("count"))
    assert "did not end a cancelled request within 0.3 s" in (await error(died)).message


async def test_worker_that_stopped_while_idle_is_found_by_its_next_request(pools: Pools) -> None:
    """An idle worker is not watched; if it was stopped, its next request notices, and the one after that works."""
    pool = await pools.start(isolation="process", model_limits=SOON)
    pid = int(await text(pool.submit(ask("pid"))))
    await reaches(pool, running=0)
    os.kill(pid, signal.SIGSTOP)
    assert isinstance(await error(pool.submit(ask("echo x"))), EngineDied)
    assert int(await text(pool.submit(ask("pid")))) != pid


async def test_stuck_worker_shows(pools: Pools) -> None:
    """The status says how long a working instance has shown no sign of life, and 0 while it does."""
    pool = await pools.start(isolation="process", model_limits=ModelLimits(watchdog=3.0))
    stream = pool.submit(ask("count"))
    async with asyncio.timeout(GUARD):
        await stream.take()
        assert pool.status().instances[0].silent_seconds == 0
        os.kill(pid_of(pool), signal.SIGSTOP)
        while pool.status().instances[0].silent_seconds < 0.5:  # noqa: ASYNC110  # nobody tells of silence
            await asyncio.sleep(0.01)
        os.kill(pid_of(pool), signal.SIGCONT)
        while pool.status().instances[0].silent_seconds:
            await stream.take()
    await stream.aclose()


@pytest.mark.parametrize(("fault", "isolation"), [
    ("stop", "process"), ("hold-gil", "process"), ("hang", "process"), ("hang", "thread"),
])
async def test_load_has_a_limit(pools: Pools, fault: str, isolation: Isolation) -> None:
    """A load that exceeds its limit is ended; all requests that wait for it are told which key to raise."""
    limits = ModelLimits(load_timeout=0.6)
    pool = await pools.start(Options(load=fault), isolation=isolation, model_limits=limits)  # type: ignore[arg-type]
    first, second = pool.submit(ask("count")), pool.submit(ask("count"))
    for stream in (first, second):
        failed = await error(stream)
        assert isinstance(failed, ModelLoadFailed)
        assert "model 'scripted' cannot be loaded: it was not loaded within 0.6 s" in failed.message
        assert "models.scripted.load_timeout" in failed.message
    assert pool.status().instances == ()


async def test_load_within_its_limit_is_left_alone(pools: Pools) -> None:
    """The limit on loads ends with the load: an instance that serves for longer is not killed."""
    pool = await pools.start(model_limits=ModelLimits(load_timeout=0.5))
    async with asyncio.timeout(GUARD):
        answer = await pool.submit(ask("count", timeout=0.7)).gather()
    assert answer.finish.reason == "timeout"
    assert len(pool.status().instances) == 1


async def test_timeout_ends_its_request_on_time(pools: Pools) -> None:
    """When its time is up, the client of a stuck worker gets the answer so far; only the slot waits for the worker."""
    patience = Patience(timeout=0.1, cancel=GUARD)
    pool = await pools.start(Options(slots=1), isolation="process", patience=patience)
    started = time.monotonic()
    stream = pool.submit(ask("hang", timeout=0.2))
    async with asyncio.timeout(GUARD):
        answer = await stream.gather()
    took = time.monotonic() - started
    assert (answer.text, answer.finish.reason, answer.finish.usage.completion_tokens) == ("0 ", "timeout", 1)
    assert took < GUARD / 3
    assert pool.status().running == 1
    os.kill(pid_of(pool), signal.SIGKILL)
    await reaches(pool, running=0)


async def test_late_confirmation_frees_the_slot(pools: Pools) -> None:
    """A worker that ends a request after its client was answered frees the slot, and lives on."""
    patience = Patience(timeout=0.05, cancel=GUARD)
    pool = await pools.start(Options(slots=1), isolation="process", patience=patience)
    pid = int(await text(pool.submit(ask("pid"))))
    stream = pool.submit(ask("count", timeout=0.3))
    async with asyncio.timeout(GUARD):
        await stream.take()
        os.kill(pid, signal.SIGSTOP)
        assert (await stream.gather()).finish.reason == "timeout"
    waiting = pool.submit(ask("pid"))
    assert (pool.status().running, pool.status().waiting) == (1, 1)
    os.kill(pid, signal.SIGCONT)
    assert int(await text(waiting)) == pid


async def test_client_that_leaves_a_stuck_worker_is_gone_at_once(pools: Pools) -> None:
    """Closing a stream does not wait for the worker, and requests that wait for its slot are served in the end."""
    pool = await pools.start(Options(slots=1), isolation="process", model_limits=SOON)
    stream = pool.submit(ask("count"))
    async with asyncio.timeout(GUARD):
        await stream.take()
        os.kill(pid_of(pool), signal.SIGSTOP)
        await asyncio.wait_for(stream.aclose(), 0.1)
    assert await text(pool.submit(ask("echo again"))) == "again"


async def test_survey_of_a_stuck_worker_ends(pools: Pools) -> None:
    """A worker that owes an answer to a survey is watched, too; the survey returns without it."""
    pool = await pools.start(isolation="process", model_limits=SOON)
    await text(pool.submit(ask("echo x")))
    await reaches(pool, running=0)
    os.kill(pid_of(pool), signal.SIGSTOP)
    async with asyncio.timeout(GUARD):
        assert await pool.survey(None) == []
    assert pool.status().instances == ()


async def test_survey_that_nobody_waits_for_is_still_owed(pools: Pools) -> None:
    """A stuck worker is detected even if its caller has given up."""
    pool = await pools.start(isolation="process", model_limits=SOON)
    await text(pool.submit(ask("echo x")))
    await reaches(pool, running=0)
    os.kill(pid_of(pool), signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pool.survey(None)
    async with asyncio.timeout(GUARD):
        while pool.status().instances:
            await pool._dispatcher.change()


async def test_more_work_is_no_sign_of_life(pools: Pools) -> None:
    """A stuck worker is detected even if it is given more and more to do."""
    pool = await pools.start(Options(slots=9), isolation="process", model_limits=SOON)
    stuck = pool.submit(ask("stop"))

    async def keep_asking() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.survey(None)
                    await asyncio.sleep(GUARD)

    asking = asyncio.create_task(keep_asking())
    assert isinstance(await error(stuck), EngineDied)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("busy", [False, True])
async def test_pool_closes_over_a_stopped_worker(pools: Pools, busy: bool) -> None:
    """A stopped worker, running or idle, delays the closing of the pool by no more than its grace."""
    pool = await pools.start(isolation="process", patience=Patience(close=0.1))
    stream = pool.submit(ask("count"))
    async with asyncio.timeout(GUARD):
        await stream.take()
        pid = pid_of(pool)
        if not busy:
            await stream.aclose()
            await reaches(pool, running=0)
        os.kill(pid, signal.SIGSTOP)
        await pool.close(grace=0.1)
    assert not psutil.pid_exists(pid)


async def test_server_that_stood_still_blames_nobody() -> None:
    """Time in which the server itself did nothing does not count: the machine may have slept, and the worker, too."""
    expired: list[float] = []
    loop = asyncio.get_running_loop()
    watchdog = Watchdog(0.3, lambda: True, lambda: None, lambda: expired.append(loop.time()))
    watchdog.start()
    time.sleep(0.9)  # noqa: ASYNC251  # the event loop stands still
    awake = loop.time()
    async with asyncio.timeout(GUARD):
        while not expired:  # noqa: ASYNC110  # nothing else happens
            await asyncio.sleep(0.01)
    assert expired[0] - awake > 0.2


async def test_kept_instance_comes_back(pools: Pools) -> None:
    """A kept instance is restored after its death without any request; others are not."""
    pool = await pools.start(isolation="process", model_limits=ModelLimits(min_instances=1), limits=PoolLimits(cores=1))
    assert pool.lacks() == ()
    pid = pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(GUARD):
        while not pool.lacks():
            await pool._dispatcher.change()
        [lack] = pool.lacks()
        assert (lack.model, lack.ready, lack.kept) == ("scripted", 0, 1)
        assert "SIGKILL" in lack.problem
        assert 0 < (lack.retry_seconds or 0) <= 1
        while pool.lacks():
            await pool._dispatcher.change()
    assert pid_of(pool) != pid


async def test_kept_model_that_cannot_load_is_told_and_tried_again(
    pools: Pools, gate: os.PathLike[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kept model whose load fails is shown with the reason, and is loaded once it can be."""
    monkeypatch.setattr(setbacks, "FIRST_COOLDOWN", 1.0)
    missing = f"{gate}-later"
    pool = await pools.start(Options(gate=missing), model_limits=ModelLimits(min_instances=1))
    [lack] = pool.lacks()
    assert "No such file" in lack.problem
    assert lack.retry_seconds is not None
    with open(missing, "w"):  # noqa: PTH123, ASYNC230  # it is there from now on
        pass
    async with asyncio.timeout(GUARD):
        while pool.lacks():
            await pool._dispatcher.change()
    assert [instance.state for instance in pool.status().instances] == ["ready"]
