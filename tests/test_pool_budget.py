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
    Evict,
    Need,
    Never,
    Room,
    Seat,
    Wait,
    decide,
    fits,
    to_drain,
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


@pytest.mark.parametrize("room", [Room(0, 99), Room(10, 0)])
def test_nothing_fits_into_nothing(room: Room) -> None:
    """Without bytes or places, nothing is admitted; only missing bytes make it hopeless."""
    assert wants(1, room=room) == (Never(0) if room.limit == 0 else Wait("busy"))


FILES = st.sampled_from([None, "x", "y"])
NEEDS = st.builds(Need, private=st.integers(0, 6), shared=st.integers(0, 6), file=FILES)


@st.composite
def all_seats(draw: st.DrawFn) -> list[Seat]:
    states = draw(st.lists(st.sampled_from(["loading", "ready", "ready", "ready", "closing", "reserved"]), max_size=6))
    return [
        Seat(
            "" if state == "reserved" else f"i{number}", draw(NEEDS), state,  # type: ignore[arg-type]
            busy=state == "ready" and draw(st.booleans()),
            kept=state != "closing" and draw(st.integers(0, 3)) == 0, idle_since=draw(st.integers(0, 3)),
        )
        for number, state in enumerate(states)
    ]


def without(seats: Sequence[Seat], names: Sequence[str]) -> list[Seat]:
    return [seat for seat in seats if not seat.instance or seat.instance not in names]


@given(NEEDS, all_seats(), st.builds(Room, st.none() | st.integers(0, 20), st.integers(0, 8)))
def test_decisions_keep_every_promise(wanted: Need, seats: list[Seat], room: Room) -> None:
    """Never over the limit, never a busy or kept victim, no needless victim, and nobody waits in vain."""
    decision = decide(wanted, seats, room)
    present = [seat for seat in seats if seat.state != "reserved" or seat.kept]
    lasting = [seat for seat in seats if seat.state != "closing"]
    idle_ones = [seat for seat in seats if seat.state == "ready" and not seat.busy and not seat.kept]
    names = [seat.instance for seat in idle_ones]
    helpful = [
        one for count in range(len(names) + 1) for one in combinations(names, count)
        if fits(wanted, without(lasting, one), room)
    ]
    match decision:
        case Admit():
            assert len(present) < room.places
            assert room.limit is None or used(present, [wanted]) <= room.limit
            assert fits(wanted, lasting, room)
        case Evict(victims):
            assert victims
            assert set(victims) <= set(names)
            assert len(victims) == min(map(len, helpful))
            assert fits(wanted, without(lasting, victims), room)
            alike = [one for one in helpful if len(one) == len(victims)]
            since = {seat.instance: seat.idle_since for seat in idle_ones}
            assert max(since[one] for one in victims) == min(max(since[one] for one in some) for some in alike)
        case Wait("closing"):
            assert fits(wanted, lasting, room)
            assert not fits(wanted, present, room)
        case Wait():
            assert not helpful
        case Never(kept):
            assert room.limit is not None
            held = [seat for seat in seats if seat.kept]
            assert kept == used(held)
            assert used(held, [wanted]) > room.limit
