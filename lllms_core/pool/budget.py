"""The memory budget: whether an instance may be loaded, and what must be unloaded for it; pure.

The budget counts estimates, not measured use. Mapped weights are shared by the instances of one file and count once.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from itertools import combinations
from typing import Literal

from attrs import frozen

MOST_SETS = 10
"""Up to this many idle instances, all sets of victims are compared."""


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
    smaller: tuple["Need", ...] = ()
    """Needs of the same model with less context, or fewer slots, in descending order; where these are automatic."""
    way_out: tuple[str, ...] | None = None
    """Options, in words, each of which would let it fit into the limit; None: it fits, or nobody has looked."""

    @property
    def total(self) -> int:
        """What it takes alone."""
        return self.private + self.shared

    @property
    def least(self) -> "Need":
        """The smallest of its needs."""
        return self.smaller[-1] if self.smaller else self


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


@frozen
class Room:
    """What all instances together may take."""

    limit: int | None
    """Bytes; None: no limit."""
    places: int
    """The most instances."""


@frozen
class Admit:
    """There is room: load it."""


@frozen
class Evict:
    """Unload these idle instances; once they are gone there is room."""

    instances: tuple[str, ...]


@frozen
class Wait:
    """Wait for instances that are closing, loading, or busy."""

    reason: Literal["closing", "loading", "busy"]


@frozen
class Never:
    """It does not fit beside what is kept, even if all else is unloaded."""

    kept: int
    """Bytes of what is kept."""


Decision = Admit | Evict | Wait | Never


def used(seats: Iterable[Seat], wanted: Iterable[Need] = ()) -> int:
    """Return the bytes that these take together."""
    return _sum([*(seat.need for seat in seats), *wanted])


def fits(wanted: Need, seats: Collection[Seat], room: Room) -> bool:
    """Whether there is room for `wanted` beside all `seats`."""
    return len(seats) < room.places and (room.limit is None or used(seats, [wanted]) <= room.limit)


def decide(wanted: Need, seats: Sequence[Seat], room: Room) -> Decision:
    """Decide what to do for an instance that needs `wanted`.

    Victims are idle and not kept: as few as suffice, and among sets of this size the least recently used. Only memory
    makes a `Never`: what exceeds the `places` waits.
    """
    lasting = [seat for seat in seats if seat.state != "closing"]
    here = [seat for seat in seats if seat.state != "reserved" or seat.kept]
    if fits(wanted, here, room) and fits(wanted, lasting, room):
        return Admit()
    kept = [seat for seat in seats if seat.kept]
    if room.limit is not None and used(kept, [wanted]) > room.limit:
        return Never(used(kept))
    if fits(wanted, lasting, room):
        return Wait("closing")
    idle = [seat for seat in lasting if seat.state == "ready" and not seat.busy and not seat.kept]
    if victims := _victims(wanted, lasting, sorted(idle, key=lambda seat: seat.idle_since), room):
        return Evict(tuple(seat.instance for seat in victims))
    return Wait("loading" if any(seat.state == "loading" for seat in seats) else "busy")


def to_drain(wanted: Need, seats: Sequence[Seat], oldest: Sequence[Seat], room: Room) -> Sequence[Seat]:
    """Return those of `oldest` that must go, once they are idle, to make room for `wanted`; all if none suffice.

    `oldest` are in the order in which they should go.
    """
    return _victims_in_order(wanted, [seat for seat in seats if seat.state != "closing"], oldest, room) or oldest


def _victims(wanted: Need, seats: Sequence[Seat], idle: Sequence[Seat], room: Room) -> Sequence[Seat]:
    """Return the cheapest of the `idle` seats that suffice; the least recently used come first. Empty if none do."""
    if len(idle) > MOST_SETS:
        return _victims_in_order(wanted, seats, idle, room)
    for count in range(1, len(idle) + 1):
        sets = [one for one in combinations(idle, count) if fits(wanted, _without(seats, one), room)]
        if sets:
            return min(sets, key=lambda one: [seat.idle_since for seat in reversed(one)])
    return ()


def _victims_in_order(wanted: Need, seats: Sequence[Seat], order: Sequence[Seat], room: Room) -> Sequence[Seat]:
    """Return the first of `order` that suffice, without those that a later one makes needless; empty if none do."""
    victims: list[Seat] = []
    for seat in order:
        victims.append(seat)
        if fits(wanted, _without(seats, victims), room):
            break
    else:
        return ()
    for seat in list(reversed(victims)):
        fewer = [one for one in victims if one is not seat]
        if fits(wanted, _without(seats, fewer), room):
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
