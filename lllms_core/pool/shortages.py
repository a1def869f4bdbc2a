"""Why there is no memory for an instance, in words; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.engines.room import way_out
from lllms_core.pool.budget import DeviceRoom, Need, Never, Room, Seat, lacking, on_device, scarce, used
from lllms_core.pool.fleet import PlaceEntry
from lllms_core.pool.state import InstanceEntry, MemoryLimit
from lllms_core.values.sizes import human_size

MOST_HOLDERS = 6
"""Instances that a message lists at most."""


Instances = Mapping[str, InstanceEntry]


def shortage(need: Need, seats: Sequence[Seat], room: Room, instances: Instances) -> str:
    """Describe which memory lacks for an instance beside `seats`, and which of the `instances` hold it."""
    if not lacking(need, seats, room):
        return _shortage_on(scarce(need, seats, room)[0], need, seats, room, instances)
    needs = f"it needs about {human_size(need.total)} of memory"
    if not lacking(need, seats, room.undisturbed):
        free = human_size(max(0, room.available or 0))
        return f"{needs}, and this machine has only {free} free now; other programs hold the rest"
    limit = room.limit or 0
    free = human_size(max(0, limit - used(seats) - room.sessions))
    stored = [f"stored sessions ({human_size(room.sessions)})"] if room.sessions else []
    return (
        f"{needs}, and of the {human_size(limit)} for instances (server.memory_limit) {free} are"
        f" free; the rest is held by {', '.join([*_holders(seats, instances), *stored])}"
    )


def _shortage_on(device: str, need: Need, seats: Sequence[Seat], room: Room, instances: Instances) -> str:
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
        f" {', '.join(_holders(there, instances, device))}"
    )


def _holders(seats: Sequence[Seat], instances: Instances, device: str | None = None) -> list[str]:
    holders = [_holder(seat, instances, device) for seat in seats]
    more = [f"{len(holders) - MOST_HOLDERS} more"] if len(holders) > MOST_HOLDERS else []
    return [*holders[:MOST_HOLDERS], *more]


def _holder(seat: Seat, instances: Instances, device: str | None) -> str:
    size = human_size(seat.need.total if device is None else seat.need.devices[device])
    if seat.state == "reserved":
        return f"a kept instance that is to be loaded ({size})"
    entry = instances[seat.instance]
    state = "busy" if entry.running else "kept" if seat.kept else "idle" if entry.idle else entry.state
    return f"{entry.model} ({size}, {state})"


def never_fits(need: Need, memory: MemoryLimit, devices: Mapping[str, DeviceRoom]) -> str:
    """Return why an instance can never be loaded, even if there is no other; "" if it can."""
    for name, size in need.devices.items():
        if name in devices and size > devices[name].limit:
            return too_large_for(name, need, 0, devices[name])
    return too_large(need, 0, memory) if need.total > memory.instances else ""


def fits_nowhere(places: Sequence[tuple[PlaceEntry, Need]]) -> str:
    """Return why an instance can never be loaded at any place, even if there is no other; "" if it can.

    Each place comes with what the instance needs there.
    """
    found = [(place, need, _never(place, need)) for place, need in places]
    if not found or any(never is None for _, _, never in found):
        return ""
    place, need, never = max(found, key=lambda one: one[0].memory or 0)
    assert never is not None  # noqa: S101  # as for all of them
    return too_large_everywhere(need, never, place.place.name, place.memory or 0, place.devices)


def _never(place: PlaceEntry, need: Need) -> Never | None:
    if place.memory is not None and need.total > place.memory:
        return Never(0)
    full = [name for name, size in need.devices.items() if name in place.devices and size > place.devices[name].limit]
    return Never(0, full[0]) if full else None


def too_large_for(device: str, need: Need, kept: int, room: DeviceRoom) -> str:
    """Describe an instance that can never fit into the memory of a GPU, and the way out."""
    beside = f", {human_size(kept)} of them for models that are kept loaded (min_instances)" if kept else ""
    return (
        f"an instance needs about {human_size(need.devices[device])} of the memory of the GPU '{device}', of whose"
        f" {human_size(room.total)} lllms may use {human_size(room.limit)}{beside}; {_advice(need)}, or raise"
        " server.gpu_memory_limit"
    )


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


def too_large_everywhere(need: Need, never: Never, place: str, limit: int, devices: Mapping[str, DeviceRoom]) -> str:
    """Describe an instance that fits at no place; `place` gives its instances the most memory, `limit`."""
    kept, device = never.kept, never.device
    beside = f", {human_size(kept)} of them for models that are kept loaded (min_instances)" if kept else ""
    if device is not None:
        return (
            f"an instance needs about {human_size(need.devices[device])} of the memory of a GPU, and {place}, which has"
            f" the most memory, gives its instances {human_size(devices[device].limit)} of '{device}'{beside};"
            f" {_advice(need)}, or add a machine with a larger one"
        )
    return (
        f"an instance needs about {human_size(need.total)} of memory, and {place}, which has the most, gives its"
        f" instances {human_size(limit)}{beside}; {_advice(need)}, or add a larger machine"
    )


def _advice(need: Need) -> str:
    return "lower options.context_length or slots" if need.way_out is None else way_out(need.way_out)
