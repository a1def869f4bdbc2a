"""Applies the budget to the pool: instances, kept instances that are missing, and the needs of models; pure."""

from collections.abc import Collection, Mapping, Sequence

from attrs import evolve

from lllms_core.engines.room import way_out
from lllms_core.pool.budget import Decision, Need, Never, Room, Seat, fits, to_drain, used
from lllms_core.pool.choosing import choose
from lllms_core.pool.state import InstanceEntry, MemoryLimit, ModelLimits, PoolLimits
from lllms_core.values.sizes import human_size

MOST_HOLDERS = 6
"""Instances that a message lists at most."""


class Seating:
    """Decides about room for instances. It reads the scheduler's table of them, which only the scheduler changes."""

    def __init__(
        self, models: Mapping[str, ModelLimits], limits: PoolLimits, instances: Mapping[str, InstanceEntry],
    ) -> None:
        self.needs: dict[str, Need] = {}
        """By model, as far as known; without a memory limit nobody asks for them."""
        self._models = models
        self._kept = [name for name, model in models.items() if model.min_instances > 0]
        self._memory = limits.memory
        self._room = Room(None if limits.memory is None else limits.memory.instances, limits.max_instances)
        self._instances = instances

    def alive(self, model: str) -> list[InstanceEntry]:
        """Return the instances of a model that are ready or loading."""
        return [i for i in self._instances.values() if i.model == model and i.state != "closing"]

    def spare(self, model: str) -> int:
        """Return how many instances a model has beyond those that it keeps; negative if it has too few."""
        return len(self.alive(model)) - self._models[model].min_instances

    def known(self, model: str) -> bool:
        """Whether the need of a model is known, or does not matter."""
        return self._memory is None or model in self.needs

    def need(self, model: str) -> Need:
        """Return the need of an instance of this model; nothing while unknown."""
        return self.needs.get(model, Need())

    @property
    def used(self) -> int:
        """The bytes of all instances, by estimates."""
        return used((), [entry.need for entry in self._instances.values()])

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
        return choose(self._wanted(model), self._seats(model, leaving, promised, staying), self._room)

    def _wanted(self, model: str) -> Need:
        """Return what the next instance of a model may need: all of its instances hold requests of the same length."""
        need = self.need(model)
        for entry in self.alive(model):
            for size in (need, *need.smaller):
                if size.memory == entry.need.memory:
                    return evolve(size, smaller=())
        return need

    def to_drain(
        self, model: str, leaving: Collection[str] = (), promised: Sequence[Need] = (), staying: Collection[str] = (),
    ) -> list[str]:
        """Return the instances to drain for a model: the same ones each time, until they are idle and make room.

        They go in the order in which they got their last requests, those that are `staying` last.
        """
        seats = self._seats(model, leaving, promised)
        need, _ = choose(self._wanted(model), seats, self._room)
        others = [seat for seat in seats if seat.state in {"ready", "loading"} and not seat.kept]
        order = sorted(
            (seat for seat in others if self._instances[seat.instance].model != model),
            key=lambda seat: (
                seat.instance in staying, seat.state == "loading", self._instances[seat.instance].used,
            ),
        )
        return [seat.instance for seat in to_drain(need, seats, order, self._room)]

    def too_large(self, model: str) -> str | None:
        """Return why an instance of a model can never be loaded; None if it can, or if nothing is known of it yet."""
        if self._memory is None or model not in self.needs:
            return None
        decision = self.decide(model)
        return too_large(self.need(model).least, decision.kept, self._memory) if isinstance(decision, Never) else None

    def shortage(self, model: str) -> str | None:
        """Return which memory is missing for an instance of a model, and who holds it; None if none is."""
        if self._memory is None or model not in self.needs or self.alive(model):
            return None
        seats, need = self._seats(model), self.need(model).least
        if fits(need, seats, evolve(self._room, places=len(seats) + 1)):
            return None
        free = max(0, self._memory.instances - used(seats))
        holders = [self._holder(seat) for seat in seats]
        more = [f"{len(holders) - MOST_HOLDERS} more"] if len(holders) > MOST_HOLDERS else []
        return (
            f"it needs about {human_size(need.total)} of memory, and of the {human_size(self._memory.instances)} for"
            f" instances (server.memory_limit) {human_size(free)} are free; the rest is held by"
            f" {', '.join([*holders[:MOST_HOLDERS], *more])}"
        )

    def _holder(self, seat: Seat) -> str:
        if seat.state == "reserved":
            return f"a kept instance that is to be loaded ({human_size(seat.need.total)})"
        entry = self._instances[seat.instance]
        state = "busy" if entry.running else "kept" if seat.kept else "idle" if entry.idle else entry.state
        return f"{entry.model} ({human_size(seat.need.total)}, {state})"

    def _seats(
        self, model: str, leaving: Collection[str] = (), promised: Sequence[Need] = (), staying: Collection[str] = (),
    ) -> list[Seat]:
        kept = {entry.id for name in self._kept for entry in self._held(name)}
        return [
            *(
                Seat(
                    entry.id, entry.need, "closing" if entry.id in leaving else entry.state,
                    # A model does not make room for itself.
                    busy=bool(entry.running) or entry.model == model or entry.id in staying,
                    kept=entry.id in kept, idle_since=entry.idle_since,
                )
                for entry in self._instances.values()
            ),
            *(Seat("", need, "reserved", kept=True) for other, need in self._lacking() if other != model),
            *(Seat("", need, "reserved") for need in promised),
        ]

    def _held(self, model: str) -> list[InstanceEntry]:
        """Return the instances that a model keeps: loading ones first, then busy, then idle ones, the latest first."""
        alive = self.alive(model)
        alive.sort(key=lambda i: (i.state == "ready", i.idle, -i.idle_since if i.idle else -i.used))
        return alive[: self._models[model].min_instances]

    def _lacking(self) -> list[tuple[str, Need]]:
        """Return model and need of each kept instance that is missing, except those that can never fit."""
        held = [entry.need for name in self._kept for entry in self._held(name)]
        found: list[tuple[str, Need]] = []
        for model in self._kept:
            for _ in range(-self.spare(model)):
                need = self.need(model)
                others = [*held, *(need for _, need in found)]
                for size in (need, *need.smaller):
                    if self._room.limit is None or used((), [*others, size]) <= self._room.limit:
                        found.append((model, size))
                        break
        return found


def too_large(need: Need, kept: int, memory: MemoryLimit) -> str:
    """Describe an instance that can never fit, and the way out."""
    machine = f" of this machine's {human_size(memory.machine)}" if memory.machine is not None else ""
    own = f", {human_size(memory.own)} of them for itself and its sessions" if memory.own else ""
    beside = f", {human_size(kept)} for models that are kept loaded (min_instances)" if kept else ""
    advice = "lower options.context_length or slots" if need.way_out is None else way_out(need.way_out)
    return (
        f"an instance needs about {human_size(need.total)} of memory, but lllms may use"
        f" {human_size(memory.total)}{machine}{own}{beside}; {advice}, or raise server.memory_limit"
    )
