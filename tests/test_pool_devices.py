"""The memory of GPUs: decisions, messages, where the figures come from, and what is shown of them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from attrs import evolve
from engines_for_tests import Options, ScriptedEngine
from pools_for_tests import GUARD
from pools_for_tests import ask as request
from test_pool_memory import World, refusals

from lllms_core.cli.figures import memory_text
from lllms_core.config import ServerConfig
from lllms_core.engines import Model, Progress
from lllms_core.errors import ModelTooLarge
from lllms_core.pool import devices as devices_module
from lllms_core.pool import memory_watch
from lllms_core.pool.budget import Admit, DeviceRoom, Evict, Need, Never, Room, Seat, Shrink, Wait, decide, to_drain
from lllms_core.pool.devices import DeviceWatch, device_rooms, free_of
from lllms_core.pool.models import PoolModel
from lllms_core.pool.needs import need_of, planned
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import MemoryLimit, ModelLimits, PoolLimits, Surroundings
from lllms_core.types import Device, Memory, ModelSpec

GB = 10**9
GPUS = {"CUDA0": DeviceRoom(12, 10), "CUDA1": DeviceRoom(12, 10)}
ROOM = Room(100, 9, devices=GPUS)


def on(private: int = 1, **devices: int) -> Need:
    return Need(private, devices=devices)


def seat(name: str, need: Need, **state: Any) -> Seat:
    return evolve(Seat(name, need, "ready"), **state)


# -- decisions --------------------------------------------------------------------------------------------------------


def test_only_instances_on_the_same_gpu_make_room() -> None:
    """The victim is one that holds what lacks, although one on another GPU has been idle for longer."""
    elsewhere = seat("a", on(CUDA1=9), idle_since=0)
    here = seat("b", on(CUDA0=6), idle_since=50)
    assert decide(on(CUDA0=4), [elsewhere, here], ROOM) == Admit()
    assert decide(on(CUDA0=5), [elsewhere, here], ROOM) == Evict(("b",))
    assert decide(on(90), [elsewhere, here], ROOM) == Admit()
    assert decide(on(CUDA0=5), [elsewhere, evolve(here, busy=True)], ROOM) == Wait("busy")
    assert decide(on(CUDA0=5), [elsewhere, evolve(here, state="closing")], ROOM) == Wait("closing")
    assert decide(on(CUDA0=5), [elsewhere, evolve(here, state="loading")], ROOM) == Wait("loading")
    assert decide(on(CUDA0=4, CUDA1=2), [elsewhere, here], ROOM) == Evict(("a",))


def test_what_a_gpu_can_never_hold_is_refused_with_its_name() -> None:
    """More than the limit of a GPU, alone or beside what is kept there, is never loaded, and nothing is unloaded."""
    kept = seat("kept", on(CUDA1=4), kept=True)
    assert decide(on(CUDA0=11), [kept], ROOM) == Never(0, "CUDA0")
    assert decide(on(CUDA1=7), [kept, seat("a", on(CUDA1=1))], ROOM) == Never(4, "CUDA1")
    assert decide(on(CUDA0=7), [kept], ROOM) == Admit()
    assert decide(on(CUDA9=10**12), [kept], ROOM) == Admit()  # nothing is known of that GPU


def test_sessions_are_not_given_up_for_a_gpu() -> None:
    """Stored sessions are in main memory: they give way only for that."""
    room = Room(10, 9, sessions=4, devices=GPUS)
    full = seat("a", on(1, CUDA0=9), busy=True)
    assert decide(on(1, CUDA0=2), [full], room) == Wait("busy")
    assert decide(on(7, CUDA1=2), [full], room) == Shrink(2)


def test_other_programs_on_a_gpu_are_waited_for() -> None:
    """What other programs hold is no reason for a refusal, and nobody is unloaded for it in vain."""
    room = Room(100, 9, devices={"CUDA0": DeviceRoom(12, 10, usable=3)})
    small = seat("a", on(CUDA0=2), idle_since=0)
    assert decide(on(CUDA0=4), [small], room) == Wait("machine")
    assert decide(on(CUDA0=3), [small], room) == Evict(("a",))
    assert decide(on(CUDA0=1), [small], room) == Admit()


def test_only_busy_instances_on_the_gpu_are_drained() -> None:
    """Even if none suffice, those drained hold memory of the GPU that lacks it."""
    others = [seat("a", on(CUDA1=9), busy=True), seat("b", on(CUDA0=3), busy=True)]
    kept = seat("kept", on(CUDA0=3), kept=True)
    promised = Seat("", on(CUDA0=4), "reserved")
    assert [one.instance for one in to_drain(on(CUDA0=5), [*others, kept], others, ROOM)] == ["b"]
    assert [one.instance for one in to_drain(on(CUDA0=5), [*others, kept, promised], others, ROOM)] == ["b"]


# -- messages ---------------------------------------------------------------------------------------------------------


def test_messages_name_the_gpu() -> None:
    """A refusal and a shortage tell the GPU, its memory, the limit and the holders there."""
    world = World({"big": on(CUDA0=11), "a": on(CUDA0=6), "b": on(CUDA0=5), "c": on(CUDA1=5)})
    world.around = Surroundings(devices=GPUS)
    [error] = refusals(world.submit("big"))
    assert isinstance(error, ModelTooLarge)
    assert error.message == (
        "model 'big' cannot be loaded: an instance needs about 11 bytes of the memory of the GPU 'CUDA0', of whose 12"
        " bytes lllms may use 10 bytes; lower options.context_length or slots, or raise server.gpu_memory_limit"
    )
    world.busy("a", 0)
    world.idle("c", 0)
    world.submit("b")
    assert world.scheduler.seating.shortage("b") == (
        "it needs about 5 bytes of the memory of the GPU 'CUDA0', and of the 10 bytes for instances there"
        " (server.gpu_memory_limit) 4 bytes are free; the rest is held by a (6 bytes, busy)"
    )
    world.around = Surroundings(devices={"CUDA0": DeviceRoom(12, 20, usable=8), "CUDA1": GPUS["CUDA1"]})
    assert world.scheduler.seating.shortage("b") == (
        "it needs about 5 bytes of the memory of the GPU 'CUDA0', and that has only 2 bytes free now; other programs"
        " hold the rest"
    )


# -- figures ----------------------------------------------------------------------------------------------------------


class GpuEngine(ScriptedEngine):
    """Takes `bytes` of the GPU, and as much for each unit of `ModelSpec.memory` beyond what is needed anyway."""

    name = "gpu"
    gpus: ClassVar[Sequence[Device]] = ()
    sizes: ClassVar[Mapping[str, int]] = {}

    def devices(self) -> Sequence[Device]:
        return self.gpus

    def estimate(self, spec: ModelSpec) -> Memory:
        size = self.sizes.get(spec.name, 0)
        return Memory(weights=10, offloaded=True, device=size, devices={"CUDA0": size})


class Growing(GpuEngine):
    """Its context takes what it gets."""

    def estimate(self, spec: ModelSpec) -> Memory:
        size = max(200, (spec.memory or 0) - 10)
        return Memory(weights=10, offloaded=True, device=size, devices={"CUDA0": size})


class Fitting(GpuEngine):
    """Takes all that it may of each GPU, and keeps what its loads were given."""

    loads: ClassVar[list[Mapping[str, int] | None]] = []

    def estimate(self, spec: ModelSpec) -> Memory:
        given = spec.device_memory or {}
        return Memory(weights=10, offloaded=True, device=sum(given.values()), devices=given)

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        self.loads.append(spec.device_memory)
        return super().load(spec, progress)


class Broken(ScriptedEngine):
    name = "broken"

    def devices(self) -> Sequence[Device]:
        raise OSError("no driver")


def with_gpus(kind: type[GpuEngine] = GpuEngine, *gpus: Device, **sizes: int) -> GpuEngine:
    return type("Here", (kind,), {"gpus": gpus, "sizes": sizes})()


@pytest.mark.parametrize(("total", "configured", "limit"), [
    (80 * GB, None, 72 * GB), (4 * 2**30, None, 7 * 2**29), (2**29, None, 2**28), (8 * GB, GB, GB), (GB, 9 * GB, GB),
])
def test_a_gpu_has_a_limit(total: int, configured: int | None, limit: int) -> None:
    """A tenth is left to others, at least 512 MiB, at most half; or what is configured, but never more than it has."""
    engine = with_gpus(GpuEngine, Device("CUDA0", total, total))
    rooms = device_rooms(ServerConfig(gpu_memory_limit=configured), [engine, engine])
    assert rooms == {"CUDA0": DeviceRoom(total, limit)}


def test_a_gpu_gets_another_limit() -> None:
    """A new configuration limits the GPUs that are known, and those that are looked at later."""
    engine = with_gpus(GpuEngine, Device("CUDA0", 80 * GB, 60 * GB))
    watch = DeviceWatch(lambda: [engine])
    assert watch.find() == {"CUDA0": 72 * GB}
    before = watch.rooms["CUDA0"]
    watch.reconfigure(5 * GB)
    assert watch.rooms == {"CUDA0": evolve(before, limit=5 * GB)}
    assert watch.find() == {"CUDA0": 5 * GB}
    watch.reconfigure(None)
    assert watch.rooms == {"CUDA0": before}


def test_an_engine_that_fails_has_no_gpus(caplog: pytest.LogCaptureFixture) -> None:
    """Its failure is a line of the log; the others' GPUs are known."""
    working = with_gpus(GpuEngine, Device("CUDA0", 100, 100))
    assert [*device_rooms(ServerConfig(), [Broken(), working])] == ["CUDA0"]
    [line] = caplog.messages
    assert "the GPUs of the engine broken cannot be told" in line


async def test_what_other_programs_hold_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither free nor ours is others'; while our instances come or go, nobody knows, and nobody looks."""
    monkeypatch.setattr(devices_module, "LOOK_SECONDS", -1)
    engine = with_gpus(GpuEngine, Device("CUDA0", 100 * GB, 70 * GB))
    held: dict[str, int] | None = {}
    watch = DeviceWatch(lambda: [engine])
    watch.held = lambda: held
    watch.renew()
    assert watch.rooms == {}  # nobody has asked for it
    assert watch.find() == {"CUDA0": 90 * GB}
    margin = 10 * GB // 4
    assert watch.rooms["CUDA0"].usable == 70 * GB - margin

    async def seen(usable: int) -> None:
        async with asyncio.timeout(GUARD):
            while watch.rooms["CUDA0"].usable != usable:  # noqa: ASYNC110  # a thread looks
                await asyncio.sleep(0.01)

    type(engine).gpus = (Device("CUDA0", 100 * GB, 20 * GB),)
    held = None
    watch.renew()
    assert watch._looking is None
    held = {"CUDA0": 50 * GB}
    watch.renew()
    await seen(70 * GB - margin)
    held = {"CUDA0": 10 * GB}
    while watch._looking is not None:  # noqa: ASYNC110  # a thread looks
        await asyncio.sleep(0.01)
    watch.renew()
    await seen(30 * GB - margin)


def test_automatic_sizes_honour_the_gpu() -> None:
    """The context takes its share of what the weights leave of the GPU, and no size exceeds it, or the main memory."""
    spec = ModelSpec("m", None)
    engine = with_gpus(Growing)
    model = PoolModel(engine, spec, isolation="thread")
    found = need_of(model, spec, 10**6, alone=True, devices={"CUDA0": 1000})
    assert found.devices == {"CUDA0": 600}  # 200, and half of the rest
    assert [one.devices["CUDA0"] for one in found.smaller][:2] == [400, 300]
    assert found.least.devices == {"CUDA0": 200}
    assert need_of(model, spec, 10**6, devices={"CUDA0": 1000}).devices == {"CUDA0": 400}
    least = need_of(model, spec, 10**6, devices={"CUDA0": 100})
    assert (least.devices, least.way_out) == ({"CUDA0": 200}, ())
    assert need_of(model, spec, 10**6).devices == {"CUDA0": 200}  # without a limit the engine decides
    override = need_of(evolve(model, memory=77), spec, 10**6, devices={"CUDA0": 1000})
    assert (override.private, override.devices) == (77, {"CUDA0": 200})


def test_automatic_layers_get_what_is_free() -> None:
    """Other programs' memory is not given to automatic sizes; it is still no reason why a model can never fit."""
    spec = ModelSpec("m", None)
    model = PoolModel(with_gpus(Fitting), spec, isolation="thread")
    limits, free = {"CUDA0": 1000}, {"CUDA0": 300}
    need = need_of(model, spec, 10**6, devices=limits, free=free)
    assert need.devices == need.device_memory == free
    assert need_of(model, spec, 10**6, devices=limits).device_memory == limits
    assert need_of(model, spec, 10**6).device_memory is None
    limit = MemoryLimit(10**6)
    assert planned(model, spec, limit, alone=True, devices=limits, free=free).device_memory == free
    growing = PoolModel(with_gpus(Growing), spec, isolation="thread")
    assert need_of(growing, spec, 10**6, devices=limits, free=free).devices == {"CUDA0": 225}
    rooms = {"a": DeviceRoom(9, 8, 5), "b": DeviceRoom(9, 4, 5), "c": DeviceRoom(9, 7)}
    assert free_of(rooms) == {"a": 5, "b": 4, "c": 7}


# -- the pool ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("configured", "expected"), [(None, 70 * GB - 10 * GB // 4), (5 * GB, 5 * GB)])
async def test_a_load_gets_what_was_reckoned_with(
    configured: int | None, expected: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker learns its model's share of each GPU: the free memory, within the limit, as in the estimate."""
    monkeypatch.setattr(memory_watch, "memory_available", lambda: 100 * GB)
    engine = with_gpus(Fitting, Device("CUDA0", 100 * GB, 70 * GB))
    monkeypatch.setattr(Fitting, "loads", [])
    pool = Pool(
        {"m": PoolModel(engine, ModelSpec("m", Options()), ModelLimits(), isolation="thread")},
        PoolLimits(memory=MemoryLimit(GB), gpu_memory=configured),
    )
    async with asyncio.timeout(GUARD):
        await pool.start()
        async with pool.submit(evolve(request("echo x"), model="m")) as stream:
            await stream.gather()
        [instance] = pool.status().instances
        spec = pool.planned("m", ModelSpec("m", Options()))
        await pool.close(grace=0)
    assert instance.devices == {"CUDA0": expected}
    assert engine.loads == [{"CUDA0": expected}]
    assert spec.device_memory == {"CUDA0": expected}


async def test_a_pool_counts_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that fit into main memory, but not into the GPU, take turns; status tells limit and use."""
    monkeypatch.setattr(memory_watch, "memory_available", lambda: 100 * GB)
    engine = with_gpus(GpuEngine, Device("CUDA0", 10 * GB, 10 * GB), a=6 * GB, b=5 * GB, c=3 * GB, big=10 * GB)
    models = {
        name: PoolModel(engine, ModelSpec(name, Options()), ModelLimits(), isolation="thread")
        for name in ("a", "b", "c", "big")
    }
    pool = Pool(models, PoolLimits(memory=MemoryLimit(GB), min_residency=0))
    loaded: list[list[str]] = []
    async with asyncio.timeout(GUARD):
        await pool.start()
        for name in ("a", "c", "b", "big"):
            async with pool.submit(evolve(request("echo x"), model=name)) as stream:
                if name == "big":
                    with pytest.raises(ModelTooLarge, match=r"the GPU 'CUDA0', of whose 10\.0 GB"):
                        await stream.gather()
                else:
                    await stream.gather()
            loaded.append(sorted(one.model for one in pool.status().instances))
        use = pool.status().memory
        held = {one.model: one.devices for one in pool.status().instances}
        await pool.close(grace=0)
    assert loaded == [["a"], ["a", "c"], ["b", "c"], ["b", "c"]]
    assert use is not None
    [gpu] = use.devices
    assert (gpu.name, gpu.total, gpu.limit, gpu.used) == ("CUDA0", 10 * GB, 9 * GB, 8 * GB)
    assert held == {"b": {"CUDA0": 5 * GB}, "c": {"CUDA0": 3 * GB}}


def test_an_estimate_tells_each_gpu() -> None:
    """Of several GPUs, each one's part is shown."""
    text = memory_text(Memory(10, device=3 * GB, devices={"CUDA0": 2 * GB, "CUDA1": GB}))
    assert text.endswith("in the memory of GPUs 3.0 GB (CUDA0 2.0 GB, CUDA1 1.0 GB)")
