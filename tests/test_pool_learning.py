"""Real workers that take more memory than they were told to, or die for lack of it, and what the pool learns."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from attrs import evolve
from click.testing import CliRunner
from engines_for_tests import Options, ScriptedEngine
from pools_for_tests import ask
from serving_for_tests import published
from stores_for_tests import TINY
from waits_for_tests import GUARD, until

from lllms_core.builtin.sessions import MemoryStore
from lllms_core.cli import cli
from lllms_core.config import load_config, parse_config
from lllms_core.engines import Engine
from lllms_core.errors import EngineDied, InsufficientMemory, ModelLoadFailed
from lllms_core.footprint import take_footprint
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.machine import private_memory
from lllms_core.plugins import Plugins
from lllms_core.pool import dispatcher, memory_watch, placing
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.learnt import LearntStore, key_of
from lllms_core.pool.models import PoolModel
from lllms_core.pool.needs import WORKER
from lllms_core.pool.pool import Pool
from lllms_core.pool.session_rules import SessionLimits
from lllms_core.pool.state import MemoryLimit, ModelLimits, PoolLimits
from lllms_core.types import Message, ModelSpec
from lllms_core.values.sizes import human_size
from lllms_core.worker.ends import Kills
from lllms_core.worker.wire import PutSession

pytestmark = pytest.mark.slow

MB = 2**20
GB = 2**30


@pytest.fixture(autouse=True)
def roomy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' models find memory, whatever runs beside them; workers are measured more often than every 10 s."""
    monkeypatch.setattr(memory_watch, "memory_available", lambda: 100 * GB)
    monkeypatch.setattr(dispatcher, "MEASURE_SECONDS", 1.0)


def model(options: Options | None = None, **limits: int) -> PoolModel:
    engine = ScriptedEngine()
    spec = ModelSpec("scripted", options or Options())
    return PoolModel(
        engine, spec, ModelLimits(**limits),
        look=lambda file: take_footprint(engine.name, None, evolve(spec, file=file), None),
    )


@asynccontextmanager
async def pool_of(models: Mapping[str, PoolModel], file: Path | None = None, memory: int = GB) -> AsyncIterator[Pool]:
    named = {name: evolve(one, spec=evolve(one.spec, name=name)) for name, one in models.items()}
    pool = Pool(named, PoolLimits(memory=MemoryLimit(memory)), learnt=LearntStore(file))
    async with asyncio.timeout(GUARD):
        await pool.start()
        try:
            yield pool
        finally:
            await pool.close(grace=0)


async def say(pool: Pool, prompt: str, name: str = "scripted") -> str:
    async with pool.submit(ask(prompt, name)) as stream:
        return (await stream.gather()).text


async def test_a_worker_that_grows_is_measured_told_and_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker that takes 100 MB more than told is reported once, counts for that, and so does the next server's."""
    file = tmp_path / "memory.json"
    async with pool_of({"scripted": model()}, file) as pool:
        await say(pool, "echo x")
        [before] = pool.status().instances
        assert before.memory == WORKER
        assert before.measured is not None
        assert not before.grown
        await say(pool, "take 100")
        await until(lambda: pool.status().instances[0].measured > 100 * MB)  # type: ignore[operator]
        await say(pool, "take 1")
        [after] = pool.status().instances
        real = private_memory(after.pid or 0)
        assert after.measured == pytest.approx(real, rel=0.05)
        assert (after.memory, after.grown) == (WORKER, True)
        use = pool.status().memory
        assert use is not None
        assert use.used >= (after.measured or 0)
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"of memory of its own, and was told to need {human_size(WORKER)}; it counts for that" in warning
    learnt = LearntStore(file).get(key_of("scripted", model().look(None).fingerprint, WORKER))
    assert learnt.private == pytest.approx(after.measured, rel=0.05)
    assert 0 < (learnt.load_seconds or 0) < GUARD
    async with pool_of({"scripted": model()}, file) as pool:
        await say(pool, "echo x")
        [instance] = pool.status().instances
        assert instance.memory == learnt.private
        assert not instance.grown


async def test_growth_makes_idle_neighbours_leave_and_harms_no_busy_one() -> None:
    """If a busy worker grows above the limit, the idle one is unloaded, and the busy one continues its answers."""
    async with pool_of({"idle": model(), "grows": model()}, memory=4 * WORKER) as pool:
        await say(pool, "echo x", "idle")
        async with pool.submit(ask("count", "grows")) as counting:
            await counting.take()
            await say(pool, "take 120", "grows")
            await until(lambda: {one.model for one in pool.status().instances} == {"grows"})
            assert [await counting.take() for _ in range(3)]


@pytest.mark.parametrize("known", [True, None])
async def test_a_worker_killed_while_it_serves_is_learnt_from(
    known: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """A SIGKILL that may be the kernel's ends the requests with that cause, and the model counts for a quarter more."""
    monkeypatch.setattr(Kills, "since", lambda *_: known)
    file = tmp_path / "memory.json"
    async with pool_of({"scripted": model(), "other": model()}, file) as pool:
        async with pool.submit(ask("count", "other")) as other:
            await other.take()
            with pytest.raises(EngineDied, match="memory"):
                await say(pool, "kill")
            assert await other.take()  # nothing else is harmed
        assert f"scripted counts for {human_size(int(1.25 * WORKER))} of memory from now on" in caplog.text
        await until(file.exists)  # at once: this server may be the next to die
        await say(pool, "echo x")
        instance = next(one for one in pool.status().instances if one.model == "scripted")
        assert instance.memory == int(1.25 * WORKER)


async def test_a_worker_killed_by_hand_is_not_learnt_from(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """If the kernel has killed nobody for memory, a SIGKILL says nothing about what the model needs."""
    monkeypatch.setattr(Kills, "since", lambda *_: False)
    async with pool_of({"scripted": model()}) as pool:
        await say(pool, "echo x")
        [instance] = pool.status().instances
        os.kill(instance.pid or 0, signal.SIGKILL)
        await until(lambda: not pool.status().instances)
        await say(pool, "echo x")
        assert pool.status().instances[0].memory == WORKER
    assert "counts for" not in caplog.text


async def test_a_load_killed_for_memory_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """The request of a load that the kernel kills waits for a second one, for which an idle instance leaves."""
    monkeypatch.setattr(Kills, "since", lambda *_: True)
    caplog.set_level(logging.INFO)
    models = {"idle": model(), "scripted": model(Options(load="kill", once=str(tmp_path / "killed")))}
    async with pool_of(models, memory=int(2.1 * WORKER)) as pool:
        await say(pool, "echo x", "idle")
        assert await say(pool, "echo x") == "x"
        [instance] = pool.status().instances
        assert (instance.model, instance.memory) == ("scripted", int(1.25 * WORKER))
    assert caplog.text.count("loading scripted") == 2
    counts = f"scripted counts for {human_size(int(1.25 * WORKER))} of memory from now on"
    assert f"{counts}; its load is tried once more" in caplog.text


@pytest.mark.parametrize("fault", ["kill", "no-memory", "bad-alloc"])
async def test_a_load_that_dies_for_memory_again_fails_with_the_cause(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """However a load runs out of memory, it is tried twice, and the client gets the cause."""
    monkeypatch.setattr(Kills, "since", lambda *_: True)
    caplog.set_level(logging.INFO)
    async with pool_of({"scripted": model(Options(load=fault))}) as pool:  # type: ignore[arg-type]
        with pytest.raises(ModelLoadFailed, match="ran out of memory"):
            await say(pool, "echo x")
        assert caplog.text.count("loading scripted") == 2


async def test_a_load_that_fails_otherwise_is_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    """A load that a fault of the engine ends is not repeated."""
    caplog.set_level(logging.INFO)
    async with pool_of({"scripted": model(Options(load="raise"))}) as pool:
        with pytest.raises(ModelLoadFailed, match="the engine is broken"):
            await say(pool, "echo x")
    assert caplog.text.count("loading scripted") == 1


async def test_a_model_waits_for_memory_of_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """While other programs hold the memory a request waits, and it is served soon after they have given it back."""
    free = 10 * MB
    monkeypatch.setattr(memory_watch, "memory_available", lambda: free)
    monkeypatch.setattr(memory_watch, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(placing, "LOOK_AGAIN", 0.05)
    async with pool_of({"scripted": model()}) as pool:
        asked = asyncio.create_task(say(pool, "echo x"))
        await until(lambda: pool.status().waiting)
        assert pool.status().instances == ()
        free = GB
        assert await asked == "x"


async def test_who_waits_too_long_for_other_programs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `queue_timeout` the refusal says that the machine has too little memory now, and asks to come again."""
    monkeypatch.setattr(memory_watch, "memory_available", lambda: 10 * 10**6)
    pool = Pool({"scripted": model()}, PoolLimits(memory=MemoryLimit(GB)))
    await pool.start()
    async with pool.submit(ask("echo x")) as first:  # once it waits for memory, its model's need is known
        await until(lambda: (waits := pool.waiting(first.request.id)) is not None and waits.state == "memory")
    pool._scheduler.placing.limits = evolve(pool._scheduler.limits, queue_timeout=0.1)
    with pytest.raises(InsufficientMemory, match=r"only 10\.0 MB free now; other programs hold the rest") as caught:
        await say(pool, "echo x")
    assert caught.value.retry_after >= 1
    await pool.close(grace=0)


# -- sessions ---------------------------------------------------------------------------------------------------------


def session(number: int, size: int) -> PutSession:
    tokens = number.to_bytes(4, "little") * 64
    return PutSession("here", tokens, whole=True, state=b"s" * (size - len(tokens) - 12))


async def put(keeper: SessionKeeper, *sizes: int) -> None:
    for number, size in enumerate(sizes, 1):
        keeper.put("tiny", session(number, size))
    await until(lambda: not keeper._waiting)


async def test_sessions_are_given_up_oldest_first() -> None:
    """As many as are needed go, the least recently used first; what sessions hold is known at each moment."""
    keeper = SessionKeeper(MemoryStore(), SessionLimits(min_tokens=1))
    await put(keeper, 1000, 2000, 3000)
    assert keeper.held == 6000
    assert await keeper.shrink(500)
    assert sorted(entry.size for entry in await keeper.list()) == [2000, 3000]
    assert await keeper.shrink(2500)
    assert keeper.held == 0
    keeper.room = 2500
    await put(keeper, 1000, 1000, 1000)  # the third takes the place of the first
    assert keeper.held == 2000
    await put(keeper, 2600)  # it exceeds what is left to sessions
    assert keeper.held == 2000
    await keeper.close(GUARD)


async def test_sessions_that_the_store_keeps_are_reported() -> None:
    """If the store does not delete them, shrinking says so."""

    class Stubborn(MemoryStore):
        def delete(self, _session_id: str) -> bool:
            return False

    keeper = SessionKeeper(Stubborn(), SessionLimits(min_tokens=1))
    await put(keeper, 1000)
    assert not await keeper.shrink(500)
    assert keeper.held == 1000
    await keeper.close(GUARD)


async def test_a_single_session_may_wait_whatever_its_size() -> None:
    """The limit on what waits for the store bounds further sessions, so that a small machine stores large ones, too."""
    keeper = SessionKeeper(MemoryStore(), SessionLimits(min_tokens=1, waiting=500))
    await put(keeper, 1000)
    assert keeper.held == 1000
    await keeper.close(GUARD)


async def test_sessions_make_room_for_a_model() -> None:
    """A model that does not fit beside the stored sessions is loaded, and only those that must be are given up."""
    keeper = SessionKeeper(MemoryStore(), SessionLimits(min_tokens=1))
    await put(keeper, 20 * MB, 20 * MB, 20 * MB)
    limits = PoolLimits(memory=MemoryLimit(WORKER + 45 * MB))
    pool = Pool({"scripted": model()}, limits, keeper=keeper)
    async with asyncio.timeout(GUARD):
        await pool.start()
        assert await say(pool, "echo x") == "x"
        assert keeper.held == 40 * MB
        assert keeper.room == 45 * MB
        use = pool.status().memory
        assert use is not None
        assert (use.sessions, use.used) == (40 * MB, WORKER + 40 * MB)
        await say(pool, "take 60")
        await until(lambda: keeper.held == 0)  # what it has grown by is no longer theirs
        await pool.close(grace=0)


# -- a server ---------------------------------------------------------------------------------------------------------


@hookimpl
def lllms_engines() -> Iterable[Engine]:
    """Provide the scripted engine."""
    return [ScriptedEngine()]


async def test_a_restarted_server_uses_what_it_has_learnt(tmp_path: Path, nothing_learnt: Path) -> None:
    """The need of a model that grew counts after a restart, and is shown beside what is measured."""
    config = {
        "server": {"memory_limit": "400MB", "models_dir": str(tmp_path)},
        "models": {"greedy": {"engine": "scripted"}, "other": {"engine": "scripted", "memory": "300MB"}},
        "sessions": {"store": "none"},
    }
    extra = {"scripted": SimpleNamespace(lllms_engines=lllms_engines)}
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra=extra)
    reports = []
    for prompt in ("take 100", "echo x"):
        async with (
            asyncio.timeout(GUARD), Host(parse_config(config), plugins) as host, published(host) as url,
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
        ):
            answer = await client.post("/v1/completions", json={"model": "greedy", "prompt": prompt})
            assert answer.status_code == 200
            if prompt == "take 100":
                await until(lambda host=host: host.pool.status().instances[0].grown)
            reports.append((await client.get("/")).json()["instances"][0])
            page = (await client.get("/", headers={"Accept": "text/html"})).text
            assert "measured" in page
            assert ("more than its share" in page) == (prompt == "take 100")
            shown = await asyncio.to_thread(CliRunner().invoke, cli, ["ps", "--url", url])
            assert ", measured " in shown.output
    first, second = reports
    assert LearntStore(nothing_learnt).get(key_of("scripted", first["fingerprint"], WORKER)).private > 100 * MB
    assert (first["memory"], first["grown"]) == (WORKER, True)
    assert second["memory"] > 100 * MB
    assert second["measured"] < 100 * MB
    assert not second["grown"]


async def test_show_and_check_tell_what_was_measured(tmp_path: Path, nothing_learnt: Path) -> None:
    """After a server has run a model, `show` and `check` tell what its workers took, and `check` counts it."""
    config = tmp_path / "lllms.toml"
    config.write_text(
        f'[server]\nmemory_limit = "4GB"\n[sessions]\nstore = "none"\n'
        f'[models.tiny]\nengine = "llamacpp"\nfile = "{TINY}"\n[models.tiny.options]\ncontext_length = 512\n',
    )

    def run(*words: str) -> str:
        return CliRunner().invoke(cli, [*words, "--config", str(config)], catch_exceptions=False).output

    assert "measured here" not in await asyncio.to_thread(run, "show", "tiny")
    async with asyncio.timeout(GUARD), Host(load_config(config)) as host:
        async with host.submit(host.request("tiny", messages=[Message("user", "Hi!")])) as stream:
            await stream.gather()
        [instance] = host.pool.status().instances
        assert instance.measured is not None
    told = "measured here: a worker takes up to "
    shown = await asyncio.to_thread(run, "show", "tiny")
    assert told in shown
    assert "mapped weights not included; a load takes " in shown
    assert f"model tiny: {told}" in await asyncio.to_thread(run, "check")
    [key] = json.loads(await asyncio.to_thread(nothing_learnt.read_text))["learnt"]
    assert instance.fingerprint in key
    store = LearntStore(nothing_learnt)
    store.learn(key, 5 * GB)
    store.write()
    checked = await asyncio.to_thread(run, "check")
    assert "models.tiny: an instance needs about 5.4 GB of memory (as measured; " in checked
