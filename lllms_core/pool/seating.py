"""Applies the budget to the pool: instances, kept instances that are missing, and the needs of models; pure."""

from collections.abc import Callable, Collection, Mapping, Sequence

from attrs import evolve

from lllms_core.engines.room import way_out
from lllms_core.pool.budget import (
    Decision,
    DeviceRoom,
    Need,
    Never,
    Room,
    Seat,
    fits,
    lacking,
    on_device,
    scarce,
    to_drain,
    to_shed,
    used,
)
from lllms_core.pool.choosing import choose
from lllms_core.pool.state import (
    ALONE,
    InstanceEntry,
    MemoryLimit,
    ModelLimits,
    PoolChange,
    PoolLimits,
    Surroundings,
)
from lllms_core.values.sizes import human_size

MOST_HOLDERS = 6
"""Instances that a message lists at most."""
LOAD_START, LOAD_SPEED = 1.0, 2**30
"""The assumed time of a load that was never measured: seconds to start a worker, and bytes per second after that."""
AFTER_DEATH, MOST_AFTER_DEATHS = 1.25, 2.0
"""A model whose worker died for lack of memory counts for this many times its need; after several deaths, for at most
this many times what it was told to need, or measured to take."""


class Seating:
    """Decides about room for instances. It reads the scheduler's table of them, which only the scheduler changes."""

    def __init__(
        self, models: Mapping[str, ModelLimits], limits: PoolLimits, instances: Mapping[str, InstanceEntry],
        look: Callable[[], Surroundings] = lambda: ALONE,
    ) -> None:
        self.needs: dict[str, Need] = {}
        """By model, as estimated or configured, as far as known; without a memory limit nobody asks for them."""
        self.fixed: set[str] = set()
        """Models whose need is configured: whatever is measured, they count for that."""
        self._learnt: dict[str, dict[int, int]] = {}
        """By model, and by what its instances are told to need: the private bytes that they are known to take."""
        self.load_seconds: dict[str, float] = {}
        """By model: the time that its loads took."""
        self._models = models
        self._kept = kept_models(models)
        self._memory = limits.memory
        self._places = limits.max_instances
        self._instances = instances
        self._look = look
        self.firm = 0
        """Bytes of stored sessions that could not be given up."""

    def alive(self, model: str) -> list[InstanceEntry]:
        """Return the instances of a model that are ready or loading, with its present configuration."""
        return [
            i for i in self._instances.values() if i.model == model and i.state != "closing" and not i.retired
        ]

    def spare(self, model: str) -> int:
        """Return how many instances a model has beyond those that it keeps; negative if it has too few."""
        return len(self.alive(model)) - self._models[model].min_instances

    def known(self, model: str) -> bool:
        """Whether the need of a model is known, or does not matter."""
        return self._memory is None or model in self.needs

    def need(self, model: str) -> Need:
        """Return what an instance of this model counts for; nothing while unknown."""
        need = self.needs.get(model, Need())
        if model in self.fixed:
            return need
        learnt = self._learnt.get(model, {})
        smaller = tuple(one.raised(learnt.get(one.told, 0)) for one in need.smaller)
        return evolve(need.raised(learnt.get(need.told, 0)), smaller=smaller)

    def learn(self, model: str, told: int, private: int, load_seconds: float | None = None) -> None:
        """Count the next instances of a model that are `told` to need that much with what is known of earlier ones.

        What is learnt only raises a need.
        """
        known = self._learnt.setdefault(model, {})
        known[told] = max(private, known.get(told, 0))
        if load_seconds is not None:
            self.load_seconds[model] = load_seconds

    def forget(self, model: str) -> None:
        """Forget a model's need: its files may have changed."""
        self.needs.pop(model, None)
        self._learnt.pop(model, None)
        self.load_seconds.pop(model, None)

    def reconfigure(self, change: PoolChange) -> None:
        """Take the limits of a new configuration; the models' table has its models by now."""
        self._kept[:] = kept_models(self._models)
        self._memory, self._places = change.limits.memory, change.limits.max_instances
        for model in {*self.needs, *self._learnt, *self.load_seconds}:
            if model not in self._models or model in change.fresh:
                self.forget(model)
        if change.measure:
            self.needs.clear()

    def measured(self, entry: InstanceEntry, private: int) -> bool:
        """Record what an instance takes; return whether it counts for more than before."""
        entry.measured = private
        if entry.model in self.fixed or entry.need.raised(private) == entry.need:
            return False
        entry.need = entry.need.raised(private)
        return True

    def after_death(self, entry: InstanceEntry) -> int:
        """Return the private bytes for which a model counts once its instance died for lack of memory.

        Never more than all instances together may take: then it is loaded when nothing else is.
        """
        least = max(entry.need.private, entry.measured or 0)
        raised = int(least * AFTER_DEATH)
        known = max(entry.told.told, entry.measured or 0)
        raised = max(least, min(raised, int(known * MOST_AFTER_DEATHS)))
        if self._memory is None:
            return raised
        kept = [self.need(name) for name in self._kept if name != entry.model for _ in range(self._min(name))]
        room = self._memory.instances - used((), [*kept, evolve(entry.need, private=0)])
        return max(least, min(raised, room))

    @property
    def used(self) -> int:
        """The bytes of all instances, as told or measured."""
        return used((), [entry.need for entry in self._instances.values()])

    @property
    def on_devices(self) -> dict[str, int]:
        """The bytes of all instances on GPUs, by these, as told."""
        found: dict[str, int] = {}
        for entry in self._instances.values():
            for name, size in entry.need.devices.items():
                found[name] = found.get(name, 0) + size
        return found

    @property
    def settled_on_devices(self) -> dict[str, int] | None:
        """The same, if each instance has by now what it needs of GPUs; else None."""
        moving = any(entry.state != "ready" and entry.need.devices for entry in self._instances.values())
        return None if moving else self.on_devices

    def decide(
        self, model: str, leaving: Collection[str] = (), promised: Sequence[Need] = (), staying: Collection[str] = (),
    ) -> Decision:
        """Decide about room for one more instance of a model, see `choose`."""
        return self.choose(model, leaving, promised, staying)[1]

    def choose(
        self, model: str, leaving: Collection[str] = (), promised: Sequence[Need] = (), staying: Collection[str] = (),
    ) -> tuple[Need, Decision]:
        """Decide about room for one more instance of a model, and about its size if that is automatic.

        `leaving` are the instances that are drained for others; what these were `promised` is theirs. Those that are
        `staying` make no room, even if they are idle.
        """
        return choose(self._wanted(model), self._seats(model, leaving, promised, staying), self._room())

    def _wanted(self, model: str) -> Need:
        """Return what the next instance of a model may need: all of its instances hold requests of the same length."""
        need = self.need(model)
        for entry in self.alive(model):
            for size in (need, *need.smaller):
                if size.memory == entry.need.memory:
                    return evolve(size, smaller=())
        return need

    def to_shed(self) -> list[str]:
        """Return the idle instances to unload because all together have grown above the limit."""
        if self._memory is None or self.used <= self._memory.instances:
            return []
        return [seat.instance for seat in to_shed(self._seats(""), self._memory.instances)]

    @property
    def left(self) -> int | None:
        """The bytes that instances leave to sessions; None: no limit."""
        return None if self._memory is None else max(0, self._memory.instances - self.used)

    def kept_sessions(self) -> None:
        """Record that the sessions left cannot be given up."""
        self.firm = self._look().sessions

    def to_drain(
        self, model: str, leaving: Collection[str] = (), promised: Sequence[Need] = (), staying: Collection[str] = (),
    ) -> list[str]:
        """Return the instances to drain for a model: the same ones each time, until they are idle and make room.

        They go in the order in which they got their last requests, those that are `staying` last.
        """
        seats = self._seats(model, leaving, promised)
        need, _ = choose(self._wanted(model), seats, self._room())
        others = [seat for seat in seats if seat.state in {"ready", "loading"} and not seat.kept]
        order = sorted(
            (seat for seat in others if self._instances[seat.instance].model != model),
            key=lambda seat: (
                seat.instance in staying, seat.state == "loading", self._instances[seat.instance].used,
            ),
        )
        return [seat.instance for seat in to_drain(need, seats, order, self._room())]

    def too_large(self, model: str) -> str | None:
        """Return why an instance of a model can never be loaded; None if it can, or if nothing is known of it yet."""
        if self._memory is None or model not in self.needs:
            return None
        decision = self.decide(model)
        if not isinstance(decision, Never):
            return None
        need = self.need(model).least
        if decision.device is not None:
            return too_large_for(decision.device, need, decision.kept, self._look().devices[decision.device])
        return too_large(need, decision.kept, self._memory, self.needs[model].least)

    def shortage(self, model: str) -> str | None:
        """Return which memory is missing for an instance of a model, and who holds it; None if none is."""
        if self._memory is None or model not in self.needs or self.alive(model):
            return None
        seats, need, room = self._seats(model), self.need(model).least, self._room()
        room = evolve(room, places=len(seats) + 1)
        if fits(need, seats, room):
            return None
        if not lacking(need, seats, room):
            return self._shortage_on(scarce(need, seats, room)[0], need, seats, room)
        needs = f"it needs about {human_size(need.total)} of memory"
        if not lacking(need, seats, room.undisturbed):
            free = human_size(max(0, room.available or 0))
            return f"{needs}, and this machine has only {free} free now; other programs hold the rest"
        free = human_size(max(0, self._memory.instances - used(seats) - room.sessions))
        stored = [f"stored sessions ({human_size(room.sessions)})"] if room.sessions else []
        return (
            f"{needs}, and of the {human_size(self._memory.instances)} for instances (server.memory_limit) {free} are"
            f" free; the rest is held by {', '.join([*self._holders(seats), *stored])}"
        )

    def _shortage_on(self, device: str, need: Need, seats: Sequence[Seat], room: Room) -> str:
        """Describe the missing memory of a GPU."""
        one, taken = room.devices[device], on_device(device, seats)
        needs = f"it needs about {human_size(need.devices[device])} of the memory of the GPU '{device}'"
        if device not in scarce(need, seats, room.undisturbed):
            free = human_size(max(0, (one.usable or 0) - taken))
            return f"{needs}, and that has only {free} free now; other programs hold the rest"
        there = [seat for seat in seats if seat.need.devices.get(device)]
        return (
            f"{needs}, and of the {human_size(one.limit)} for instances there (server.gpu_memory_limit)"
            f" {human_size(max(0, one.limit - taken))} are free; the rest is held by"
            f" {', '.join(self._holders(there, device))}"
        )

    def _holders(self, seats: Sequence[Seat], device: str | None = None) -> list[str]:
        holders = [self._holder(seat, device) for seat in seats]
        more = [f"{len(holders) - MOST_HOLDERS} more"] if len(holders) > MOST_HOLDERS else []
        return [*holders[:MOST_HOLDERS], *more]

    def _holder(self, seat: Seat, device: str | None) -> str:
        size = human_size(seat.need.total if device is None else seat.need.devices[device])
        if seat.state == "reserved":
            return f"a kept instance that is to be loaded ({size})"
        entry = self._instances[seat.instance]
        state = "busy" if entry.running else "kept" if seat.kept else "idle" if entry.idle else entry.state
        return f"{entry.model} ({size}, {state})"

    def _room(self) -> Room:
        if self._memory is None:
            return Room(None, self._places)
        now = self._look()
        self.firm = min(self.firm, now.sessions)
        return Room(self._memory.instances, self._places, now.sessions, self.firm, now.available, now.devices)

    def _seats(
        self, model: str, leaving: Collection[str] = (), promised: Sequence[Need] = (), staying: Collection[str] = (),
    ) -> list[Seat]:
        kept = {entry.id for name in self._kept for entry in self._held(name)}
        return [
            *(
                Seat(
                    entry.id, entry.need, "closing" if entry.id in leaving or entry.retired else entry.state,
                    # A model does not make room for itself.
                    busy=bool(entry.running) or entry.model == model or entry.id in staying,
                    kept=entry.id in kept, idle_since=entry.idle_since, reload=self._reload(entry),
                    taken=entry.measured,
                )
                for entry in self._instances.values()
            ),
            *(Seat("", need, "reserved", kept=True) for other, need in self._lacking() if other != model),
            *(Seat("", need, "reserved") for need in promised),
        ]

    def _reload(self, entry: InstanceEntry) -> float:
        return self.load_seconds.get(entry.model, LOAD_START + entry.need.total / LOAD_SPEED)

    def _min(self, model: str) -> int:
        return self._models[model].min_instances

    def _held(self, model: str) -> list[InstanceEntry]:
        """Return the instances that a model keeps: loading ones first, then busy, then idle ones, the latest first."""
        alive = self.alive(model)
        alive.sort(key=lambda i: (i.state == "ready", i.idle, -i.idle_since if i.idle else -i.used))
        return alive[: self._min(model)]

    def _lacking(self) -> list[tuple[str, Need]]:
        """Return model and need of each kept instance that is missing, except those that can never fit."""
        held = [entry.need for name in self._kept for entry in self._held(name)]
        found: list[tuple[str, Need]] = []
        for model in self._kept:
            for _ in range(-self.spare(model)):
                need = self.need(model)
                others = [*held, *(need for _, need in found)]
                for size in (need, *need.smaller):
                    if self._memory is None or _together(size, others, self._memory.instances, self._look().devices):
                        found.append((model, size))
                        break
        return found


def kept_models(models: Mapping[str, ModelLimits]) -> list[str]:
    """Return the models that keep instances."""
    return [name for name, model in models.items() if model.min_instances > 0]


def _together(need: Need, others: Sequence[Need], limit: int, devices: Mapping[str, DeviceRoom]) -> bool:
    """Whether these fit beside each other, if there is nothing else."""
    seats = [Seat("", one, "reserved", kept=True) for one in others]
    room = Room(limit, len(seats) + 1, devices=devices)
    return fits(need, seats, room.undisturbed)


def never_fits(need: Need, memory: MemoryLimit, devices: Mapping[str, DeviceRoom]) -> str:
    """Return why an instance can never be loaded, even if there is no other; "" if it can."""
    for name, size in need.devices.items():
        if name in devices and size > devices[name].limit:
            return too_large_for(name, need, 0, devices[name])
    return too_large(need, 0, memory) if need.total > memory.instances else ""


def too_large_for(device: str, need: Need, kept: int, room: DeviceRoom) -> str:
    """Describe an instance that can never fit into the memory of a GPU, and the way out."""
    beside = f", {human_size(kept)} of them for models that are kept loaded (min_instances)" if kept else ""
    return (
        f"an instance needs about {human_size(need.devices[device])} of the memory of the GPU '{device}', of whose"
        f" {human_size(room.total)} lllms may use {human_size(room.limit)}{beside}; {_advice(need)}, or raise"
        " server.gpu_memory_limit"
    )


def _advice(need: Need) -> str:
    return "lower options.context_length or slots" if need.way_out is None else way_out(need.way_out)


def too_large(need: Need, kept: int, memory: MemoryLimit, told: Need | None = None) -> str:
    """Describe an instance that can never fit, and the way out; `told` is its need before anything was measured."""
    machine = f" of this machine's {human_size(memory.machine)}" if memory.machine is not None else ""
    own = f", {human_size(memory.own)} of them for itself" if memory.own else ""
    beside = f", {human_size(kept)} for models that are kept loaded (min_instances)" if kept else ""
    grown = f" (as measured; {human_size(told.total)} by the estimate)" if told is not None and told != need else ""
    return (
        f"an instance needs about {human_size(need.total)} of memory{grown}, but lllms may use"
        f" {human_size(memory.total)}{machine}{own}{beside}; {_advice(need)}, or raise server.memory_limit"
    )
