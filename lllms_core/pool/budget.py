"""The memory budget: whether an instance may be loaded, and what must give way for it; pure.

Instances count with what they are told to need, or with what was measured if that is more. Mapped weights are shared by
the instances of one file and count once. Stored sessions give way first, then idle instances. The memory of each GPU
counts beside main memory, by what instances are told to need of it: nobody measures it.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal

from attrs import evolve, field, frozen

MOST_SETS = 10
"""Up to this many idle instances, all sets of victims are compared."""
FORGOTTEN = 60.0
"""Seconds that an instance must be idle longer than another for its reload to weigh half as much, see `costs`."""


@frozen
class Need:
    """The memory of one instance, in bytes."""

    private: int = 0
    shared: int = 0
    """Mapped weights."""
    file: Hashable | None = None
    """Instances with this file share the mapped weights; None: with no other."""
    memory: int | None = None
    """The `ModelSpec.memory` with which it is loaded."""
    device_memory: Mapping[str, int] | None = None
    """The `ModelSpec.device_memory` with which it is loaded."""
    smaller: tuple["Need", ...] = ()
    """Needs of the same model with less context, or fewer slots, in descending order; where these are automatic."""
    way_out: tuple[str, ...] | None = None
    """Options, in words, each of which would let it fit into the limit; None: it fits, or nobody has looked."""
    estimate: int | None = None
    """The private bytes by the estimate, if `private` is more because of what was learnt."""
    devices: Mapping[str, int] = field(factory=dict)
    """Bytes of the memory of GPUs, by their names; the other figures are about main memory."""

    @property
    def total(self) -> int:
        """What it takes alone of main memory."""
        return self.private + self.shared

    @property
    def least(self) -> "Need":
        """The smallest of its needs."""
        return self.smaller[-1] if self.smaller else self

    def raised(self, private: int) -> "Need":
        """Return the need of an instance that was seen to take this much private memory; never a smaller one."""
        return self if private <= self.private else evolve(self, private=private, estimate=self.told)

    @property
    def told(self) -> int:
        """The private bytes by the estimate, which also tell the sizes of a model apart."""
        return self.private if self.estimate is None else self.estimate


SeatState = Literal["loading", "ready", "closing", "reserved"]


@frozen
class Seat:
    """An instance, or room that is reserved for one, as the budget sees it."""

    instance: str
    need: Need
    state: SeatState
    """`closing`: its room will be free, but is not yet. `reserved`: nothing is there yet; if it is `kept`, nobody else
    gets that room, otherwise it is promised to a waiting model, from what is closing."""
    busy: bool = False
    kept: bool = False
    """Whether it may not be unloaded (`min_instances`)."""
    idle_since: float = 0.0
    reload: float = 1.0
    """Seconds that it would take to load it again."""
    taken: int | None = None
    """Private bytes that it was measured to take; None: not measured."""

    @property
    def private(self) -> int:
        """The private bytes that the machine has given it by now."""
        if self.taken is not None:
            return self.taken
        return self.need.private if self.state in {"ready", "closing"} else 0

    @property
    def held(self) -> Need:
        """The part of its need that the machine has given it by now."""
        shared = self.need.shared if self.state in {"ready", "closing"} else 0
        return Need(min(self.private, self.need.private), shared, self.need.file)


@frozen
class DeviceRoom:
    """What all instances together may take of the memory of one GPU, in bytes."""

    total: int
    limit: int
    usable: int | None = None
    """What other programs leave of it, whatever the limit says; None: unknown."""


@frozen
class Room:
    """What all instances together may take."""

    limit: int | None
    """Bytes; None: no limit."""
    most: int
    """The most instances."""
    sessions: int = 0
    """Bytes of stored sessions, which are within the limit and give way."""
    firm: int = 0
    """What of `sessions` could not be given up."""
    available: int | None = None
    """Bytes that the machine can give now, whatever the limit says; None: unknown."""
    devices: Mapping[str, DeviceRoom] = field(factory=dict)
    """GPUs by their names; one that is not among them has no limit."""

    @property
    def undisturbed(self) -> "Room":
        """This room without the memory that other programs hold."""
        return evolve(
            self, available=None, devices={name: evolve(one, usable=None) for name, one in self.devices.items()},
        )


@frozen
class Admit:
    """There is room: load it."""


@frozen
class Shrink:
    """Give up this many bytes of stored sessions; then there is room."""

    size: int


@frozen
class Evict:
    """Unload these idle instances; once they are gone there is room, perhaps after a `Shrink`."""

    instances: tuple[str, ...]


@frozen
class Wait:
    """Wait for instances that are closing, loading, or busy, or for memory that other programs hold (`machine`)."""

    reason: Literal["closing", "loading", "busy", "machine"]


@frozen
class Never:
    """It does not fit beside what is kept, even if all else is unloaded."""

    kept: int
    """Bytes of what is kept."""
    device: str | None = None
    """The GPU whose memory lacks, and of which `kept` tells; None: it is main memory."""


Decision = Admit | Shrink | Evict | Wait | Never


def used(seats: Iterable[Seat], wanted: Iterable[Need] = ()) -> int:
    """Return the bytes that these take together."""
    return _sum([*(seat.need for seat in seats), *wanted])


def lacking(wanted: Need, seats: Collection[Seat], room: Room, gone: Iterable[Seat] = ()) -> int:
    """Return how many bytes are missing for `wanted` beside `seats`, once `gone` have given back theirs.

    What the machine has yet to give to `seats` is theirs; but memory that other programs hold is not kept for instances
    that wait for it.
    """
    missing = [0]
    if room.limit is not None:
        missing.append(used(seats, [wanted]) + room.sessions - room.limit)
    if room.available is not None:
        free = room.available + sum(seat.private for seat in gone)
        real = [seat for seat in seats if seat.state != "reserved" or not seat.kept]
        missing.append(used(real, [wanted]) - _sum([seat.held for seat in real]) - free)
    return max(missing)


def on_device(device: str, seats: Iterable[Seat], wanted: Iterable[Need] = ()) -> int:
    """Return the bytes of a GPU's memory that these take together."""
    return sum(need.devices.get(device, 0) for need in (*(seat.need for seat in seats), *wanted))


def scarce(wanted: Need, seats: Collection[Seat], room: Room) -> list[str]:
    """Return the GPUs that have too little memory for `wanted` beside all `seats`."""
    if not wanted.devices:
        return []
    real = [seat for seat in seats if seat.state != "reserved" or not seat.kept]
    found: list[str] = []
    for name, needed in wanted.devices.items():
        one = room.devices.get(name)
        if one is None or not needed:
            continue
        others_leave = one.limit if one.usable is None else one.usable
        if on_device(name, seats, [wanted]) > one.limit or on_device(name, real, [wanted]) > others_leave:
            found.append(name)
    return found


def fits(wanted: Need, seats: Collection[Seat], room: Room, gone: Iterable[Seat] = ()) -> bool:
    """Whether there is room for `wanted` beside all `seats`, once `gone` have given back theirs."""
    return len(seats) < room.most and not lacking(wanted, seats, room, gone) and not scarce(wanted, seats, room)


def decide(wanted: Need, seats: Sequence[Seat], room: Room) -> Decision:
    """Decide what to do for an instance that needs `wanted`.

    Stored sessions give way first. Victims are idle and not kept: the cheapest set that suffices, see `costs`. Only the
    limits make a `Never`: what exceeds `most`, or finds its memory held by other programs, waits.
    """
    lasting = [seat for seat in seats if seat.state != "closing"]
    closing = [seat for seat in seats if seat.state == "closing"]
    here = [seat for seat in seats if seat.state != "reserved" or seat.kept]
    if fits(wanted, here, room) and fits(wanted, lasting, room, closing):
        return Admit()
    if never := _never(wanted, [seat for seat in seats if seat.kept], room):
        return never
    shrunk = _without_sessions(room)
    if fits(wanted, lasting, shrunk, closing):
        size = max(lacking(wanted, here, room), lacking(wanted, lasting, room, closing))
        return Shrink(size) if fits(wanted, here, shrunk) else Wait("closing")
    idle = [seat for seat in lasting if _may_go(seat)]
    if victims := _victims(wanted, lasting, idle, shrunk, closing):
        return Evict(tuple(seat.instance for seat in victims))
    if _others_hold(wanted, lasting, shrunk) or _others_hold(wanted, lasting, shrunk, closing, away=lasting):
        return Wait("machine")  # also if that much would be missing without all that can be unloaded
    return Wait("loading" if any(seat.state == "loading" for seat in seats) else "busy")


def to_shed(seats: Sequence[Seat], limit: int) -> Sequence[Seat]:
    """Return the idle instances to unload because all together have grown above the limit.

    That is the cheapest set that suffices, or all if none does; sessions have nothing left by then.
    """
    lasting = [seat for seat in seats if seat.state in {"loading", "ready"}]
    room = Room(limit, len(seats) + 1)
    if fits(Need(), lasting, room):
        return ()
    idle = [seat for seat in lasting if _may_go(seat)]
    return _victims(Need(), lasting, idle, room) or idle


def to_drain(wanted: Need, seats: Sequence[Seat], oldest: Sequence[Seat], room: Room) -> Sequence[Seat]:
    """Return those of `oldest` that must go, once they are idle, to make room for `wanted`.

    `oldest` are in the order in which they should go. If none suffice it is all of them that have what is missing,
    unless only other programs are in the way: their memory may never come back.
    """
    lasting = [seat for seat in seats if seat.state != "closing"]
    closing = [seat for seat in seats if seat.state == "closing"]
    room = _without_sessions(room)
    if victims := _victims_in_order(wanted, lasting, oldest, room, closing):
        return victims
    if _others_hold(wanted, lasting, room, closing, away=oldest):
        return ()
    if len(lasting) >= room.most:
        return oldest
    less, short = lacking(wanted, lasting, room, closing), scarce(wanted, lasting, room)
    return [
        seat for seat in oldest
        if (less and seat.need.total) or any(seat.need.devices.get(name) for name in short)
    ]


def costs(idle: Sequence[Seat]) -> dict[int, float]:
    """Return the cost of unloading each of these, by its place.

    It is the time of its reload, weighted by how likely that is needed: half for one that has been idle `FORGOTTEN`
    seconds longer than the last used of them, a third for twice as long. So among equals the least recently used goes.
    """
    last = max((seat.idle_since for seat in idle), default=0.0)
    return {
        place: max(seat.reload, 0.001) * FORGOTTEN / (FORGOTTEN + last - seat.idle_since)
        for place, seat in enumerate(idle)
    }


def _never(wanted: Need, kept: Sequence[Seat], room: Room) -> Never | None:
    if room.limit is not None and used(kept, [wanted]) > room.limit:
        return Never(used(kept))
    if devices := scarce(wanted, kept, room.undisturbed):
        return Never(on_device(devices[0], kept), devices[0])
    return None


def _may_go(seat: Seat) -> bool:
    return seat.state == "ready" and not seat.busy and not seat.kept


def _others_hold(
    wanted: Need, seats: Sequence[Seat], room: Room, closing: Sequence[Seat] = (), away: Sequence[Seat] = (),
) -> bool:
    """Whether only other programs are in the way, once those seats that are `away` and not kept have left."""
    leaving = [seat for seat in away if not seat.kept]
    rest = _without(seats, leaving)
    gone = [*closing, *(seat for seat in leaving if seat.state != "reserved")]
    return fits(wanted, rest, room.undisturbed) and not fits(wanted, rest, room, gone)


def _without_sessions(room: Room) -> Room:
    """Return the room once all sessions have been given up that can be."""
    freed = max(0, room.sessions - room.firm)
    available = None if room.available is None else room.available + freed
    return evolve(room, sessions=room.sessions - freed, available=available)


def _victims(
    wanted: Need, seats: Sequence[Seat], idle: Sequence[Seat], room: Room, closing: Sequence[Seat] = (),
) -> Sequence[Seat]:
    """Return the cheapest of the `idle` seats that suffice; the least recently used come first. Empty if none do."""
    if not fits(wanted, _without(seats, idle), room, [*closing, *idle]):
        return ()
    order = sorted(idle, key=lambda seat: seat.idle_since)
    price = costs(order)
    if len(idle) > MOST_SETS:
        cheapest = [order[place] for place in sorted(price, key=price.__getitem__)]
        return _victims_in_order(wanted, seats, cheapest, room, closing)
    places = [some for count in range(1, len(order) + 1) for some in combinations(range(len(order)), count)]
    for some in sorted(places, key=lambda some: sum(price[place] for place in some)):
        victims = [order[place] for place in some]
        if fits(wanted, _without(seats, victims), room, [*closing, *victims]):
            return victims
    return ()


def _victims_in_order(
    wanted: Need, seats: Sequence[Seat], order: Sequence[Seat], room: Room, closing: Sequence[Seat] = (),
) -> Sequence[Seat]:
    """Return the first of `order` that suffice, without those that a later one makes needless; empty if none do."""
    victims: list[Seat] = []
    for seat in order:
        victims.append(seat)
        if fits(wanted, _without(seats, victims), room, [*closing, *victims]):
            break
    else:
        return ()
    for seat in list(reversed(victims)):
        fewer = [one for one in victims if one is not seat]
        if fits(wanted, _without(seats, fewer), room, [*closing, *fewer]):
            victims = fewer
    return victims


def _without(seats: Sequence[Seat], some: Collection[Seat]) -> list[Seat]:
    gone = {id(seat) for seat in some}
    return [seat for seat in seats if id(seat) not in gone]


def _sum(needs: Sequence[Need]) -> int:
    shared: dict[Hashable, int] = {}
    alone = 0
    for need in needs:
        alone += need.private
        if need.file is None:
            alone += need.shared
        else:
            shared[need.file] = max(need.shared, shared.get(need.file, 0))
    return alone + sum(shared.values())
