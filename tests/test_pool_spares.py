"""Spare workers: what they save, what they cost, and that none is left behind."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lllms_llamacpp
import psutil
import pytest
from engines_for_tests import Options, RawEngine, ScriptedEngine
from hypothesis import given
from hypothesis import strategies as st
from pools_for_tests import Pools, ask
from spares_for_tests import BROKEN, STARTS, WarmEngine
from waits_for_tests import GUARD, until

from lllms_core.config import ServerConfig, parse_config
from lllms_core.errors import ModelLoadFailed, ShuttingDown
from lllms_core.host import Host
from lllms_core.pool import pool as pool_module
from lllms_core.pool import spares as spares_module
from lllms_core.pool.needs import SPARE, memory_limit, spare_workers
from lllms_core.pool.pool import Pool
from lllms_core.pool.spares import CALM, Spares, allot
from lllms_core.pool.state import PoolLimits
from lllms_core.status import SpareStatus
from lllms_core.worker import process
from lllms_core.worker.niceness import LOWEST, background

pytestmark = pytest.mark.slow

TINY = str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf")
LIMITS = PoolLimits(cores=2, max_instances=1, spare_workers=1)


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which spare workers leave their process ids."""
    file = tmp_path / "starts"
    file.touch()
    monkeypatch.setenv(STARTS, str(file))
    return file


async def start(pools: Pools) -> Pool:
    """Start a pool of two models with room for one, whose spare worker is ready.

    Not a fixture: pytest changes a variable of the environment before the test, which outdates a spare.
    """
    made = await pools.start(engine=WarmEngine(), isolation="process", limits=LIMITS, models=("scripted", "other"))
    await ready(made)
    return made


async def ready(pool: Pool) -> int:
    """Return the process of the spare worker, once it waits for a model."""
    await until(lambda: pool._spares.pids)
    [spare] = pool.status().spares
    assert spare == SpareStatus(spare.engine, ready=True, pid=pool._spares.pids[0])
    return pool._spares.pids[0]


async def load(pool: Pool, model: str = "scripted") -> int:
    """Let a model answer, and return the process of its worker."""
    async with asyncio.timeout(GUARD):
        assert (await pool.submit(ask("echo alive", model)).gather()).text == "alive"
    [instance] = pool.status().instances
    assert instance.pid is not None
    return instance.pid


# -- which and how many ------------------------------------------------------------------------------------------------


@given(st.integers(0, 9), st.lists(st.text(max_size=2), max_size=5, unique=True))
def test_spares_are_shared_among_engines(count, engines):
    """All spares are allotted, to the first engines first, and none gets two more than another."""
    shares = allot(count, engines)
    assert shares.total() == (count if engines else 0)
    counts = [shares[name] for name in engines]
    assert counts == sorted(counts, reverse=True)
    assert not counts or counts[0] - counts[-1] <= 1


def test_spares_count_against_the_memory_limit():
    """Each spare worker takes its part of the memory for instances."""
    server = ServerConfig(memory_limit=10**9)
    none, two = memory_limit(server), memory_limit(server, spares=2)
    assert none is not None
    assert two is not None
    assert none.instances - two.instances == 2 * SPARE


def test_threads_and_small_servers_need_no_spares():
    """The configuration says how many are kept, but none without models in processes, and few with little memory."""
    threads, processes = SimpleNamespace(isolation="thread"), SimpleNamespace(isolation="process")
    large, small = (ServerConfig(spare_workers=3, memory_limit=size) for size in (10**10, 10**9))
    assert spare_workers(large, [threads]) == 0
    assert spare_workers(large, [threads, processes]) == 3
    assert spare_workers(small, [threads, processes]) == 1


class Recorder:
    """Stands in for the processes of spares, and records how they are started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[tuple[str, bool]] = []
        monkeypatch.setattr(spares_module.ProcessWorker, "spare", self.spare)

    async def spare(self, launch, engine, events, *, quiet):
        self.begun.append((engine.name, quiet))
        return SimpleNamespace(pid=None, kill=lambda: asyncio.get_running_loop().call_soon(events.ended, "killed"))


class OtherEngine(ScriptedEngine):
    name = "other"


async def test_spares_start_when_they_are_not_in_the_way(monkeypatch):
    """While a model is loaded none starts; beside running requests only after a while, with the lowest priority."""
    recorder, spares = Recorder(monkeypatch), Spares(1, [ScriptedEngine()])
    spares.settle(0, loading=True, running=True)
    assert spares.wake_at is None
    spares.settle(CALM / 2, loading=False, running=True)
    assert spares.wake_at == CALM
    await spares.started()
    assert recorder.begun == []
    spares.settle(CALM, loading=False, running=True)
    await spares.started()
    assert recorder.begun == [("scripted", True)]
    await spares.close()


async def test_a_spare_starts_while_an_instance_makes_room(monkeypatch):
    """If a waiting model's worker will be needed once another has closed, it starts meanwhile, at full priority."""
    recorder, spares = Recorder(monkeypatch), Spares(1, [ScriptedEngine(), OtherEngine()])
    spares.settle(0, loading=True, running=False)
    spares.settle(0, loading=False, running=True, awaited=["other"])
    await spares.started()
    assert recorder.begun == [("other", False)]
    await spares.close()


async def test_the_engine_used_last_gets_the_spare(monkeypatch):
    """The spare of an engine that is used no more makes way for one of the engine used last."""
    recorder, spares = Recorder(monkeypatch), Spares(1, [ScriptedEngine(), OtherEngine()])
    spares.settle(0, loading=False, running=False)
    await spares.started()
    spares.settle(1, loading=False, running=False, awaited=["other"])
    await spares.started()
    spares.settle(2, loading=False, running=False)
    assert recorder.begun == [("scripted", False), ("other", False)]
    await spares.close()


async def test_a_new_configuration_has_other_spares(monkeypatch):
    """As many as it says are kept, for its engines; those of engines that no model uses end, and so do all for none."""
    recorder, spares = Recorder(monkeypatch), Spares(1, [ScriptedEngine()])
    spares.settle(0, loading=False, running=False)
    await spares.started()
    spares.reconfigure(2, [OtherEngine()])
    spares.settle(1, loading=False, running=False)
    await spares.started()
    assert recorder.begun == [("scripted", False), *[("other", False)] * 2]
    spares.reconfigure(0, [OtherEngine(), ScriptedEngine()])
    spares.settle(2, loading=False, running=False)
    await until(lambda: not spares._leaving and not spares._spares)
    spares.reconfigure(1, [ScriptedEngine(), OtherEngine()])
    spares.settle(3, loading=False, running=False)
    await spares.started()
    assert recorder.begun[3:] == [("other", False)]  # which was used last
    await spares.close()


def test_background_work_lowers_only_its_own_priority():
    """Work in the background has the lowest priority, and the thread that waits for it keeps its own."""
    seen = []
    background(lambda: seen.append(os.getpriority(os.PRIO_PROCESS, 0)))
    assert seen == [LOWEST]
    assert os.getpriority(os.PRIO_PROCESS, 0) < LOWEST
    with pytest.raises(KeyError):
        background(lambda: {}["missing"])


# -- real processes ----------------------------------------------------------------------------------------------------


async def test_a_load_uses_the_spare(pools, starts):
    """Each load is taken over by the spare that waits, and the next spare starts once it is used."""
    pool = await start(pools)
    first = await ready(pool)
    assert await load(pool) == first
    second = await ready(pool)
    assert second != first
    assert await load(pool, "other") == second
    await until(lambda: len(starts.read_text().split()) == 3)


async def test_a_quiet_spare_works_at_full_priority(pools, starts):
    """A spare that started with the lowest priority, beside a running request, has the usual one for its model."""
    limits = PoolLimits(cores=2, spare_workers=1)
    pool = await pools.start(engine=WarmEngine(), isolation="process", limits=limits, models=("scripted", "other"))
    async with asyncio.timeout(GUARD), pool.submit(ask("count")) as stream:
        await stream.take()
        pid = await ready(pool)
        [quiet] = [spare.quiet for spare in pool._spares._spares]
        assert quiet
        assert (await pool.submit(ask("echo alive", "other")).gather()).text == "alive"
        assert pid in {instance.pid for instance in pool.status().instances}
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        assert {os.getpriority(os.PRIO_PROCESS, one.id) for one in psutil.Process(pid).threads()} == {usual}


async def test_a_changed_environment_outdates_a_spare(pools, starts, monkeypatch):
    """A worker has the environment of the moment in which its model is loaded, not that of an older spare."""
    pool = await start(pools)
    spare = await ready(pool)
    monkeypatch.setenv("LLLMS_TEST_CHANGE", "1")
    assert await load(pool) != spare
    assert psutil.wait_procs([psutil.Process(spare)] if psutil.pid_exists(spare) else [], timeout=GUARD)[1] == []


async def test_no_spares_at_zero(pools, starts):
    """With `spare_workers = 0` no process runs that has no model."""
    before = set(psutil.Process().children())
    pool = await pools.start(engine=WarmEngine(), isolation="process", limits=PoolLimits(cores=2))
    pid = await load(pool)
    assert {child.pid for child in set(psutil.Process().children()) - before} == {pid}
    assert starts.read_text() == ""


async def test_a_dead_spare_is_replaced(pools, starts, caplog):
    """A spare that is killed is replaced after a pause, which is logged once; loads go on without it meanwhile."""
    caplog.set_level(logging.INFO, "lllms.pool")
    pool = await start(pools)
    killed = await ready(pool)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: not pool._spares.pids)
    assert await load(pool) != killed
    assert await ready(pool) != killed
    assert sum("a spare worker of engine 'scripted' has ended" in text for text in caplog.messages) == 1


@pytest.mark.parametrize("dies", [True, False])
async def test_a_spare_that_fails_when_it_is_needed(pools, starts, monkeypatch, dies):
    """If the spare dies before it has taken its model, or does nothing, the load begins anew in another process."""
    pool = await start(pools)
    spare = await ready(pool)
    os.kill(spare, signal.SIGSTOP)
    monkeypatch.setattr(process, "TAKE_SECONDS", GUARD if dies else 0.1)
    loading = asyncio.create_task(load(pool))
    await until(lambda: pool._spares._loading)
    if dies:
        os.kill(spare, signal.SIGKILL)
    assert await loading != spare


async def test_closing_waits_for_no_stuck_spare(pools, starts):
    """A pool closes at once, even if a spare does not react that a load waits for."""
    pool = await start(pools)
    os.kill(await ready(pool), signal.SIGSTOP)
    loading = asyncio.create_task(load(pool))
    await until(lambda: pool._spares._loading)
    await pool.close(grace=0)
    with pytest.raises(ShuttingDown):
        await loading


async def test_a_spare_that_cannot_warm_up_loads_all_the_same(pools, starts, monkeypatch):
    """A load that waits for a spare whose imports then fail goes on in it: the load itself may not need them."""
    monkeypatch.setenv(BROKEN, "1")
    pool = await pools.start(engine=WarmEngine(), isolation="process", limits=LIMITS)
    [spare] = pool._spares._spares
    assert await load(pool) == spare.worker.pid


async def test_a_spare_that_fails_is_no_loop(pools, starts, monkeypatch, caplog):
    """If the imports of spares fail, the tries become rarer, one line is logged, and models still load."""
    monkeypatch.setenv(BROKEN, "1")
    caplog.set_level(logging.INFO, "lllms")
    begin = time.monotonic()
    pool = await pools.start(engine=WarmEngine(), isolation="process", limits=LIMITS)
    await until(lambda: len(starts.read_text().split()) == 2)
    assert time.monotonic() - begin > 1
    assert pool._spares.wake_at is None or pool._spares.wake_at - time.monotonic() > 1
    await load(pool)
    assert sum("a library is missing" in text for text in caplog.messages) == 1


async def test_an_engine_that_cannot_travel_harms_nobody(pools, caplog):
    """An engine that no process can get has no spare; a request for its model says why, and others are served."""
    engine = type("Local", (RawEngine,), {"__module__": __name__})()
    pool = await pools.start(engine=engine, isolation="process", limits=LIMITS)
    with pytest.raises(ModelLoadFailed, match="define it at the top of a module"):
        await pool.submit(ask("count")).gather()
    assert not pool._spares.pids


async def test_a_closed_pool_leaves_no_spare(pools, starts):
    """A pool that closes while its spare starts, or waits, leaves no process."""
    before = set(psutil.Process().children(recursive=True))
    for wait in (False, True):
        pool = await pools.start(engine=WarmEngine(), isolation="process", limits=LIMITS)
        if wait:
            await ready(pool)
        await pool.close(grace=0)
        assert set(psutil.Process().children(recursive=True)) <= before


async def test_spares_exchange_sessions(monkeypatch):
    """A model that is loaded by a spare stores its sessions, and one that another spare loads finds them."""
    monkeypatch.setattr(pool_module, "spare_workers", lambda server, models: 1)
    tables = {"models": {"tiny": {"engine": "llamacpp", "file": TINY}}, "sessions": {"min_tokens": 8}}
    used, cached = set(), []
    async with asyncio.timeout(GUARD), Host(parse_config(tables)) as host:
        for _ in range(2):
            used.add(await ready(host.pool))
            asked = host.request("tiny", prompt="one two " * 20, parameters={"max_tokens": 1})
            async with host.submit(asked) as stream:
                cached.append((await stream.gather()).finish.usage.cached_tokens)
            used.discard(host.status().instances[0].pid)
            await host.unload("tiny")
    assert used == set()
    assert cached[0] == 0
    assert cached[1] > 8


SERVER = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from pools_for_tests import Pools
from spares_for_tests import WarmEngine
from lllms_core.pool.state import PoolLimits

async def main():
    pool = await Pools().start(engine=WarmEngine(), isolation="process", limits=PoolLimits(spare_workers=1))
    while not pool._spares.pids:
        await asyncio.sleep(0.01)
    print(pool._spares.pids[0], flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_a_spare_dies_with_its_server(starts):
    """When the server is killed by SIGKILL, its spare is gone too."""
    script = SERVER.format(tests=str(Path(__file__).parent))
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    spare = psutil.Process(int(server.stdout.readline()))
    server.kill()
    server.communicate()
    assert psutil.wait_procs([spare], timeout=GUARD)[1] == []


async def test_kept_instances_take_the_spare_that_is_on_its_way(pools, starts):
    """A load right after the start waits for the spare that has just been started, instead of starting another."""
    pool = await pools.start(engine=WarmEngine(), isolation="process", limits=LIMITS)
    [spare] = pool._spares._spares
    pid = await load(pool)
    assert spare.worker is not None
    assert spare.worker.pid == pid


async def test_refused_options_leave_the_pool_whole(pools, starts):
    """A load that fails in a spare gives its reason, as one in a new process does, and the next is tried again."""
    pool = await pools.start(Options(load="raise"), engine=WarmEngine(), isolation="process", limits=LIMITS)
    for _ in range(2):
        await ready(pool)
        with pytest.raises(ModelLoadFailed, match="the engine is broken"):
            await pool.submit(ask("count")).gather()
