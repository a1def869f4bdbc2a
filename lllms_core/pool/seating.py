"""Applies the budget to the pool: instances at their places, kept ones that are missing, and needs of models; pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import nsmallest

from attrs import Factory, define, evolve

from lllms_core.placements import LOCAL
from lllms_core.pool.budget import (
    Decision,
    Need,
    Never,
    Room,
    Seat,
    Wait,
    decide,
    fits,
    to_drain,
    to_shed,
    used,
)
from lllms_core.pool.choosing import PlaceChoice, choose
from lllms_core.pool.fleet import Fleet, Kind, PlaceEntry
from lllms_core.pool.known_needs import HERE, KnownNeeds, Size
from lllms_core.pool.reserving import Lacking, Sizes, reserve
from lllms_core.pool.residency import Stays
from lllms_core.pool.shortages import shortage, too_large, too_large_everywhere, too_large_for
from lllms_core.pool.state import ALONE, InstanceEntry, ModelLimits, PoolChange, PoolLimits, Surroundings

AFTER_DEATH, MOST_AFTER_DEATHS = 1.25, 2.0
"""A model whose worker died for lack of memory counts for this many times its need; after several deaths, for at most
this many times what it was told to need, or measured to take."""
MOST_DRAINED = 3
"""Of several places, this many are looked at closely for instances to drain."""


def _leaves(_: InstanceEntry) -> bool:
    return False


@define
class RoomPlan:
    """What is decided so far for models without an instance, in the order of their claims."""

    leaving: set[str] = Factory(set)
    """Instances that will make room as soon as they may, and are idle."""
    promised: dict[str, list[Need]] = Factory(dict)
    """By place: the needs of the models that wait for it; that is theirs."""
    stays: Stays = _leaves
    """Which instances make no room yet, even if they are idle."""

    def promise(self, choice: PlaceChoice) -> None:
        """What is becoming free there is for this instance."""
        self.promised.setdefault(choice.place, []).append(choice.need)


NO_PLAN = RoomPlan()


class Seating(KnownNeeds):
    """Decides about room for instances. It reads the fleet, which only the scheduler changes."""

    def __init__(
        self, models: Mapping[str, ModelLimits], limits: PoolLimits, fleet: Fleet,
        look: Callable[[], Surroundings] = lambda: ALONE,
    ) -> None:
        super().__init__()
        self._models = models
        self._limits = limits
        self._fleet = fleet
        self._look = look
        self._reserved: tuple[int, Lacking] = (-1, {})
        """What `_lacking` returned last, and `Fleet.version` then."""
        self._complete: dict[str, int] = {}
        """The models whose needs are all known, and `Fleet.version` when that was found."""
        self.firm = 0
        """Bytes of stored sessions that could not be given up."""

    def alive(self, model: str) -> Collection[InstanceEntry]:
        """Return the instances of a model that are ready or loading."""
        return self._fleet.alive(model)

    def spare(self, model: str) -> int:
        """Return how many instances a model has beyond those that it keeps; negative if it has too few."""
        return self._fleet.spare(model)

    def known(self, model: str) -> bool:
        """Whether the needs of a model are known at all places, or do not matter."""
        if self._complete.get(model) == self._fleet.version:
            return True
        known = not self.unknown(model)
        if known:
            self._complete[model] = self._fleet.version
        return known

    def forget(self, model: str) -> None:
        """Forget a model's need: its files may have changed."""
        super().forget(model)
        self._complete.pop(model, None)

    def unknown(self, model: str) -> Sequence[Size]:
        """Return what is to be found out before the next instance of a model gets its place."""
        if not self._fleet.limited:
            return ()
        known, held = self.needs.get(model, {}), self._held_size(model)
        found = [Size(kind) for kind in self._fleet.kinds if Size(kind) not in known]
        if held is None:
            return found
        return found + [
            Size(kind, held) for kind in self._fleet.kinds
            if Size(kind) in known and Size(kind, held) not in known and kind != LOCAL
            and all(need.memory != held for need in (known[Size(kind)], *known[Size(kind)].smaller))
        ]

    def _held_size(self, model: str) -> int | None:
        """Return the `ModelSpec.memory` of the instances of a model; None: there are none, or it does not matter."""
        return next((entry.need.memory for entry in self.alive(model)), None)

    def learn(self, model: str, told: int, private: int, load_seconds: float | None = None) -> None:
        """Count the next instances of a model with what is known of earlier ones; see `KnownNeeds`."""
        super().learn(model, told, private, load_seconds)
        self._reserved = (-1, {})

    def reconfigure(self, change: PoolChange) -> None:
        """Take the limits of a new configuration; the models' table has its models by now."""
        self._limits = change.limits
        for model in {*self.needs, *self._learnt, *self.load_seconds}:
            if model not in self._models or model in change.fresh:
                self.forget(model)
        if change.measure:
            self.needs.clear()
            self._complete.clear()

    def measured(self, entry: InstanceEntry, private: int) -> bool:
        """Record what an instance takes; return whether it counts for more than before."""
        entry.measured = private
        if entry.model in self.fixed or entry.need.raised(private) == entry.need:
            return False
        self._fleet.grown(entry, entry.need.raised(private))
        return True

    def after_death(self, entry: InstanceEntry) -> int:
        """Return the private bytes for which a model counts once its instance died for lack of memory.

        Never more than all instances at its place may take: then it is loaded when nothing else is.
        """
        least = max(entry.need.private, entry.measured or 0)
        raised = int(least * AFTER_DEATH)
        known = max(entry.told.told, entry.measured or 0)
        raised = max(least, min(raised, int(known * MOST_AFTER_DEATHS)))
        place = self._fleet.places[entry.place]
        if place.memory is None:
            return raised
        seats = self.seats(place, entry.model, NO_PLAN, self._lacking())
        own = {one.id for one in self._fleet.all(entry.model)}
        kept = [seat.need for seat in seats if seat.kept and seat.instance not in own]
        room = place.memory - used((), [*kept, evolve(entry.need, private=0)])
        return max(least, min(raised, room))

    @property
    def used(self) -> int:
        """The bytes of all instances, as told or measured."""
        return sum(place.used for place in self._fleet.places.values())

    @property
    def on_devices(self) -> dict[str, int]:
        """The bytes of all instances on this machine's GPUs, by these, as told."""
        return on_devices(self._local)

    @property
    def settled_on_devices(self) -> dict[str, int] | None:
        """The same, if each instance has by now what it needs of GPUs; else None."""
        moving = any(entry.state != "ready" and entry.need.devices for entry in self._local)
        return None if moving else self.on_devices

    @property
    def _local(self) -> Collection[InstanceEntry]:
        """The instances on this machine."""
        place = self._fleet.places.get(LOCAL)
        return () if place is None else place.instances.values()

    @property
    def several(self) -> bool:
        """Whether there are several places."""
        return len(self._fleet.places) > 1

    def keeps(self, entry: InstanceEntry) -> bool:
        """Whether an instance is one that its model keeps."""
        return self._fleet.keeps(entry)

    def decide(self, model: str) -> Decision:
        """Decide about room for one more instance of a model, see `choose`."""
        return self.choose(model).decision

    def choose(self, model: str, plan: RoomPlan = NO_PLAN) -> PlaceChoice:
        """Decide about room for one more instance of a model, where it goes, and its size if that is automatic."""
        return self._choose(model, self._in_order(model), plan)

    def may_fit(self, model: str) -> bool:
        """Whether an instance of a model can ever be loaded at a place where nothing bars its files."""
        places = [place for name, place in self._fleet.places.items() if (model, name) not in self._fleet.bars]
        return bool(places) and not isinstance(self._choose(model, places, NO_PLAN).decision, Never)

    def _choose(self, model: str, places: Sequence[PlaceEntry], plan: RoomPlan) -> PlaceChoice:
        if not places:
            return PlaceChoice("", Need(), Wait("busy"))
        return choose(self._options(model, places, plan))

    def _options(self, model: str, places: Sequence[PlaceEntry], plan: RoomPlan) -> "list[_Option]":
        lacking, sizes = self._lacking(), self._sizes(model)
        return [_Option(self, place, model, plan, lacking, sizes[place.kind]) for place in places]

    def _in_order(self, model: str) -> Sequence[PlaceEntry]:
        """Return the places for one more instance: first who has its file, then most memory left, then the emptiest."""
        places = self._fleet.open_to(model)
        if len(places) > 1:
            places.sort(key=lambda one: (model not in one.files, -one.left, len(one.instances)))
        return places

    def _sizes(self, model: str) -> Sizes:
        """Return what the next instance may need: all of a model's instances hold requests of the same length."""
        return {kind: self._size_of_others(model, kind) or sizes for kind, sizes in self._all_sizes(model).items()}

    def _all_sizes(self, model: str) -> Sizes:
        """Return what an instance may need, if it is the first."""
        needs = {kind: self.need(model, Size(kind)) for kind in self._fleet.kinds}
        return {kind: (need, *need.smaller) for kind, need in needs.items()}

    def _size_of_others(self, model: str, kind: Kind) -> Sequence[Need]:
        """Return the need of an instance like the others of a model; nothing if there are no others."""
        need = self.need(model, Size(kind))
        for entry in self.alive(model):
            for size in (need, *need.smaller):
                if size.memory == entry.need.memory:
                    return (evolve(size, smaller=()) if size.smaller else size,)
        held = Size(kind, self._held_size(model))
        return (self.need(model, held),) if held.memory is not None and held in self.needs.get(model, {}) else ()

    def to_shed(self) -> list[str]:
        """Return the idle instances to unload because all at a place have together grown above its limit."""
        if not self._fleet.over:
            return []
        lacking = self._lacking()
        places = [self._fleet.places[place] for place in sorted(self._fleet.over)]
        return [
            seat.instance for place in places
            for seat in to_shed(self.seats(place, "", NO_PLAN, lacking), place.memory or 0)
        ]

    @property
    def left(self) -> int | None:
        """The bytes that instances leave to sessions on this machine; None: no limit."""
        place = self._fleet.places.get(LOCAL)
        return None if place is None or place.memory is None else max(0, place.left)

    def kept_sessions(self) -> None:
        """Record that the sessions left cannot be given up."""
        self.firm = self._look().sessions

    def to_drain(self, model: str, plan: RoomPlan) -> Sequence[InstanceEntry]:
        """Return the instances to drain for a model: the same ones each time, until they are idle and make room.

        They go in the order in which they got their last requests, those that are staying last; of several places those
        at the one whose last of them was used the longest ago.
        """
        places = self._in_order(model)
        if len(places) > 1:
            places = self._likely_to_drain(places, model, plan)
        options = self._options(model, places, evolve(plan, stays=_leaves))
        found = [drained for option in options if (drained := self._to_drain(option, plan))]
        return min(found, key=lambda drained: max(entry.used for entry in drained), default=())

    def _likely_to_drain(self, places: Sequence[PlaceEntry], model: str, plan: RoomPlan) -> Sequence[PlaceEntry]:
        """Return a few places where instances could be drained: those whose requests are the longest ago."""
        ages: list[tuple[float, PlaceEntry]] = []
        for place in places:
            used = [
                entry.used for entry in place.instances.values()
                if entry.model != model and entry.state != "closing" and entry.id not in plan.leaving
                and not entry.retired and not self._fleet.keeps(entry) and not plan.stays(entry)
            ]
            if used:
                ages.append((min(used), place))
        return [place for _, place in nsmallest(MOST_DRAINED, ages, key=lambda one: one[0])]

    def _to_drain(self, option: "_Option", plan: RoomPlan) -> Sequence[InstanceEntry]:
        need, seats, model = choose([option]).need, option.seats, option.model
        others = [seat for seat in seats if seat.state in {"ready", "loading"} and not seat.kept]
        entries = self._fleet.instances
        order = sorted(
            (seat for seat in others if entries[seat.instance].model != model),
            key=lambda seat: (
                plan.stays(entries[seat.instance]), seat.state == "loading", entries[seat.instance].used,
            ),
        )
        return [entries[seat.instance] for seat in to_drain(need, seats, order, self.room(option.entry))]

    def too_large(self, model: str) -> str | None:
        """Return why an instance of a model can never be loaded; None if it can, or if nothing is known of it yet."""
        if model not in self.needs or not self.known(model) or not self._fleet.places:
            return None
        options = self._options(model, [*self._fleet.places.values()], NO_PLAN)
        choice = choose(options)
        if not isinstance(choice.decision, Never):
            return None
        largest = max(options, key=lambda option: option.entry.memory or 0)
        need, place = largest.needs[-1], largest.entry
        there = largest.decide(need)
        never = there if isinstance(there, Never) else choice.decision
        if never.device is not None and not self.several:
            return too_large_for(never.device, need, never.kept, self.room(place).devices[never.device])
        if self._limits.memory is not None and place.id == LOCAL:
            return too_large(need, never.kept, self._limits.memory, self.needs[model][HERE].least)
        return too_large_everywhere(need, never, place.place.name, place.memory or 0, place.devices)

    def shortage(self, model: str) -> str | None:
        """Return which memory is missing for an instance of a model, and who holds it; None if none is."""
        if model not in self.needs or self.alive(model) or not self._fleet.limited or not self.known(model):
            return None
        lacking, sizes = self._lacking(), self._sizes(model)
        texts: list[str] = []
        for place in self._in_order(model):
            need = sizes[place.kind][-1]
            seats = self.seats(place, model, NO_PLAN, lacking)
            room = evolve(self.room(place), most=len(seats) + 1)
            if fits(need, seats, room):
                return None
            if not texts:  # the first has most memory left
                texts.append(shortage(need, seats, room, self._fleet.instances))
        return texts[0] if texts else None

    def room(self, place: PlaceEntry) -> Room:
        """Return what all instances at a place may take."""
        limit, most = place.memory, self._limits.max_instances
        if place.id != LOCAL:
            return Room(limit, most, devices=place.devices)
        if limit is None:
            return Room(None, most)
        now = self._look()
        self.firm = min(self.firm, now.sessions)
        return Room(limit, most, now.sessions, self.firm, now.available, now.devices)

    def seats(
        self, place: PlaceEntry, model: str, plan: RoomPlan, lacking: Lacking,
    ) -> list[Seat]:
        """Return the instances at a place, and what is reserved and promised there, as one more of a model sees it."""
        return [
            *(
                Seat(
                    entry.id, entry.need, "closing" if entry.id in plan.leaving or entry.retired else entry.state,
                    # A model does not make room for itself.
                    busy=bool(entry.running) or entry.model == model or plan.stays(entry),
                    kept=self._fleet.keeps(entry), idle_since=entry.idle_since,
                    reload=self.reload_seconds(entry.model, entry.need), taken=entry.measured,
                )
                for entry in place.instances.values()
            ),
            *(Seat("", need, "reserved", kept=True) for other, need in lacking.get(place.id, ()) if other != model),
            *(Seat("", need, "reserved") for need in plan.promised.get(place.id, ())),
        ]

    def _lacking(self) -> Lacking:
        """Return model and need of each kept instance that is missing, by the place where its room is reserved.

        Those that can never fit are left out.
        """
        if not self._fleet.lacking:
            return {}
        if not self.several:
            return reserve(self._fleet, self._models, self._all_sizes, self.room)
        version, known = self._reserved
        if version != self._fleet.version:
            known = reserve(self._fleet, self._models, self._all_sizes, self.room)
            self._reserved = self._fleet.version, known
        return known


def on_devices(entries: Collection[InstanceEntry]) -> dict[str, int]:
    """Return the bytes of instances at one place on its GPUs, by these, as told."""
    found: dict[str, int] = {}
    for entry in entries:
        for name, size in entry.need.devices.items():
            found[name] = found.get(name, 0) + size
    return found


@define
class _Option:
    """A place for one more instance of a model."""

    _seating: Seating
    entry: PlaceEntry
    model: str
    _plan: RoomPlan
    _lacking: Lacking
    needs: Sequence[Need]
    _known: list[Seat] | None = None

    @property
    def place(self) -> str:
        return self.entry.id

    @property
    def seats(self) -> list[Seat]:
        if self._known is None:
            self._known = self._seating.seats(self.entry, self.model, self._plan, self._lacking)
        return self._known

    def decide(self, need: Need) -> Decision:
        room = self._seating.room(self.entry)
        if self._seating.several and self._is_crowded(need, room):
            return Wait("busy")
        return decide(need, self.seats, room)

    def _is_crowded(self, need: Need, room: Room) -> bool:
        """Whether it is plain that nothing can make room: then the seats need not be looked at one by one."""
        entry = self.entry
        full = len(entry.instances) >= room.most or (room.limit is not None and entry.used + need.private > room.limit)
        return full and need.total <= (room.limit or 0) and not need.devices and all(
            one.running and not one.retired and one.id not in self._plan.leaving and not self._seating.keeps(one)
            for one in entry.instances.values()
        )
