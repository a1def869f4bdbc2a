"""Reserves room for the kept instances that are missing; pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from lllms_core.pool.budget import DeviceRoom, Need, Room, Seat, fits, used
from lllms_core.pool.fleet import Fleet, Kind, PlaceEntry

Lacking = Mapping[str, Sequence[tuple[str, Need]]]
"""By place: the models of kept instances that are missing, with the needs for which room is reserved there."""
Rooms = Callable[[PlaceEntry], Room]


Sizes = Mapping[Kind, Sequence[Need]]
"""By the kind of a place: what an instance of a model may need there, in descending order."""


def reserve(fleet: Fleet, models: Iterable[str], sizes_of: Callable[[str], Sizes], room_of: Rooms) -> Lacking:
    """Find a place for each missing instance that one of the models keeps: where most is left beside other kept ones.

    Those that can never fit are left out.
    """
    held = {
        name: [entry.need for entry in place.instances.values() if fleet.keeps(entry)]
        for name, place in fleet.places.items()
    }
    left = {name: (place.memory or 0) - used((), held[name]) for name, place in fleet.places.items()}
    found: dict[str, list[tuple[str, Need]]] = {}
    for model in [name for name in models if name in fleet.lacking]:
        sizes = sizes_of(model)
        for _ in range(-fleet.spare(model)):
            place = _reserve_one(fleet, sizes, held, left, room_of)
            if place is None:
                break
            name, size = place
            held[name].append(size)
            left[name] -= size.total
            found.setdefault(name, []).append((model, size))
    return found


def _reserve_one(
    fleet: Fleet, sizes: Sizes, held: Mapping[str, Sequence[Need]], left: Mapping[str, int], room_of: Rooms,
) -> tuple[str, Need] | None:
    """Return the place and the size of one kept instance beside those that are `held`; None if none fits."""
    if not left:
        return None
    roomiest = max(left, key=left.__getitem__)

    def fitting(name: str, rank: int) -> Need | None:
        place = fleet.places[name]
        size = sizes[place.kind][rank] if rank < len(sizes[place.kind]) else None
        if size is None:
            return None
        devices = room_of(place).devices if size.devices else {}
        return size if _together(size, held[name], place.memory, devices) else None

    for rank in range(max(map(len, sizes.values()))):
        if (size := fitting(roomiest, rank)) is not None:
            return roomiest, size
        for name in sorted(left, key=lambda name: -left[name]):
            if (size := fitting(name, rank)) is not None:
                return name, size
    return None


def _together(need: Need, others: Sequence[Need], limit: int | None, devices: Mapping[str, DeviceRoom]) -> bool:
    """Whether these fit beside each other, if there is nothing else."""
    seats = [Seat("", one, "reserved", kept=True) for one in others]
    room = Room(limit, len(seats) + 1, devices=devices)
    return fits(need, seats, room.undisturbed)
