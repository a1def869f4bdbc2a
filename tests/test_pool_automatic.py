"""Automatic sizes: how much memory a model gets, a smaller size rather than a refusal, and what would fit."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from test_pool_memory import World, refusals

from lllms_core.engines import Engine
from lllms_core.errors import ModelTooLarge
from lllms_core.pool.budget import Admit, Decision, Evict, Need, Never, Room, Seat, Wait, decide
from lllms_core.pool.choosing import choose as choose_place
from lllms_core.pool.effects import Start, Stop
from lllms_core.pool.known_needs import HERE
from lllms_core.pool.models import PoolModel
from lllms_core.pool.needs import ALONE, AMONG_OTHERS, STEPS, WORKER, need_of
from lllms_core.pool.state import ModelLimits
from lllms_core.types import Memory, ModelSpec

TEN = Room(10, 99)


def sizes(*private: int) -> Need:
    """An automatic need of these sizes, each loaded with as much memory."""
    whole, *smaller = (Need(one, memory=one) for one in private)
    return evolve(whole, smaller=tuple(smaller))


def seat(name: str, private: int, **state: Any) -> Seat:
    return evolve(Seat(name, Need(private), "ready"), **state)


@frozen
class Here:
    """A place with these seats."""

    needs: Sequence[Need]
    seats: Sequence[Seat]
    room: Room
    place: str = "here"

    def decide(self, need: Need) -> Decision:
        return decide(need, self.seats, self.room)


def choose(wanted: Need, seats: Sequence[Seat], room: Room) -> tuple[Need, Decision]:
    """Return the size and the decision if there is one place."""
    choice = choose_place([Here((wanted, *wanted.smaller), seats, room)])
    assert choice.place == "here"
    return choice.need, choice.decision


def test_the_whole_size_is_taken_if_idle_ones_make_room() -> None:
    """A smaller context is taken instead of a refusal, or a wait for busy ones, but only after idle ones."""
    wanted = sizes(8, 6, 4)
    assert choose(wanted, [], TEN) == (wanted, Admit())
    assert choose(wanted, [seat("a", 5)], TEN) == (wanted, Evict(("a",)))
    assert choose(wanted, [seat("a", 5, state="closing")], TEN) == (wanted, Wait("closing"))
    assert choose(wanted, [seat("a", 6, busy=True)], TEN) == (wanted.smaller[1], Admit())
    assert choose(wanted, [seat("a", 4, busy=True)], TEN) == (wanted.smaller[0], Admit())
    assert choose(wanted, [seat("a", 3, busy=True), seat("b", 2)], TEN) == (wanted.smaller[0], Evict(("b",)))
    assert choose(wanted, [seat("a", 5, kept=True)], TEN) == (wanted.smaller[1], Admit())
    assert choose(sizes(12, 9), [], TEN)[1] == Admit()


def test_who_must_wait_waits_for_the_largest_that_can_fit() -> None:
    """What no size can have at once waits for the largest that fits beside what is kept, if any does."""
    wanted = sizes(12, 8, 4)
    assert choose(wanted, [seat("a", 9, busy=True)], TEN) == (wanted.smaller[0], Wait("busy"))
    assert choose(wanted, [seat("a", 5, kept=True), seat("b", 4, busy=True)], TEN) == (wanted.smaller[1], Wait("busy"))
    assert choose(wanted, [seat("a", 7, kept=True)], TEN) == (wanted.smaller[1], Never(7))


SEATS = st.lists(st.builds(
    Seat, st.uuids().map(str), st.builds(Need, st.integers(0, 6)), st.sampled_from(["ready", "loading", "closing"]),
    busy=st.booleans(), kept=st.booleans(),
), max_size=5)


@given(st.lists(st.integers(0, 14), min_size=1, max_size=4), SEATS, st.integers(0, 12))
def test_no_smaller_size_than_necessary(private: list[int], seats: list[Seat], limit: int) -> None:
    """The decision is that for the chosen size, and no larger size could have been had without a wait for work."""
    wanted, room = sizes(*sorted(private, reverse=True)), Room(limit, 99)
    need, decision = choose(wanted, seats, room)
    all_sizes = (wanted, *wanted.smaller)
    assert decision == decide(need, seats, room)
    larger = [decide(one, seats, room) for one in all_sizes[: all_sizes.index(need)]]
    if isinstance(decision, Wait) and decision.reason != "closing":
        assert all(isinstance(one, Never) for one in larger)
        smaller = [decide(one, seats, room) for one in all_sizes[all_sizes.index(need) :]]
        assert all(isinstance(one, Wait) and one.reason != "closing" for one in smaller)
    elif isinstance(decision, Never):
        assert all(isinstance(decide(one, seats, room), Never) for one in all_sizes)
    else:
        assert all(isinstance(one, Never | Wait) and one != Wait("closing") for one in larger)


def test_a_start_tells_the_chosen_size() -> None:
    """A load beside a busy model gets the memory that is left, and counts for that; later the whole size comes back."""
    world = World({"a": 6, "b": sizes(8, 6, 4)})
    world.busy("a", 1)
    assert world.submit("b", 2, "b") == [Start("b1", "b", 1, 4)]
    assert world.scheduler.seating.used == 10
    world.scheduler.loaded("b1", 1, 3)
    for ticket in ("a", "b"):
        world.scheduler.finished(ticket, 4)
    world.scheduler.unload("b", 5)
    world.scheduler.gone("b1", "closed", 6)
    assert world.submit("b", 7) == [Stop("a1")]
    assert world.scheduler.gone("a1", "closed", 8) == [Start("b2", "b", 1, 8)]


def test_each_size_counts_for_what_was_learnt_of_it() -> None:
    """The peak of one size raises neither a larger nor a smaller one."""
    seating = World({"a": sizes(8, 6, 4)}).scheduler.seating
    seating.needs["a"] = {HERE: sizes(8, 6, 4)}
    seating.learn("a", 6, 7)
    need = seating.need("a")
    assert [one.private for one in (need, *need.smaller)] == [8, 7, 4]
    assert [one.told for one in (need, *need.smaller)] == [8, 6, 4]


def test_all_instances_of_a_model_have_one_size() -> None:
    """A second instance, which any request of the model may get, is as large as the first, or is not loaded."""
    world = World({"a": sizes(6, 4, 2)}, a=ModelLimits(0, 2))
    assert world.submit("a", 1, "one") == [Start("a1", "a", 1, 6)]
    world.scheduler.loaded("a1", 1, 2)
    assert world.submit("a", 3, "two") == []
    world = World({"a": sizes(6, 4, 2), "b": 6}, a=ModelLimits(0, 2))
    world.busy("b", 1)
    assert world.submit("a", 2, "one") == [Start("a1", "a", 1, 4)]
    world.scheduler.loaded("a1", 1, 3)
    world.scheduler.finished("b", 4)
    assert world.submit("a", 5, "two") == [Stop("b1")]
    assert world.scheduler.gone("b1", "closed", 6) == [Start("a2", "a", 1, 4)]


def test_a_kept_model_gets_a_size_that_fits_beside_the_others() -> None:
    """Room is reserved for each kept model at the largest size with which all fit."""
    world = World({"a": sizes(8, 5), "b": sizes(8, 5, 2)}, a=ModelLimits(1), b=ModelLimits(1))
    assert world.answer(world.scheduler.start(0)) == [Start("a1", "a", 1, 8), Start("b1", "b", 1, 2)]


def test_what_can_never_fit_is_refused_with_what_would() -> None:
    """The refusal names the smallest need, and the options that would make it fit, or that none does."""
    ways = "options.context_length = 2048", "options.slots = 1"
    for need, told in (
        (Need(11, way_out=ways), f"it would fit with {ways[0]}, or with {ways[1]}: set that, or raise server."),
        (Need(11, way_out=()), "no smaller context makes it fit: choose a smaller model or quantisation, or raise"),
        (sizes(30, 11), "needs about 11 bytes of memory, but lllms may use 10 bytes; lower options.context_length or"),
    ):
        [error] = refusals(World({"a": need}).submit("a", 1))
        assert isinstance(error, ModelTooLarge)
        assert told in error.message


class Stretching(Engine):
    """An engine whose models take 100 bytes of weights and 10 for each of 2 to `most` tokens, as far as memory goes."""

    name = "stretching"

    def __init__(self, most: int, weights: int = 100) -> None:
        self.most, self.weights = most, weights

    def estimate(self, spec: ModelSpec) -> Memory:
        tokens = self.most if spec.memory is None else max(2, min(self.most, (spec.memory - self.weights - 5) // 10))
        return Memory(weights=self.weights, kv=10 * tokens, overhead=5)

    def smaller(self, spec: ModelSpec, fits: Callable[[Memory], bool]) -> Iterable[str]:
        return [f"tokens = {n}" for n in (1, 0) if fits(Memory(self.weights, kv=10 * n, overhead=5))][:1]

    def load(self, *_: object) -> Any:
        raise NotImplementedError


def need(engine: Engine, room: int | None, **fields: Any) -> Need:
    spec = ModelSpec("m", None)
    alone = fields.pop("alone", False)
    return need_of(PoolModel(engine, spec, isolation="thread", **fields), spec, room, alone=alone)


@pytest.mark.parametrize(("alone", "share"), [(True, ALONE), (False, AMONG_OTHERS)])
def test_automatic_sizes_take_a_share(alone: bool, share: int) -> None:
    """What grows takes one part of what the weights leave, a larger one if the model is alone; smaller ones follow."""
    found = need(Stretching(10**9), 10_105, alone=alone)
    assert found.total == 105 + 10_000 // share
    assert found.memory == found.total
    totals = [one.total for one in (found, *found.smaller)]
    assert totals == sorted(set(totals), reverse=True)
    assert found.least.total == 125
    assert found.least.memory == 0
    assert len(totals) <= STEPS + 1


def test_what_needs_little_takes_no_more() -> None:
    """A model whose largest size fits into its share takes that; without a limit the engine decides by itself."""
    assert need(Stretching(7), 10_105).total == 175
    assert need(Stretching(2), 10_105).smaller == ()
    assert need(Stretching(7), None) == Need(175)


def test_a_configured_need_is_what_sizes_may_take() -> None:
    """With `models.X.memory`, automatic sizes take what that leaves, beside the worker."""
    spec = ModelSpec("m", None)
    found = need_of(PoolModel(Stretching(10**9), spec, memory=WORKER + 400), spec, 10**9)
    assert found == Need(WORKER + 400, memory=400)


@given(st.integers(0, 2000), st.integers(0, 300), st.integers(0, 3000), st.booleans())
def test_needs_are_within_the_room(weights: int, most: int, room: int, alone: bool) -> None:
    """Sizes descend, and exceed the room only if the smallest does; then what would fit is told."""
    found = need(Stretching(most, weights), room, alone=alone)
    if found.least.total > room:
        assert found.smaller == ()
        assert found.way_out == tuple(f"tokens = {n}" for n in (1, 0) if weights + 10 * n + 5 <= room)[:1]
    else:
        assert found.way_out is None
        assert found.total <= room
        totals = [one.total for one in (found, *found.smaller)]
        assert totals == sorted(set(totals), reverse=True)


def test_an_engine_that_fails_to_search_costs_a_worker() -> None:
    """Whatever an engine raises, the need is that of its worker: the load tells what is wrong."""
    class Failing(Stretching):
        def smaller(self, *_: object) -> Iterable[str]:
            raise RuntimeError("no idea")

    assert need(Failing(3), 10) == Need(0)
