"""Describes the places of a pool; pure."""

from collections.abc import Iterator

from lllms_core.pool.attendance import Attendance
from lllms_core.pool.fleet import Fleet, PlaceEntry
from lllms_core.pool.seating import on_devices
from lllms_core.status import DeviceUse, PlaceState, PlaceStatus

DOUBTED = "an instance was lost with it just now; it is tried again within seconds"
"""Why a place gets no instances that its placement still counts as there."""


def place_statuses(fleet: Fleet, attendance: Attendance, now: float) -> Iterator[PlaceStatus]:
    """Yield the places that are used, then those that are not, and those that were lost a moment ago."""
    for place, entry in fleet.places.items():
        seconds = now - attendance.since.get(place, now)
        doubted = place in fleet.doubted
        barred = [f"none of {model}: {why}" for (model, name), (_, why) in fleet.bars.items() if name == place]
        yield _status(
            entry, "avoided" if doubted else "used", DOUBTED if doubted else "; ".join(barred), seconds,
        )
    for one in attendance.unused(now):
        yield _status(PlaceEntry(one.place), one.state, one.reason, now - one.since)


def _status(entry: PlaceEntry, state: PlaceState, problem: str, seconds: float) -> PlaceStatus:
    place, taken = entry.place, on_devices(entry.instances.values())
    return PlaceStatus(
        place.id, place.name, len(entry.instances), place.cores, place.memory, entry.used,
        tuple(
            DeviceUse(name, room.total, room.limit, taken.get(name, 0), room.usable)
            for name, room in entry.devices.items()
        ),
        place.disk, state, problem, seconds,
    )
