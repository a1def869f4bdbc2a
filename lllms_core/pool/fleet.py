"""All instances, found by their model and by their place, so that an event looks only at those that it concerns.

Every change of an instance goes through here. `touched` and `moved` tell those who derive something from instances
what has changed.
"""

from collections.abc import Collection, Hashable, Mapping
from types import MappingProxyType

from attrs import Factory, define

from lllms_core.placements import LOCAL, Place
from lllms_core.pool.budget import DeviceRoom, Need, used
from lllms_core.pool.state import InstanceEntry, ModelLimits, Ticket

NO_DEVICES: Mapping[str, DeviceRoom] = MappingProxyType({})


KIND_BITS = 6
"""Places are of one kind if the first binary digits of their memory, this many, are equal: twins differ by less."""

Kind = Hashable
"""Of a place: models need the same memory at all places of one kind."""


def kind_of(place: Place, devices: Mapping[str, DeviceRoom]) -> Kind:
    """Return the kind of a place."""
    if place.id == LOCAL:
        return LOCAL
    return rough(place.memory), tuple(sorted((name, room.limit) for name, room in devices.items()))


def rough(memory: int | None) -> int | None:
    """Return the memory of the smallest place of a kind."""
    if memory is None:
        return None
    bits = max(0, memory.bit_length() - KIND_BITS)
    return memory >> bits << bits


@define(eq=False)
class PlaceEntry:
    """A place and its instances."""

    place: Place
    devices: Mapping[str, DeviceRoom] = NO_DEVICES
    """The memory of its GPUs, by their names."""
    kind: Kind = None
    instances: dict[str, InstanceEntry] = Factory(dict)
    working: dict[str, InstanceEntry] = Factory(dict)
    """Those that are busy, in the order in which they became so."""
    files: set[str] = Factory(set)
    """The models whose files are known to be there: they were found or fetched, or an instance was loaded from them."""
    used: int = 0
    """The bytes that its instances count for, mapped weights once."""

    @property
    def id(self) -> str:
        """That of the place."""
        return self.place.id

    @property
    def memory(self) -> int | None:
        """The bytes that its instances may take together; None: no limit."""
        return self.place.memory

    @property
    def left(self) -> int:
        """The bytes that its instances leave of these; 0 without a limit."""
        return 0 if self.place.memory is None else self.place.memory - self.used

    @property
    def over(self) -> bool:
        """Whether its instances count for more than they may take."""
        return self.place.memory is not None and self.used > self.place.memory


@define(eq=False)
class _Group:
    """The instances of one model with its present configuration, by their ids, in the order of their loads."""

    all: dict[str, InstanceEntry] = Factory(dict)
    alive: dict[str, InstanceEntry] = Factory(dict)
    """Ready or loading."""
    free: dict[str, InstanceEntry] = Factory(dict)
    """Ready, with a free slot."""
    loading: int = 0
    held: frozenset[str] | None = None
    """Those that the model keeps; None: not known since the last change."""


_NONE = _Group()


class Fleet:
    """The instances, the places, and their indexes."""

    def __init__(self, models: Mapping[str, ModelLimits]) -> None:
        self.instances: dict[str, InstanceEntry] = {}
        """By id, in the order of their loads."""
        self.places: dict[str, PlaceEntry] = {}
        self.touched: set[str] = set()
        """The models of which an instance has changed; who derives something from these removes them."""
        self.moved: set[str] = set()
        """The instances that have become busy or idle; likewise."""
        self.version = 0
        """Counts the changes of what instances and places count for."""
        self.limited = False
        """Whether the memory of a place has a limit."""
        self.reliefs = 0
        """Counts the changes that may have made room for another instance."""
        self.retired: dict[str, InstanceEntry] = {}
        """The instances with a former configuration: they count at their places, but not for their models."""
        self.lacking = {name for name, model in models.items() if model.min_instances > 0}
        """The models with fewer instances than they keep."""
        self.doubted: dict[str, float] = {}
        """Until when places get no new instances, because one was lost with them, as it seemed."""
        self.kinds: dict[Kind, str] = {}
        """By kind: one of its places."""
        self.fetching: dict[str, set[str]] = {}
        """By model: the places that look for its files, or fetch them."""
        self.bars: dict[tuple[str, str], tuple[float, str]] = {}
        """By model and place: until when it is not loaded there, because its files could not be brought, and why."""
        self.over: set[str] = set()
        """The places whose instances count for more than they may take."""
        self._crews: set[str] = set()
        """The places whose working instances have changed since `take_crews`."""
        self.loading = self.closing = 0
        """The numbers of such instances."""
        self._models = models
        self._groups: dict[str, _Group] = {}
        """Of models with instances."""

    # -- questions ----------------------------------------------------------------------------------------------------

    def alive(self, model: str) -> Collection[InstanceEntry]:
        """Return the instances of a model that are ready or loading, with its present configuration."""
        return self._group(model).alive.values()

    def all(self, model: str) -> Collection[InstanceEntry]:
        """Return all instances of a model, those that are being unloaded included."""
        return self._group(model).all.values()

    def free(self, model: str) -> Collection[InstanceEntry]:
        """Return the instances of a model that have a free slot."""
        return self._group(model).free.values()

    def slots(self, model: str) -> int:
        """Return the number of requests that the instances of a model can run at once."""
        return sum(entry.slots for entry in self.alive(model))

    def begun(self, model: str) -> int:
        """Return how many instances of a model are being loaded, or have their files fetched for that."""
        return self._group(model).loading + self.fetches(model)

    def count(self, model: str) -> int:
        """Return how many instances a model has, with those for which its files are being fetched."""
        return len(self._group(model).all) + self.fetches(model)

    def fetches(self, model: str) -> int:
        """Return at how many places the files of a model are being looked for, or fetched."""
        return len(self.fetching[model]) if model in self.fetching else 0

    def ready(self, model: str) -> int:
        """Return how many instances of a model are ready."""
        group = self._group(model)
        return len(group.alive) - group.loading

    def slots_of_one(self, model: str) -> int:
        """Return how many requests an instance of a model can run at once; 1 before one is ready."""
        return next((entry.slots for entry in self.alive(model) if entry.state == "ready"), 1)

    def open_to(self, model: str) -> list[PlaceEntry]:
        """Return the places where an instance of a model may be loaded now, if there is room."""
        group = self._group(model)
        begun = {entry.place for entry in group.alive.values() if entry.state == "loading"} if group.loading else set()
        begun.update(self.fetching.get(model, ()))
        return [
            place for name, place in self.places.items()
            if name not in self.doubted and name not in begun and (model, name) not in self.bars
        ]

    def spare(self, model: str) -> int:
        """Return how many instances a model has beyond those that it keeps; negative if it has too few."""
        return len(self._group(model).alive) - self._models[model].min_instances

    def held(self, model: str) -> frozenset[str]:
        """Return the instances that a model keeps: loading ones first, then busy, then idle ones, the latest first."""
        group = self._group(model)
        if group.held is None:
            order = sorted(
                group.alive.values(), key=lambda i: (i.state == "ready", i.idle, -i.idle_since if i.idle else -i.used),
            )
            group.held = frozenset(entry.id for entry in order[: self._models[model].min_instances])
        return group.held

    def keeps(self, entry: InstanceEntry) -> bool:
        """Whether an instance is one that its model keeps."""
        if entry.retired:
            return False
        return self._models[entry.model].min_instances > 0 and entry.id in self.held(entry.model)

    def take_crews(self) -> list[PlaceEntry]:
        """Return the places whose working instances have changed since the last call."""
        found = [self.places[place] for place in self._crews if place in self.places]
        self._crews.clear()
        return found

    # -- changes ------------------------------------------------------------------------------------------------------

    def arrive(self, place: Place, devices: Mapping[str, DeviceRoom] = NO_DEVICES) -> None:
        """A place is there, or its facts have changed; `devices` are the memory of its GPUs."""
        entry = self.places.setdefault(place.id, PlaceEntry(place))
        entry.place, entry.devices, entry.kind = place, devices, kind_of(place, devices)
        self.kinds = {entry.kind: name for name, entry in self.places.items()}
        self._reopen(place.id)
        self.limited = self.limited or place.memory is not None
        self.recount(place.id)
        self._crews.add(place.id)
        self.reliefs += 1

    def depart(self, place: str) -> None:
        """A place is gone, with all that was known of it; its instances have been removed."""
        del self.places[place]
        self.kinds = {entry.kind: name for name, entry in self.places.items()}
        self.version += 1
        self.over.discard(place)
        self._reopen(place)
        for model in list(self.fetching):
            self.fetched(model, place)

    def _reopen(self, place: str) -> None:
        """What spoke against a place may be over."""
        self.doubted.pop(place, None)
        for key in [key for key in self.bars if key[1] == place]:
            del self.bars[key]

    def trust(self, now: float) -> None:
        """End the doubts and the bars whose time is over."""
        for place in [place for place, until in self.doubted.items() if until <= now]:
            del self.doubted[place]
        for key in [key for key, (until, _) in self.bars.items() if until <= now]:
            del self.bars[key]

    def fetch(self, model: str, place: str) -> None:
        """The files of a model are looked for at a place, and fetched there if need be."""
        self.fetching.setdefault(model, set()).add(place)

    def fetched(self, model: str, place: str, *, here: bool = False) -> bool:
        """That has ended, and they are `here`, or not; return False if nobody expects that any more."""
        places = self.fetching.get(model, set())
        if place not in places:
            return False
        places.discard(place)
        if not places:
            del self.fetching[model]
        if here:
            self.places[place].files.add(model)
        return True

    def forget_files(self, model: str) -> None:
        """The files of a model are others now: no place is known to have them, and each may get them."""
        self.fetching.pop(model, None)
        self.unbar(model)
        for place in self.places.values():
            place.files.discard(model)

    def unbar(self, model: str) -> None:
        """Try to get the files of a model at all places again."""
        for key in [key for key in self.bars if key[0] == model]:
            del self.bars[key]

    def add(self, entry: InstanceEntry) -> None:
        """An instance is being loaded."""
        group = self._groups.setdefault(entry.model, _Group())
        self.instances[entry.id] = group.all[entry.id] = group.alive[entry.id] = entry
        self.places[entry.place].instances[entry.id] = entry
        self.recount(entry.place)
        group.loading += 1
        self.loading += 1
        self._touch(entry, group)

    def loaded(self, entry: InstanceEntry, slots: int, now: float) -> None:
        """An instance is ready for requests."""
        group = self._groups[entry.model]
        if entry.state == "loading":
            group.loading -= 1
            self.loading -= 1
        entry.state, entry.slots, entry.ready_since, entry.idle_since = "ready", slots, now, now
        group.free[entry.id] = entry
        if len(entry.running) >= slots:
            del group.free[entry.id]
        self.places[entry.place].files.add(entry.model)
        self.reliefs += 1
        self._touch(entry, group)

    def retire(self, entry: InstanceEntry) -> None:
        """An instance has a former configuration from now on."""
        group = self._group(entry.model)
        entry.retired = True
        self.version += 1
        self.retired[entry.id] = entry
        group.loading -= entry.state == "loading"
        for index in (group.all, group.alive, group.free):
            index.pop(entry.id, None)
        self._touch(entry, group)

    def close(self, entry: InstanceEntry) -> None:
        """An instance is being unloaded."""
        group = self._group(entry.model)
        if entry.state == "loading":
            group.loading -= not entry.retired
            self.loading -= 1
        entry.state = "closing"
        self.closing += 1
        self.version += 1
        group.alive.pop(entry.id, None)
        group.free.pop(entry.id, None)
        self.reliefs += 1
        self._touch(entry, group)

    def remove(self, instance: str) -> InstanceEntry:
        """An instance is gone; return it."""
        entry = self.instances.pop(instance)
        group = self._group(entry.model)
        self.retired.pop(instance, None)
        group.all.pop(instance, None)
        group.alive.pop(instance, None)
        group.free.pop(instance, None)
        if entry.state == "loading":
            group.loading -= not entry.retired
            self.loading -= 1
        self.closing -= entry.state == "closing"
        place = self.places[entry.place]
        del place.instances[instance]
        if place.working.pop(instance, None) is not None:
            self._crews.add(entry.place)
        self.recount(entry.place)
        self.reliefs += 1
        self._touch(entry, group)
        if not group.all:
            self._groups.pop(entry.model, None)
        return entry

    def take(self, entry: InstanceEntry, ticket: Ticket, now: float) -> None:
        """An instance gets a request."""
        group = self._groups[entry.model]
        if not entry.running:
            self.places[entry.place].working[entry.id] = entry
            self._crews.add(entry.place)
        entry.running[ticket.id] = ticket
        entry.used = now
        entry.ttl = ticket.ttl
        if len(entry.running) >= entry.slots:
            group.free.pop(entry.id, None)
        self._touch(entry, group)

    def finish(self, entry: InstanceEntry, ticket: str, now: float) -> None:
        """A request has left an instance."""
        group = self._group(entry.model)
        del entry.running[ticket]
        if entry.state == "ready" and not entry.retired:
            group.free[entry.id] = entry
        if not entry.running:
            entry.idle_since = now
            self.places[entry.place].working.pop(entry.id, None)
            self._crews.add(entry.place)
            self.reliefs += 1
        self._touch(entry, group)

    def grown(self, entry: InstanceEntry, need: Need) -> None:
        """An instance counts for more."""
        entry.need = need
        self.recount(entry.place)
        self._touch(entry, self._group(entry.model))

    def reconfigure(self) -> None:
        """The models' table has the models of a new configuration."""
        self.lacking = {name for name, model in self._models.items() if self.spare(name) < 0 < model.min_instances}
        self.touched.update(self._models, self._groups)
        for group in self._groups.values():
            group.held = None

    def changed(self, entry: InstanceEntry) -> None:
        """Anything else of an instance has changed, such as how long it may be idle."""
        self._touch(entry, self._groups[entry.model])

    def recount(self, place: str) -> None:
        """What the instances at a place count for, or may take, has changed."""
        entry = self.places[place]
        self.version += 1
        entry.used = used((), [one.need for one in entry.instances.values()])
        (self.over.add if entry.over else self.over.discard)(place)

    def _group(self, model: str) -> _Group:
        return self._groups.get(model, _NONE)

    def _touch(self, entry: InstanceEntry, group: _Group) -> None:
        group.held = None
        self.touched.add(entry.model)
        self.moved.add(entry.id)
        if entry.retired or entry.model not in self._models:
            return
        kept = self._models[entry.model].min_instances
        if kept and len(group.alive) < kept:
            self.lacking.add(entry.model)
        elif kept:
            self.lacking.discard(entry.model)
