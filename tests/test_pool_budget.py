"""The decisions of the memory budget, without a scheduler."""

from collections.abc import Sequence
from itertools import combinations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.pool.budget import (
    MOST_SETS,
    Admit,
    Decision,
    DeviceRoom,
    Evict,
    Need,
    Never,
    Room,
    Seat,
    Shrink,
    Wait,
    costs,
    decide,
    fits,
    lacking,
    on_device,
    to_drain,
    to_shed,
    used,
)

TEN = Room(10, 99)


def idle(name: str, private: int, since: float = 0.0, **other: object) -> Seat:
    return evolve(Seat(name, Need(private), "ready", idle_since=since), **other)


def busy(name: str, private: int, **other: object) -> Seat:
    return idle(name, private, busy=True, **other)


def shares(name: str, private: int, shared: int, since: float = 0.0) -> Seat:
    return idle(name, 0, since, need=Need(private, shared, "file"))


def wants(private: int, *seats: Seat, room: Room = TEN) -> Decision:
    return decide(Need(private), seats, room)


def test_what_fits_exactly_is_admitted() -> None:
    """An instance that takes the last byte is admitted, one byte more is not."""
    assert wants(4, busy("a", 6)) == Admit()
    assert wants(5, busy("a", 6)) == Wait("busy")
    assert wants(11) == Never(0)


def test_without_a_limit_only_places_count() -> None:
    """With no memory limit, any need fits while there are places."""
    room = Room(None, 2)
    assert wants(10**15, busy("a", 10**15), room=room) == Admit()
    assert wants(1, idle("a", 1, 2), idle("b", 1, 1), room=room) == Evict(("b",))
    assert wants(1, busy("a", 1), busy("b", 1), room=room) == Wait("busy")


def test_the_least_recently_used_goes() -> None:
    """Room for two of three: the one that has been idle longest is unloaded, and nothing else."""
    assert wants(5, idle("a", 5, 2), idle("b", 5, 1)) == Evict(("b",))


def test_one_large_rather_than_three_small() -> None:
    """As few as suffice are unloaded, even if others have been idle for longer."""
    small = [idle(f"s{number}", 2, number) for number in range(3)]
    assert wants(6, *small, idle("large", 4, 9)) == Evict(("large", "s0")[::-1])
    assert wants(4, *small, idle("large", 4, 9)) == Evict(("large",))


def test_a_victim_that_frees_too_little_is_spared() -> None:
    """The least recently used one stays if unloading it would not help."""
    assert wants(7, idle("tiny", 1, 0), idle("big", 8, 5)) == Evict(("big",))


def test_many_idle_instances_are_decided_too() -> None:
    """Beyond `MOST_SETS` idle instances the oldest go that suffice, and none that a later one makes needless."""
    seats = [idle(f"s{number}", 1, number) for number in range(MOST_SETS)]
    room = Room(MOST_SETS + 20, 99)
    assert decide(Need(20), [*seats, idle("large", 20, 99)], room) == Evict(("large",))


def test_kept_and_busy_ones_are_no_victims() -> None:
    """Neither a kept nor a busy instance is unloaded, however long ago it was used."""
    assert wants(6, idle("kept", 4, 0, kept=True), busy("busy", 1), idle("a", 4, 5)) == Wait("busy")
    assert wants(5, idle("kept", 4, 0, kept=True), busy("busy", 1), idle("a", 4, 5)) == Evict(("a",))


def test_what_never_fits_is_told_before_anything_is_unloaded() -> None:
    """An instance that does not fit beside what is kept is a `Never`, whatever could be unloaded or awaited."""
    assert wants(11, idle("a", 5)) == Never(0)
    assert wants(8, idle("kept", 3, kept=True), idle("a", 5)) == Never(3)
    assert wants(8, Seat("", Need(3), "reserved", kept=True), idle("a", 5, state="closing")) == Never(3)


def test_closing_ones_still_count_and_are_awaited() -> None:
    """What is being unloaded holds its memory until it is gone; nothing else is unloaded if it frees enough."""
    closing = idle("a", 6, state="closing")
    assert wants(5, closing, idle("b", 4)) == Wait("closing")
    assert wants(8, closing, idle("b", 4)) == Evict(("b",))


def test_a_load_under_way_is_awaited() -> None:
    """A loading instance counts in full, is no victim, and is named as what is awaited."""
    assert wants(5, idle("a", 6, state="loading"), busy("b", 1)) == Wait("loading")


def test_promised_room_is_not_given_away() -> None:
    """Room that comes free for an earlier model is not taken by a later one, unless both fit."""
    closing, promise = idle("a", 5, state="closing"), Seat("", Need(8), "reserved")
    assert wants(2, closing, promise) == Admit()
    assert wants(3, closing, promise) == Wait("busy")
    assert wants(2, closing, promise, idle("b", 4)) == Evict(("b",))


def test_the_second_instance_of_a_file_costs_its_private_memory_only() -> None:
    """Mapped weights count once for all instances of a file, and for each other file again."""
    first = shares("a1", 2, 6)
    assert decide(Need(2, 6, "file"), [first], TEN) == Admit()
    assert decide(Need(2, 6, "other"), [first], TEN) == Evict(("a1",))
    assert used([first, shares("a2", 2, 6)]) == 10
    assert used([first], [Need(0, 6), Need(0, 6)]) == 20


def test_unloading_one_of_two_that_share_frees_only_its_own() -> None:
    """To free the weights of a file, all instances that share it must go."""
    pair = [shares("a1", 2, 6, 0), shares("a2", 2, 6, 1)]
    assert decide(Need(2), pair, TEN) == Evict(("a1",))
    assert decide(Need(3), pair, TEN) == Evict(("a1", "a2"))


def test_as_many_are_drained_as_are_needed() -> None:
    """The instances to drain are the first in their order that suffice, or all if none do."""
    a, b, c = busy("a", 3), busy("b", 3), busy("c", 4)
    assert to_drain(Need(3), [a, b, c], [a, b, c], TEN) == [a]
    assert to_drain(Need(6), [a, b, c], [a, b, c], TEN) == [a, b]
    assert to_drain(Need(6), [a, b, c], [a], TEN) == [a]
    assert to_drain(Need(4), [a, b, c], [a, c, b], TEN) == [c]


def test_what_was_learnt_only_raises_a_need() -> None:
    """A need is raised to a higher measured use, a lower one does not count; the estimate is still known."""
    raised = Need(4, 5, "file").raised(6)
    assert (raised.private, raised.total, raised.told) == (6, 11, 4)
    assert raised.raised(7).told == 4
    assert Need(4).raised(3) == Need(4)
    assert Need().raised(7).private == 7  # an engine that tells nothing is measured


def test_stored_sessions_give_way_first() -> None:
    """As many bytes of sessions are given up as are missing, before any idle instance goes; then both are."""
    room = Room(10, 99, sessions=4)
    assert decide(Need(3), [idle("a", 3)], room) == Admit()
    assert decide(Need(5), [idle("a", 3)], room) == Shrink(2)
    assert decide(Need(8), [idle("a", 3)], room) == Evict(("a",))
    assert decide(Need(8), [], room) == Shrink(2)
    assert decide(Need(11), [], room) == Never(0)
    assert decide(Need(8), [idle("a", 3, state="closing")], room) == Wait("closing")


def test_sessions_that_cannot_be_given_up_count() -> None:
    """Firm sessions stay, so that an idle instance goes, or the model waits; they never make it hopeless."""
    assert decide(Need(5), [idle("a", 3)], Room(10, 99, sessions=4, firm=4)) == Evict(("a",))
    assert decide(Need(7), [], Room(10, 99, sessions=4, firm=4)) == Wait("busy")


def test_memory_that_others_hold_is_waited_for() -> None:
    """If the machine has less than the limit leaves, idle instances go, or it waits; that is never a `Never`."""
    few = Room(100, 99, available=4)
    assert decide(Need(4), [], few) == Admit()
    assert decide(Need(5), [], few) == Wait("machine")
    assert decide(Need(5), [idle("a", 3)], few) == Evict(("a",))
    assert decide(Need(5), [busy("a", 3)], few) == Wait("machine")
    assert decide(Need(5), [idle("a", 3, state="closing")], few) == Wait("closing")
    assert decide(Need(101), [], few) == Never(0)
    assert decide(Need(5), [], Room(100, 99, sessions=1, available=4)) == Shrink(1)


def test_what_instances_have_yet_to_take_is_theirs() -> None:
    """The machine's free memory is less by what loading and grown-up instances will still take of it."""
    room = Room(100, 99, available=10)
    loading = idle("a", 6, state="loading")
    assert decide(Need(4), [loading], room) == Admit()
    assert decide(Need(5), [loading], room) == Wait("machine")
    assert decide(Need(5), [evolve(loading, taken=1)], room) == Admit()
    lazy = busy("b", 9, taken=2)
    assert lacking(Need(4), [lazy], room) == 1
    assert lacking(Need(4), [evolve(lazy, taken=20)], room) == 0  # an override: it takes more than it counts for
    assert lacking(Need(4), [busy("c", 9)], room) == 0  # it was not measured, and is assumed to have taken all
    assert decide(Need(9, 3, "file"), [], room) == Wait("machine")
    assert decide(Need(9, 3, "file"), [idle("d", 0, need=Need(0, 3, "file"), busy=True)], room) == Admit()


def test_what_a_victim_was_measured_to_take_comes_free() -> None:
    """Unloading an instance gives back what it takes, swapped pages included, not what it was told to."""
    room, seats = Room(100, 99, available=2), [idle("a", 3, taken=2), idle("b", 9, 1, taken=4)]
    assert decide(Need(5), seats, room) == Evict(("b",))
    assert decide(Need(7), seats, room) == Evict(("a", "b"))
    assert decide(Need(9), seats, room) == Wait("machine")


def test_kept_instances_that_wait_for_others_memory_block_nobody() -> None:
    """Room in the limit is reserved for a kept instance, but not memory that the machine does not have."""
    kept = Seat("", Need(50), "reserved", kept=True)
    assert decide(Need(5), [kept], Room(60, 99, available=6)) == Admit()
    assert decide(Need(5), [kept], Room(54, 99, available=6)) == Never(50)


def test_only_instances_that_suffice_are_drained_for_others_memory() -> None:
    """If other programs are in the way, busy instances are drained only if that makes room."""
    room = Room(100, 99, available=1)
    assert to_drain(Need(4), [busy("a", 3)], [busy("a", 3)], room) == [busy("a", 3)]
    assert to_drain(Need(9), [busy("a", 3)], [busy("a", 3)], room) == ()


def test_who_takes_no_memory_is_not_drained_for_it() -> None:
    """Where sessions that cannot be given up hold the memory, a model without any of its own works on."""
    room = Room(3, 99, sessions=3, firm=3)
    small, none = busy("small", 1), busy("none", 0)
    assert to_drain(Need(3), [small, none], [small, none], room) == [small]
    assert to_drain(Need(1), [none], [none], room) == []
    assert to_drain(Need(1), [none], [none], evolve(room, most=1)) == [none], "where its place is wanted"


def test_what_is_quickly_loaded_again_goes_first() -> None:
    """The set with the cheapest reloads goes, even if it has more instances; use long ago makes a reload cheap."""
    slow, quick = idle("slow", 4, reload=9.0), [idle(f"q{number}", 2, reload=1.0) for number in range(2)]
    assert wants(6, slow, *quick) == Evict(("q0", "q1"))
    assert wants(6, evolve(slow, reload=1.5), *quick) == Evict(("slow",))
    assert wants(6, evolve(slow, idle_since=-3600), *quick) == Evict(("slow",))
    assert list(costs([idle("a", 1, 0, reload=8), idle("b", 1, 60, reload=4)]).values()) == [4, 4]


def test_instances_that_have_grown_above_the_limit_make_room() -> None:
    """The cheapest idle ones go that suffice, all if none do; busy, kept and loading ones stay."""
    assert to_shed([busy("a", 6), idle("b", 4)], 10) == ()
    assert to_shed([busy("a", 7), idle("b", 2, 1), idle("c", 2, 2)], 10) == [idle("b", 2, 1)]
    assert to_shed([busy("a", 12), idle("b", 2, 1), idle("c", 2, 2, kept=True)], 10) == [idle("b", 2, 1)]
    assert to_shed([busy("a", 12), idle("b", 2, state="loading")], 10) == []
    assert to_shed([busy("a", 7), idle("b", 2), idle("c", 2, state="closing")], 10) == ()


@pytest.mark.parametrize("room", [Room(0, 99), Room(10, 0)])
def test_nothing_fits_into_nothing(room: Room) -> None:
    """Without bytes or places, nothing is admitted; only missing bytes make it hopeless."""
    assert wants(1, room=room) == (Never(0) if room.limit == 0 else Wait("busy"))


FILES = st.sampled_from([None, "x", "y"])
GPUS = st.dictionaries(st.sampled_from(["gpu0", "gpu1"]), st.integers(0, 6), max_size=2)
NEEDS = st.builds(Need, private=st.integers(0, 6), shared=st.integers(0, 6), file=FILES, devices=GPUS)
GPU_ROOMS = st.builds(DeviceRoom, st.just(20), st.integers(0, 16), st.none() | st.integers(0, 20))


@st.composite
def all_seats(draw: st.DrawFn) -> list[Seat]:
    states = draw(st.lists(st.sampled_from(["loading", "ready", "ready", "ready", "closing", "reserved"]), max_size=6))
    return [
        Seat(
            "" if state == "reserved" else f"i{number}", draw(NEEDS), state,  # type: ignore[arg-type]
            busy=state == "ready" and draw(st.booleans()),
            kept=state != "closing" and draw(st.integers(0, 3)) == 0, idle_since=draw(st.sampled_from([0, 1, 60, 300])),
            reload=draw(st.sampled_from([0.5, 1, 9])),
            taken=None if state == "reserved" else draw(st.none() | st.integers(0, 8)),
        )
        for number, state in enumerate(states)
    ]


def without(seats: Sequence[Seat], names: Sequence[str]) -> list[Seat]:
    return [seat for seat in seats if not seat.instance or seat.instance not in names]


@st.composite
def all_rooms(draw: st.DrawFn) -> Room:
    sessions = draw(st.integers(0, 5))
    return Room(
        draw(st.none() | st.integers(0, 20)), draw(st.integers(0, 8)), sessions, draw(st.integers(0, sessions)),
        draw(st.none() | st.integers(0, 20)), draw(st.dictionaries(st.sampled_from(["gpu0", "gpu1"]), GPU_ROOMS)),
    )


@given(NEEDS, all_seats(), all_rooms())
def test_decisions_keep_every_promise(wanted: Need, seats: list[Seat], room: Room) -> None:
    """Never over the limit, never a busy or kept victim, no needless victim or session, and nobody waits in vain."""
    decision = decide(wanted, seats, room)
    present = [seat for seat in seats if seat.state != "reserved" or seat.kept]
    lasting = [seat for seat in seats if seat.state != "closing"]
    closing = [seat for seat in seats if seat.state == "closing"]
    freed = room.sessions - room.firm
    bare = evolve(
        room, sessions=room.firm, available=None if room.available is None else room.available + freed,
    )

    def gone(names: Sequence[str]) -> list[Seat]:
        return [*closing, *(seat for seat in seats if seat.instance and seat.instance in names)]

    idle_ones = [seat for seat in seats if seat.state == "ready" and not seat.busy and not seat.kept]
    names = [seat.instance for seat in idle_ones]
    helpful = [
        one for count in range(len(names) + 1) for one in combinations(names, count)
        if fits(wanted, without(lasting, one), bare, gone(one))
    ]
    price = dict(zip(names, costs(idle_ones).values(), strict=True))
    match decision:
        case Admit():
            assert len(present) < room.most
            assert room.limit is None or used(present, [wanted]) + room.sessions <= room.limit
            for name, gpu in room.devices.items():
                taken = on_device(name, present, [wanted])
                assert taken <= gpu.limit or not wanted.devices.get(name)
                assert gpu.usable is None or not wanted.devices.get(name) or (
                    on_device(name, [one for one in present if one.state != "reserved"], [wanted]) <= gpu.usable
                )
            assert fits(wanted, lasting, room, closing)
        case Shrink(size):
            assert 0 < size <= freed
            assert not fits(wanted, present, room) or not fits(wanted, lasting, room, closing)
            available = None if room.available is None else room.available + size
            smaller = evolve(room, sessions=room.sessions - size, available=available)
            assert decide(wanted, seats, smaller) == Admit()
        case Evict(victims):
            assert victims
            assert set(victims) <= set(names)
            assert () not in helpful
            assert fits(wanted, without(lasting, victims), bare, gone(victims))
            cheapest = min(sum(price[one] for one in some) for some in helpful)
            assert sum(price[one] for one in victims) == pytest.approx(cheapest)
            for one in victims:
                spared = [other for other in victims if other != one]
                assert not fits(wanted, without(lasting, spared), bare, gone(spared))
        case Wait("closing"):
            assert fits(wanted, lasting, bare, closing)
            assert not fits(wanted, present, bare)
        case Wait(reason):
            assert not helpful
            staying = [seat for seat in lasting if seat.kept]
            left = [*closing, *(seat for seat in lasting if not seat.kept and seat.state != "reserved")]
            in_vain = fits(wanted, staying, bare.undisturbed) and not fits(wanted, staying, bare, left)
            assert (reason == "machine") == (in_vain or fits(wanted, lasting, bare.undisturbed))
        case Never(kept, device) if device is not None:
            held = [seat for seat in seats if seat.kept]
            assert kept == on_device(device, held)
            assert kept + wanted.devices[device] > room.devices[device].limit
        case Never(kept):
            assert room.limit is not None
            held = [seat for seat in seats if seat.kept]
            assert kept == used(held)
            assert used(held, [wanted]) > room.limit


@given(all_seats(), st.integers(0, 20))
def test_what_is_shed_is_idle_and_needed(seats: list[Seat], limit: int) -> None:
    """Above the limit only idle instances are unloaded that are not kept, and none that others make needless."""
    shed = to_shed(seats, limit)
    assert all(seat.state == "ready" and not seat.busy and not seat.kept for seat in shed)
    here = [seat for seat in seats if seat.state in {"loading", "ready"}]
    left = [seat for seat in here if seat not in shed]
    if used(left) > limit:
        assert not [seat for seat in left if seat.state == "ready" and not seat.busy and not seat.kept]
    else:
        assert all(used([*left, seat]) > limit for seat in shed)
