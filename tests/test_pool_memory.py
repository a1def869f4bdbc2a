"""The pool with a memory limit: the scheduler's decisions by needs, and real workers under a limit."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import evolve
from click.testing import CliRunner
from engines_for_tests import Options, ScriptedEngine
from pools_for_tests import GUARD
from pools_for_tests import ask as request
from serving_for_tests import serving

from lllms_core.cli import cli
from lllms_core.config import ServerConfig, parse_config
from lllms_core.errors import InsufficientMemory, LllmsError, ModelLoadFailed, ModelTooLarge, WaitedTooLong
from lllms_core.footprint import take_footprint
from lllms_core.host import Host
from lllms_core.pool import memory_watch, needs
from lllms_core.pool.budget import Need
from lllms_core.pool.effects import Assign, Effect, Measure, Prepare, Refuse, ShrinkSessions, Start, Stop
from lllms_core.pool.models import PoolModel
from lllms_core.pool.needs import SERVER, WORKER, memory_available, memory_limit, need_of
from lllms_core.pool.placing import LOOK_AGAIN
from lllms_core.pool.pool import Pool
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.setbacks import FIRST_COOLDOWN, LONGEST_PAUSE
from lllms_core.pool.state import ALONE, MemoryLimit, ModelLimits, PoolLimits, Surroundings
from lllms_core.types import Memory, ModelSpec

pytestmark = pytest.mark.slow

GB = 10**9
ONE = ModelLimits()


@pytest.fixture(autouse=True)
def roomy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' models find memory, whatever runs beside them."""
    monkeypatch.setattr(memory_watch, "memory_available", lambda: 100 * GB)


class World:
    """A scheduler with a limit of ten bytes; instances are called a1, a2, b1 ..."""

    def __init__(self, needs: Mapping[str, Need | int], places: int = 9, /, **models: ModelLimits) -> None:
        self.needs = {name: Need(need) if isinstance(need, int) else need for name, need in needs.items()}
        numbers: dict[str, itertools.count[int]] = {model: itertools.count(1) for model in needs}
        limits = PoolLimits(
            queue_timeout=100, max_instances=places, memory=MemoryLimit(10), max_wait_before_swap=0, min_residency=0,
        )
        all_limits = {name: models.get(name, ONE) for name in needs}
        self.around = ALONE
        self.scheduler = Scheduler(
            all_limits, limits, lambda model: f"{model}{next(numbers[model])}", look=lambda: self.around,
        )

    def answer(self, effects: list[Effect], now: float = 0) -> list[Effect]:
        """Tell the needs that are asked for; return the other effects."""
        left = []
        for effect in effects:
            if isinstance(effect, Measure):
                left += self.answer(self.scheduler.measured(effect.model, self.needs[effect.model], now))
            else:
                left.append(effect)
        return left

    def submit(self, model: str, now: float = 0, name: str = "") -> list[Effect]:
        return self.answer(self.scheduler.submit(name or f"{model}@{now}", model, (), now), now)

    def idle(self, model: str, now: float) -> None:
        """Load a model and let it serve one request, which ends now."""
        assert self.submit(model, now, "once") == [Start(f"{model}1", model, 1)]
        assert self.scheduler.loaded(f"{model}1", 2, now) == [Assign("once", f"{model}1")]
        self.scheduler.finished("once", now)

    def busy(self, model: str, now: float) -> None:
        """Load a model and let it work on a request named after it."""
        assert self.submit(model, now, model) == [Start(f"{model}1", model, 1)]
        assert self.scheduler.loaded(f"{model}1", 2, now) == [Assign(model, f"{model}1")]


def refusals(effects: list[Effect]) -> list[LllmsError]:
    return [effect.error for effect in effects if isinstance(effect, Refuse)]


def test_nothing_is_loaded_before_its_need_is_known() -> None:
    """The need of a model is asked for once, and forgotten when its files are fetched anew."""
    world = World({"a": 5})
    scheduler = world.scheduler
    assert scheduler.submit("t1", "a", (), 0) == [Measure("a")]
    assert scheduler.submit("t2", "a", (), 0) == []
    assert scheduler.measured("a", Need(5), 1) == [Start("a1", "a", 1)]
    assert scheduler.lost("a1", 2) == [Prepare("a")]
    assert scheduler.prepared("a", 3) == [Measure("a")]
    assert scheduler.measured("a", Need(5), 4) == [Start("a2", "a", 1)]


def test_a_changed_file_is_measured_again() -> None:
    """A load whose files are others than those that were measured gives its room back, and waits for their need."""
    world = World({"a": 5})
    assert world.submit("a", 1) == [Start("a1", "a", 1)]
    assert world.scheduler.outdated("a1", 2) == [Measure("a")]
    assert world.scheduler.seating.used == 0
    [error] = refusals(world.scheduler.measured("a", Need(11), 3))
    assert isinstance(error, ModelTooLarge)


def test_without_a_limit_nobody_asks_for_needs() -> None:
    """Without a memory limit, nothing waits for an estimate."""
    scheduler = Scheduler({"a": ModelLimits(1)}, PoolLimits(), lambda _: "a1")
    assert scheduler.start(0) == [Start("a1", "a", 1)]


def test_the_least_recently_used_makes_room() -> None:
    """A model that does not fit beside two idle ones gets the memory of the least recently used, once it is free."""
    world = World({"a": 5, "b": 5, "c": 5})
    world.idle("a", 1)
    world.idle("b", 2)
    assert world.submit("c", 3) == [Stop("a1")]
    assert world.scheduler.gone("a1", "closed", 4) == [Start("c1", "c", 1)]


def test_what_can_never_fit_is_refused_at_once() -> None:
    """All who ask for a model above the limit are refused with both figures, and nothing is unloaded in vain."""
    world = World({"a": 5, "big": 11})
    world.idle("a", 1)
    [error] = refusals(world.submit("big", 2))
    assert isinstance(error, ModelTooLarge)
    assert error.message == (
        "model 'big' cannot be loaded: an instance needs about 11 bytes of memory, but lllms may use 10 bytes; lower"
        " options.context_length or slots, or raise server.memory_limit"
    )
    assert world.scheduler.instances["a1"].state == "ready"


def test_a_full_server_does_not_delay_the_refusal() -> None:
    """What can never fit is refused at once even if `concurrency` lets nothing else run."""
    world = World({"a": 5, "big": 11})
    world.scheduler.placing.limits = evolve(world.scheduler.limits, concurrency=1)
    world.busy("a", 1)
    assert isinstance(refusals(world.submit("big", 2))[0], ModelTooLarge)
    assert isinstance(refusals(world.submit("big", 3))[0], ModelTooLarge)


def test_what_never_fits_beside_kept_models_is_refused() -> None:
    """Memory of kept instances is nobody else's, loaded or not; the refusal says how much that is."""
    world = World({"kept": 6, "b": 5}, kept=ModelLimits(1))
    assert world.answer(world.scheduler.start(0)) == [Start("kept1", "kept", 1)]
    world.scheduler.gone("kept1", "killed", 1)
    [error] = refusals(world.submit("b", 1))
    assert "6 bytes for models that are kept loaded (min_instances)" in error.message


def test_a_kept_model_that_never_fits_is_told_and_harms_nobody() -> None:
    """It is not tried, its memory is not reserved, and the reason can be read."""
    world = World({"kept": 11, "b": 9}, kept=ModelLimits(1))
    assert world.answer(world.scheduler.start(0)) == []
    assert world.scheduler.wake_at() is None
    assert "an instance needs about 11 bytes" in (world.scheduler.seating.too_large("kept") or "")
    assert world.submit("b", 1) == [Start("b1", "b", 1)]


def test_a_second_instance_that_does_not_fit_refuses_nobody() -> None:
    """If a model has an instance, requests wait for its slots when there is no memory for another."""
    world = World({"a": 6}, a=ModelLimits(0, 2))
    world.busy("a", 1)
    world.submit("a", 2, "t2")
    assert world.submit("a", 3, "t3") == []
    assert world.scheduler.finished("a", 4) == [Assign("t3", "a1")]


def test_as_many_busy_ones_are_drained_as_are_needed() -> None:
    """A large model waits for several that are never idle: they take no younger requests, and the rest of them do."""
    world = World({"a": 3, "b": 3, "c": 3, "big": 6})
    for now, model in enumerate("abc"):
        world.busy(model, now)
    assert world.submit("big", 5, "big") == []
    assert world.submit("a", 6, "a-new") == world.submit("b", 6, "b-new") == []
    assert world.submit("c", 6, "c-new") == [Assign("c-new", "c1")]
    assert Stop("a1") not in world.scheduler.finished("a", 7)  # alone it would not suffice
    assert world.submit("a", 8, "a-newer") == []
    effects = world.scheduler.finished("b", 9)
    assert {effect for effect in effects if isinstance(effect, Stop)} == {Stop("a1"), Stop("b1")}
    assert world.scheduler.gone("a1", "closed", 10) == []
    assert world.scheduler.gone("b1", "closed", 11) == [Start("big1", "big", 1)]


def test_small_ones_do_not_starve_a_large_one() -> None:
    """Room that a large model waits for is not given to smaller ones that come later."""
    world = World({"a": 5, "big": 8, "small": 4, "tiny": 2})
    world.busy("a", 1)
    assert world.submit("big", 2, "big") == []
    assert world.submit("small", 3, "small") == []
    assert world.submit("tiny", 4, "tiny") == [Start("tiny1", "tiny", 1)]  # it fits beside both
    assert world.scheduler.finished("a", 5) == [Stop("a1")]
    assert world.scheduler.gone("a1", "closed", 6) == [Start("big1", "big", 1)]


def test_a_kept_instance_gets_its_memory_back() -> None:
    """If others took the memory of a kept model before its need was known, they leave as soon as they are idle."""
    world = World({"kept": 6, "b": 5}, kept=ModelLimits(1))
    assert world.scheduler.start(0) == [Measure("kept")]
    assert world.submit("b", 1, "b") == [Start("b1", "b", 1)]
    world.scheduler.loaded("b1", 2, 1)
    assert world.scheduler.measured("kept", Need(6), 2) == []
    assert world.submit("b", 3, "late") == []
    assert world.scheduler.finished("b", 4)[0] == Stop("b1")


def test_who_waits_too_long_for_memory_is_told_who_holds_it() -> None:
    """The refusal names the need, the limit, what is free and the holders; without a shortage it is as always."""
    world = World({"a": 3, "kept": 4, "big": 5}, kept=ModelLimits(1))
    world.answer(world.scheduler.start(0))
    world.scheduler.loaded("kept1", 1, 0)
    world.busy("a", 1)
    world.submit("big", 2)
    [error] = refusals(world.scheduler.tick(102))
    assert isinstance(error, InsufficientMemory)
    assert error.retry_after >= 1
    assert error.message.endswith(
        "; it needs about 5 bytes of memory, and of the 10 bytes for instances (server.memory_limit) 3 bytes are free;"
        " the rest is held by kept (4 bytes, kept), a (3 bytes, busy)",
    )
    world.scheduler.loaded("a1", 1, 102)
    world.submit("a", 103, "t2")
    assert isinstance(refusals(world.scheduler.tick(203))[0], WaitedTooLong)


# -- measured use, at the scheduler ------------------------------------------------------------------------------------


def test_an_instance_that_grew_counts_for_what_it_takes() -> None:
    """What an instance takes beyond its need is nobody else's; less than its need changes nothing."""
    world = World({"a": 4, "b": 5, "c": 6})
    world.busy("a", 1)
    assert world.scheduler.takes("a1", 3, 2) == []
    assert world.scheduler.seating.used == 4
    assert world.scheduler.takes("a1", 6, 2) == []
    assert world.scheduler.seating.used == 6
    assert world.submit("b", 3) == []
    entry = world.scheduler.instances["a1"]
    assert (entry.told.private, entry.need.private, entry.measured, entry.grown) == (4, 6, 6, True)
    world.scheduler.takes("a1", 4, 4)
    assert (entry.need.private, entry.measured, entry.grown) == (6, 4, False)  # the peak counts


def test_growth_above_the_limit_unloads_idle_ones_and_starts_nothing() -> None:
    """If one grows above the limit, idle instances leave that are not kept, and busy ones go on."""
    world = World({"kept": 2, "a": 3, "b": 3, "c": 2}, kept=ModelLimits(1))
    world.answer(world.scheduler.start(0))
    world.scheduler.loaded("kept1", 1, 0)
    world.busy("a", 1)
    world.idle("b", 2)
    assert world.scheduler.takes("a1", 8, 3) == [Stop("b1")]
    assert world.submit("c", 4) == []
    assert world.scheduler.gone("b1", "closed", 5) == []
    assert world.scheduler.takes("a1", 20, 6) == []  # nothing is left to unload, and nothing is killed
    assert world.scheduler.instances["a1"].running
    [error] = refusals(world.scheduler.tick(104))
    assert isinstance(error, InsufficientMemory)
    assert "a (20 bytes, busy)" in error.message


def test_what_grew_above_the_limit_leaves_when_it_is_idle() -> None:
    """An instance that alone exceeds the limit serves its requests to the end, and is unloaded then."""
    world = World({"a": 4, "b": 5})
    world.busy("a", 1)
    world.scheduler.takes("a1", 12, 2)
    world.submit("b", 3)
    assert world.scheduler.finished("a", 4) == [Stop("a1")]
    assert world.scheduler.gone("a1", "closed", 5) == [Start("b1", "b", 1)]


def test_what_was_learnt_counts_the_next_time() -> None:
    """The next instance counts for what earlier ones took, if that is more; a changed file is another model."""
    world = World({"a": 4, "b": 5})
    world.scheduler.seating.learn("a", 4, 3)
    world.busy("a", 1)
    assert world.scheduler.instances["a1"].need == Need(4)
    world.scheduler.seating.learn("a", 4, 7)
    world.scheduler.gone("a1", "killed", 2)
    world.submit("a", 3)
    assert world.scheduler.instances["a2"].need.private == 7
    assert world.scheduler.seating.need("b") == Need()
    world.scheduler.outdated("a2", 4)
    world.scheduler.measured("a", Need(4), 5)
    assert world.scheduler.instances["a3"].need == Need(4)


def test_a_model_that_was_measured_to_be_too_large_says_so() -> None:
    """The refusal names both figures, and the estimate is no longer believed."""
    world = World({"a": 4})
    world.scheduler.seating.learn("a", 4, 12)
    [error] = refusals(world.submit("a", 1))
    assert isinstance(error, ModelTooLarge)
    assert "an instance needs about 12 bytes of memory (as measured; 4 bytes by the estimate), but" in error.message


def test_a_configured_need_is_final() -> None:
    """`models.X.memory` is neither raised by what was learnt nor by what is measured, which is told nevertheless."""
    world = World({"a": 4})
    world.scheduler.seating.fixed.add("a")
    world.scheduler.seating.learn("a", 4, 9)
    world.busy("a", 1)
    assert world.scheduler.takes("a1", 9, 2) == []
    entry = world.scheduler.instances["a1"]
    assert (entry.need, entry.measured, entry.grown) == (Need(4), 9, True)
    assert world.scheduler.seating.used == 4


def test_a_load_that_died_for_memory_makes_room_and_is_tried_once_more() -> None:
    """Its need is raised by a quarter, for which an idle instance leaves; after a second death its requests fail."""
    world = World({"a": 4, "b": 5})
    world.idle("b", 1)
    assert world.submit("a", 2) == [Start("a1", "a", 1)]
    assert world.scheduler.gone("a1", "no memory", 3, starved=True) == [Start("a2", "a", 1)]
    assert world.scheduler.seating.need("a") == Need(5, estimate=4)
    [refused] = world.scheduler.gone("a2", "no memory", 4, starved=True)
    assert refusals([refused])[0].message == "model 'a' cannot be loaded: no memory"
    later = 4 + FIRST_COOLDOWN
    assert world.submit("a", later) == [Stop("b1")]  # six bytes by now
    assert world.scheduler.gone("b1", "closed", later) == [Start("a3", "a", 1)]
    assert world.scheduler.gone("a3", "no memory", later, starved=True) == [Start("a4", "a", 1)]
    world.scheduler.loaded("a4", 1, later)
    assert world.scheduler.instances["a4"].running


def test_a_load_that_failed_otherwise_is_not_tried_again() -> None:
    """Only a lack of memory is worth another try at once."""
    world = World({"a": 4})
    world.submit("a", 1)
    assert isinstance(refusals(world.scheduler.gone("a1", "no such file", 2))[0], ModelLoadFailed)


def test_deaths_never_make_a_model_too_large() -> None:
    """However often it dies, it counts for at most twice its estimate, and for no more than all memory."""
    world = World({"a": 4, "b": 9})
    for number in range(0, 9 * int(LONGEST_PAUSE), int(LONGEST_PAUSE)):
        world.submit("a", number, f"t{number}")
        [instance] = world.scheduler.instances
        world.scheduler.gone(instance, "killed", number, starved=True)
        for entry in list(world.scheduler.instances):
            world.scheduler.gone(entry, "killed", number, starved=True)
    assert world.scheduler.seating.need("a").private == 8
    world.submit("b", number)
    world.scheduler.gone("b1", "killed", number, starved=True)
    assert world.scheduler.seating.need("b").private == 10
    assert world.scheduler.seating.too_large("b") is None


def test_a_worker_that_died_for_memory_at_work_needs_more() -> None:
    """The need is raised to a quarter more than it was measured to take; the model is loaded when it is asked for."""
    world = World({"a": 4})
    world.busy("a", 1)
    world.scheduler.takes("a1", 6, 2)
    world.scheduler.gone("a1", "killed", 3, starved=True)
    assert world.scheduler.seating.need("a").private == 7
    assert world.submit("a", 4) == [Start("a2", "a", 1)]


def surrounded(world: World, **around: int) -> None:
    world.around = Surroundings(**around)


def test_sessions_give_way_before_instances() -> None:
    """Sessions are given up once, as many as are missing, then the model is loaded; the idle instance stays."""
    world = World({"a": 4, "b": 4})
    world.idle("a", 1)
    surrounded(world, sessions=4)
    assert world.submit("b", 2) == [ShrinkSessions(2)]
    assert world.scheduler.tick(3) == []  # it is under way
    surrounded(world, sessions=2)
    assert world.scheduler.shrunk(4, enough=True) == [Start("b1", "b", 1)]
    assert world.scheduler.seating.left == 2


def test_sessions_that_cannot_be_given_up_cost_an_instance() -> None:
    """If the store does not delete them, an idle instance goes; nobody asks again and again."""
    world = World({"a": 4, "b": 4})
    world.idle("a", 1)
    surrounded(world, sessions=4)
    assert world.submit("b", 2) == [ShrinkSessions(2)]
    assert world.scheduler.shrunk(4, enough=False) == [Stop("a1")]
    assert world.scheduler.gone("a1", "closed", 5) == [Start("b1", "b", 1)]


def test_memory_of_other_programs_is_waited_for() -> None:
    """A model waits for memory that others hold, with looks at intervals; after too long a wait the error says so."""
    world = World({"a": 8, "small": 2})
    surrounded(world, available=3)
    assert world.submit("a", 1) == []
    assert world.scheduler.wake_at() == 1 + LOOK_AGAIN
    assert world.submit("small", 2) == [Start("small1", "small", 1)]  # it is not held up
    world.scheduler.loaded("small1", 1, 3)
    world.scheduler.takes("small1", 2, 3)
    world.scheduler.finished("small@2", 3)
    surrounded(world, available=1)
    assert world.scheduler.tick(5) == []
    surrounded(world, available=6)
    assert world.scheduler.tick(7) == [Stop("small1")]
    surrounded(world, available=2)
    assert world.scheduler.gone("small1", "closed", 8) == []
    [error] = refusals(world.scheduler.tick(101))
    assert isinstance(error, InsufficientMemory)
    assert error.message.endswith(
        "; it needs about 8 bytes of memory, and this machine has only 2 bytes free now; other programs hold the rest",
    )
    world.submit("a", 110)
    surrounded(world, available=8)
    assert world.scheduler.tick(world.scheduler.wake_at() or 0) == [Start("a1", "a", 1)]


def test_busy_instances_are_not_drained_in_vain_for_others_memory() -> None:
    """If unloading a busy instance could not make room on the machine, it goes on taking requests."""
    world = World({"a": 2, "big": 8})
    world.busy("a", 1)
    world.scheduler.takes("a1", 2, 1)
    surrounded(world, available=3)
    assert world.submit("big", 2) == []
    assert world.submit("a", 3, "t2") == [Assign("t2", "a1")]
    surrounded(world, available=6)
    world.scheduler.tick(4)
    world.scheduler.finished("t2", 5)
    assert world.scheduler.finished("a", 6)[:1] == [Stop("a1")]


def test_a_kept_model_waits_for_others_memory() -> None:
    """A kept instance is loaded as soon as the machine has memory for it, and holds up nobody until then."""
    world = World({"kept": 6, "a": 2}, kept=ModelLimits(1))
    surrounded(world, available=3)
    assert world.answer(world.scheduler.start(0)) == []
    assert world.submit("a", 1) == [Start("a1", "a", 1)]
    surrounded(world, available=9)
    assert world.scheduler.tick(world.scheduler.wake_at() or 0) == [Start("kept1", "kept", 1)]


def test_quickly_loaded_models_make_room_first() -> None:
    """Among idle instances the one whose loads were measured to be quick goes, though the other was used before."""
    world = World({"slow": 5, "quick": 5, "c": 5})
    world.idle("slow", 1)
    world.idle("quick", 2)
    world.scheduler.seating.learn("slow", 5, 0, 30.0)
    world.scheduler.seating.learn("quick", 5, 0, 0.5)
    assert world.submit("c", 20) == [Stop("quick1")]


class Estimating:
    """Stands for an engine whose estimate is given."""

    def __init__(self, memory: Memory | None) -> None:
        self.memory = memory

    def estimate(self, _spec: ModelSpec) -> Memory:
        assert self.memory is not None, "no such file"
        return self.memory


def need(estimate: Memory | None, /, **fields: Any) -> Need:
    spec = ModelSpec("m", None, **({"file": fields.pop("file")} if "file" in fields else {}))
    return need_of(PoolModel(Estimating(estimate), spec, **fields), spec)  # type: ignore[arg-type]


def test_needs_follow_the_estimate(tmp_path: Any) -> None:
    """A worker costs its process; mapped weights are shared by all names of a file; a GPU's memory does not count."""
    parts = {"weights": 100, "kv": 10, "compute": 1}
    assert need(Memory(**parts)) == Need(111 + WORKER)
    assert need(Memory(**parts), isolation="thread") == Need(111)
    assert need(Memory(**parts, offloaded=True, device=10**6)) == Need(111 + WORKER)
    assert need(None) == Need(WORKER)
    assert need(Memory(**parts), memory=7) == Need(7, memory=0)
    file, link = tmp_path / "a.gguf", tmp_path / "b.gguf"
    file.write_bytes(b"weights")
    link.symlink_to(file)
    mapped, linked = (need(Memory(**parts, mapped=True), file=one) for one in (file, link))
    assert mapped == linked == Need(11 + WORKER, 100, mapped.file)
    assert mapped.file is not None


@pytest.mark.parametrize(("machine", "total"), [
    (None, None), (100 * GB, 90 * GB), (8 * 2**30, 7 * 2**30), (2**30, 2**29),
])
def test_the_default_limit_leaves_a_reserve(
    machine: int | None, total: int | None, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenth is left to others, at least 1 GiB, at most half; without figures only a configured limit holds."""
    monkeypatch.setattr(needs, "usable_memory", lambda: machine)
    limit = memory_limit(ServerConfig())
    assert (None if limit is None else limit.total) == total
    assert limit is None or limit.own == SERVER
    assert memory_limit(ServerConfig(memory_limit=GB)) == MemoryLimit(GB, SERVER, machine)


def test_sessions_in_memory_take_a_share_of_the_limit(tmp_path: Path) -> None:
    """Sessions in memory take at most a quarter of the limit, those that wait for any store a sixteenth."""
    server = {"memory_limit": "1GB"}
    disk = {"store": "disk", "options": {"folder": str(tmp_path)}}
    for sessions, size in (({}, GB // 4), (disk, 2**30)):
        host = Host(parse_config({"server": server, "sessions": sessions}))
        assert host.sessions is not None
        assert host.sessions.limits.max_size == size
        assert host.sessions.limits.waiting == GB // 16
        status = host.pool.status().memory
        assert status is not None
        assert (status.limit, status.used, status.sessions) == (GB, SERVER, 0)  # nothing is stored yet


@pytest.mark.parametrize(("free", "usable", "available"), [
    (None, 8 * 2**30, None), (2**30, None, None),
    (10 * 2**30, 80 * 2**30, 8 * 2**30), (2**30, 8 * 2**30, 3 * 2**28), (2**20, 8 * 2**30, 0),
])
def test_a_margin_stays_free(
    free: int | None, usable: int | None, available: int | None, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine can give its free memory now, less a quarter of the reserve; unknown if it does not tell."""
    monkeypatch.setattr(needs, "free_memory", lambda: free)
    monkeypatch.setattr(needs, "usable_memory", lambda: usable)
    assert memory_available() == available


async def test_a_file_that_was_replaced_counts_anew(tmp_path: Path) -> None:
    """A model whose file has been replaced by a larger one needs as much as that one at its next load."""
    engine, file = ScriptedEngine(), tmp_path / "weights"
    file.write_bytes(b"1" * 1000)
    spec = ModelSpec("scripted", Options(), file)
    model = PoolModel(
        engine, spec, isolation="thread",
        look=lambda file: take_footprint(engine.name, None, evolve(spec, file=file), None),
    )
    pool = Pool({"scripted": model}, PoolLimits(memory=MemoryLimit(5000)))
    async with asyncio.timeout(GUARD):
        await pool.start()
        taken = []
        for size in (1000, 3000):
            file.write_bytes(b"1" * size)
            async with pool.submit(request("echo x")) as stream:
                await stream.gather()
            taken += [one.memory for one in pool.status().instances]
            await pool.unload("scripted")
        await pool.close(grace=0)
    assert taken == [1000, 3000]


# -- real workers -----------------------------------------------------------------------------------------------------


def mock(memory: int, /, **fields: object) -> dict[str, object]:
    return {"engine": "mock", "isolation": "process", "options": {"memory": memory}, **fields}


@asynccontextmanager
async def asking(models: Mapping[str, object], **server: object) -> AsyncIterator[httpx.AsyncClient]:
    config = {"server": {"port": 0, **server}, "models": models, "sessions": {"store": "none"}}
    async with asyncio.timeout(GUARD), serving(config) as url, httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        yield client


async def ask(client: httpx.AsyncClient, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return await client.post("/v1/chat/completions", json=body)


async def loaded(client: httpx.AsyncClient) -> list[str]:
    return sorted(one["model"] for one in (await client.get("/")).json()["instances"] if one["state"] == "ready")


async def test_real_models_share_a_limit() -> None:
    """With room for two, the least recently used goes and a kept one stays; one that never fits is a 503."""
    models = {
        "kept": mock(GB, min_instances=1), "a": mock(2 * GB), "b": mock(2 * GB), "c": mock(1), "big": mock(9 * GB),
        "told": mock(9 * GB, memory="1MB"),
    }
    async with asking(models, memory_limit="4GB", max_instances=9) as client:
        for model, expected in (
            ("a", ["a", "kept"]), ("b", ["b", "kept"]), ("c", ["b", "c", "kept"]), ("b", ["b", "c", "kept"]),
            ("told", ["b", "c", "kept", "told"]), ("a", ["a", "c", "kept", "told"]),
        ):
            assert (await ask(client, model)).status_code == 200
            assert await loaded(client) == expected
        refused = await ask(client, "big")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_too_large"
        told = "an instance needs about 9.0 GB of memory, but lllms may use 4.0 GB"
        assert told in refused.json()["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert "Retry-After" not in refused.headers
        assert await loaded(client) == ["a", "c", "kept", "told"]
        report = (await client.get("/")).json()
        shown = await asyncio.to_thread(CliRunner().invoke, cli, ["ps", "--url", str(client.base_url)])
    takes = {one["model"]: one["memory"] for one in report["instances"]}
    assert takes == {"kept": GB + WORKER, "a": 2 * GB + WORKER, "c": 1 + WORKER, "told": 10**6}
    measured = {one["model"]: one["measured"] for one in report["instances"]}
    assert all(2**20 < size < 2**30 for size in measured.values())
    memory = report["memory"]
    assert (memory["limit"], memory["used"], memory["sessions"]) == (4 * GB, SERVER + sum(takes.values()), 0)
    assert memory["measured"] == sum(measured.values())
    assert memory["available"] == 100 * GB
    assert "memory: about 3.2 GB of 4.0 GB used, workers measured at " in shown.output
    assert "100.0 GB available on the machine" in shown.output
    assert ", about 1.0 GB, measured " in shown.output
    assert "more than its share" in next(line for line in shown.output.splitlines() if "instance told:" in line)


async def test_a_wait_for_memory_ends_with_its_reason() -> None:
    """A request that finds the memory busy for `queue_timeout` gets a 503 that names need and holders, and a time."""
    slow = {"engine": "mock", "memory": "2GB", "options": {"first_token": 3600}}
    async with asking({"a": slow, "b": mock(2 * GB)}, memory_limit="3GB", queue_timeout=1) as client:
        stuck = asyncio.create_task(ask(client, "a"))
        while "a" not in await loaded(client):  # noqa: ASYNC110  # as a user would look
            await asyncio.sleep(0.05)
        refused = await ask(client, "b")
        stuck.cancel()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "insufficient_memory"
    assert "it needs about 2.0 GB of memory" in refused.json()["error"]["message"]
    assert "the rest is held by a (2.0 GB, busy)" in refused.json()["error"]["message"]
    assert int(refused.headers["Retry-After"]) >= 1


async def test_a_kept_model_that_never_fits_is_reported() -> None:
    """The server starts without it; `/health?ready=true` and `ps` say why it is missing."""
    async with asking({"kept": mock(9 * GB, min_instances=1), "a": mock(GB)}, memory_limit="4GB") as client:
        ready = await client.get("/health?ready=true")
        shown = await asyncio.to_thread(CliRunner().invoke, cli, ["ps", "--url", str(client.base_url)])
        assert (await ask(client, "a")).status_code == 200
    assert ready.status_code == 503
    assert "an instance needs about 9.0 GB of memory" in ready.json()["lacking"][0]["problem"]
    assert "model kept has 0 of 1 kept instances: an instance needs about 9.0 GB" in shown.output
