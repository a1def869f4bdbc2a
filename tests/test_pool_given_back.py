"""Slots and counts are given back, whatever fails between the scheduler's decision and the worker."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from engines_for_tests import Options, ScriptedEngine
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pools_for_tests import Pools, ask
from test_pool_work import error, reaches, running, text
from waits_for_tests import GUARD

from lllms_core.errors import EngineFailed, InvalidRequest, LllmsError
from lllms_core.placements import LOCAL
from lllms_core.pool import setbacks
from lllms_core.pool.budget import Admit, Need
from lllms_core.pool.choosing import PlaceChoice
from lllms_core.pool.effects import Assign, Prepare, ShareCores, Start
from lllms_core.pool.instance import Patience
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import ModelLimits, PoolLimits
from lllms_core.types import ChatRequest, Delta, Finish, Isolation, Message, ModelInfo, ModelSpec, Request, Tool, Usage
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.wire import Cancel, Close, Deltas, Load, Loaded, Open, Survey, Surveyed, ToWorker

pytestmark = pytest.mark.slow

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A case that fails does so by never ending: shrinking it would take hours."""

FAULTS: list[Callable[[], Exception]] = [
    lambda: RecursionError("maximum recursion depth exceeded"), lambda: TypeError("cannot pickle"),
    MemoryError, lambda: OSError("broken"),
]


class FickleWorker(Worker):
    """Obeys as far as messages reach it."""

    def __init__(self, events: WorkerEvents, chance: random.Random, fault: float) -> None:
        self._events = events
        self._chance = chance
        self._fault = fault
        self._open: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._gone = False
        self._loop.call_soon(
            self._say, Loaded(ModelInfo(frozenset({"text"}), slots=2, context_length=100)),
        )

    def send(self, message: ToWorker, frame: bytes | None = None) -> None:
        if self._chance.random() < self._fault:
            make = self._chance.choice(FAULTS)
            raise make()
        match message:
            case Open(request):
                self._open.add(request.id)
                if self._chance.random() < 0.5:
                    self._loop.call_soon(self._end, request.id, "stop")
            case Cancel(request_id):
                self._loop.call_soon(self._end, request_id, "cancelled")
            case Survey(number):
                self._loop.call_soon(self._say, Surveyed(number, ()))
            case Close():
                self.kill()

    def kill(self) -> None:
        if not self._gone:
            self._loop.call_soon(self._end_all)

    def _say(self, message: Any) -> None:
        if not self._gone:
            self._events.message(message)

    def _end(self, request_id: str, reason: Any) -> None:
        if request_id in self._open:
            self._open.discard(request_id)
            self._say(Deltas((Delta(request_id, finish=Finish(reason, Usage(1, 1))),)))

    def _end_all(self) -> None:
        if not self._gone:
            self._gone = True
            self._events.ended("it was told to end")


def fickle_pool(seed: int, fault: float, limits: PoolLimits) -> Pool:
    chance = random.Random(seed)

    async def start(load: Load, isolation: Isolation, events: WorkerEvents) -> Worker:
        if chance.random() < fault / 4:
            raise RuntimeError("can't start new thread")
        return FickleWorker(events, chance, fault)

    models = {
        name: PoolModel(ScriptedEngine(), ModelSpec(name, Options()), ModelLimits(max_instances=2)) for name in "ab"
    }
    return Pool(models, limits, start=start, patience=Patience(close=0.01, cancel=0.01))


@settings(max_examples=150, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 0.6, 1.0]), st.lists(st.integers(0, 9), max_size=25))
def test_no_slot_is_lost(seed: int, fault: float, steps: list[int]) -> None:
    """However sends and starts fail, each stream ends, no slot or request is left over, and the pool closes."""

    async def run() -> None:
        pool = fickle_pool(seed, fault, PoolLimits(concurrency=3, queue_size=4, max_instances=2, cores=2))
        await pool.start()
        streams = []
        for step in steps:
            match step:
                case 0 | 1 | 2 | 3:
                    streams.append(pool.submit(ask("x", "ab"[step % 2])))
                case 4 | 5:
                    streams += pool.submit_all([ask("x", "ab"[step % 2]) for _ in range(12)])
                case 6 if streams:
                    await streams[seed % len(streams)].aclose()
                case 7:
                    surveyed = asyncio.create_task(pool.survey(None))
                    await asyncio.sleep(0)
                    streams.append(pool.submit(ask("x", "a")))
                    await surveyed
                case _:
                    await asyncio.sleep(0)
        for stream in streams[::-1]:
            await stream.aclose()
        await reaches(pool, running=0, waiting=0)
        assert all(stream.ended for stream in streams)
        await pool.close(grace=0)
        assert pool.status().instances == ()

    async def guarded() -> None:
        async with asyncio.timeout(GUARD):
            await run()

    asyncio.run(guarded())


@settings(max_examples=50, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]))
def test_each_stream_ends_by_itself(seed: int, fault: float) -> None:
    """If a worker answers all requests, every stream ends or fails without being closed."""

    async def run() -> None:
        pool = fickle_pool(seed, fault, PoolLimits(concurrency=3, queue_size=50, max_instances=2, cores=2))
        await pool.start()
        streams = [*(pool.submit(ask("x", "ab"[at % 2], timeout=0.01)) for at in range(10)),
                   *pool.submit_all([ask("x", "a", timeout=0.01) for _ in range(20)])]
        results = await asyncio.gather(*(stream.gather() for stream in streams), return_exceptions=True)
        assert all(not isinstance(one, BaseException) or isinstance(one, LllmsError) for one in results)
        await reaches(pool, running=0, waiting=0)
        await pool.close(grace=0)

    async def guarded() -> None:
        async with asyncio.timeout(GUARD):
            await run()

    asyncio.run(guarded())


def unsendable(**fields: Any) -> Request:
    """A request that cannot be sent to any process."""
    deep: dict[str, object] = {}
    for _ in range(2000):
        deep = {"a": deep}
    return ChatRequest(ask("x").id, "scripted", messages=(Message("user", "x"),), cache_prompt=False,
                   tools=(Tool("f", parameters=deep),), **fields)


async def test_a_request_that_cannot_be_sent_costs_no_slot(pools: Pools) -> None:
    """Requests that fail to be pickled are refused, and a model with two slots still serves after ten of them."""
    pool = await pools.start(Options(slots=2), isolation="process", limits=PoolLimits(concurrency=2, cores=2))
    neighbour = await running(pool)
    for _ in range(10):
        refused = await error(pool.submit(unsendable(timeout=GUARD)))
        assert isinstance(refused, InvalidRequest)
        assert "cannot be sent to its model (RecursionError" in refused.message
    assert pool.status().running == 1
    assert await text(pool.submit(ask("echo ok"))) == "ok"
    assert await neighbour.take()
    await neighbour.aclose()
    await reaches(pool, running=0)


async def test_what_cannot_be_sent_is_known_before_it_is_queued(pools: Pools) -> None:
    """Preparing such a request, possible in any thread, fails; other prepared requests are answered as usual."""
    pool = await pools.start(isolation="process")
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        await asyncio.to_thread(pool.prepare, unsendable())
    prepared = await asyncio.to_thread(pool.prepare, ask("echo " + "x" * 1000))
    assert prepared.frame
    assert await text(pool.submit(prepared)) == "x" * 1000


async def test_a_request_whose_keys_fail_is_refused(pools: Pools) -> None:
    """A fault before the queue refuses the request, too, and leaves nothing in the queue."""
    pool = await pools.start()
    broken = ChatRequest("deep", "scripted", messages=(Message("user", "x"),), tools=unsendable().tools)
    assert isinstance(await error(pool.submit(broken)), InvalidRequest)
    assert (pool.status().waiting, pool.status().running) == (0, 0)
    assert await text(pool.submit(ask("echo ok"))) == "ok"


async def test_a_worker_that_cannot_be_told_is_replaced(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that cannot be sent ends the worker at once; the next request gets a new one."""
    pool = await pools.start(isolation="process")
    stream, neighbour = await running(pool), await running(pool)
    [instance] = pool._dispatcher.instances.values()
    assert instance._worker is not None

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(instance._worker, "send", fail)
    await stream.aclose()
    assert "could not be sent a message" in (await error(neighbour)).message
    assert await text(pool.submit(ask("echo again"))) == "again"


async def test_a_request_too_large_for_memory_is_told_so(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without the memory to send a request fails only that request, and says why."""
    pool = await pools.start(isolation="process")
    assert await text(pool.submit(ask("echo before"))) == "before"
    [instance] = pool._dispatcher.instances.values()
    assert instance._worker is not None
    with monkeypatch.context() as patch:
        patch.setattr(instance._worker, "send", lambda *_: (_ for _ in ()).throw(MemoryError))
        failed = await error(pool.submit(ask("x")))
    assert isinstance(failed, EngineFailed)
    assert "not enough memory" in failed.message
    assert await text(pool.submit(ask("echo after"))) == "after"


async def test_one_effect_that_fails_leaves_the_others(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of several decisions fails, the others are carried out, and that one is undone."""
    pool = await pools.start(Options(slots=4), models=("a", "b"))
    assert await text(pool.submit(ask("echo x", "a"))) == "x"
    done: list[object] = []

    def carry_out(effect: object) -> None:
        if not isinstance(effect, Assign):
            raise TypeError("broken")
        done.append(effect)

    monkeypatch.setattr(pool._dispatcher, "_carry_out", carry_out)
    [instance] = pool._scheduler.instances.values()
    pool._scheduler.placing.start("b", PlaceChoice(LOCAL, Need(), Admit()), 0.0)
    started = next(one for one in pool._scheduler.instances.values() if one.model == "b")
    pool._dispatcher.apply([
        ShareCores(instance.id, 1), Start(started.id, "b", 1), Prepare("b"), Assign("first", instance.id),
        ShareCores("gone", 1), Assign("last", instance.id),
    ])
    assert done == [Assign("first", instance.id), Assign("last", instance.id)]
    assert started.id not in pool._scheduler.instances
    monkeypatch.undo()
    assert await text(pool.submit(ask("echo y", "b"))) == "y"


async def test_a_worker_that_cannot_be_started_is_no_dead_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever keeps a worker from starting is told to the waiting requests; one after the cooldown tries again."""
    monkeypatch.setattr(setbacks, "FIRST_COOLDOWN", 0.0)
    attempts = 0

    async def start(load: Load, isolation: Isolation, events: WorkerEvents) -> Worker:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("can't start new thread")
        return FickleWorker(events, random.Random(1), 0.0)

    models = {"scripted": PoolModel(ScriptedEngine(), ModelSpec("scripted", Options()))}
    pool = Pool(models, PoolLimits(cores=1), start=start)
    async with asyncio.timeout(GUARD):
        await pool.start()
        failed = await error(pool.submit(ask("x")))
        assert "can't start new thread" in failed.message
        stream = pool.submit(ask("x"))
        await reaches(pool, running=1)
        await stream.aclose()
        await pool.close(grace=0)




async def test_a_request_that_follows_one_that_could_not_be_sent_is_served() -> None:
    """A request that is submitted because another one has failed, and gets a slot at once, costs no slot."""

    class Refusing(FickleWorker):
        def send(self, message: ToWorker, frame: bytes | None = None) -> None:
            if isinstance(message, Open) and message.request.id == first.request.id:
                raise TypeError("cannot pickle")
            super().send(message, frame)

    async def start(_load: Load, _isolation: Isolation, events: WorkerEvents) -> Worker:
        return Refusing(events, random.Random(1), 0.0)

    models = {"a": PoolModel(ScriptedEngine(), ModelSpec("a", Options()), ModelLimits())}
    pool = Pool(models, PoolLimits(concurrency=2), start=start)
    await pool.start()
    first, following = pool.submit(ask("x", "a")), []
    first.left = lambda: following.append(pool.submit(ask("y", "a")))
    async with asyncio.timeout(GUARD):
        with pytest.raises(InvalidRequest):
            await first.gather()
        [second] = following
        await second.aclose()
        await reaches(pool, running=0, waiting=0)
    await pool.close(grace=0)
