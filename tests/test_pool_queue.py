"""The order of waiting requests: turns, fairness, priorities, claims; without a scheduler."""

import itertools
from collections.abc import Sequence

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.pool.queue import OLDEST, RANKS, Queue
from lllms_core.pool.state import Ticket

BOUND = 30.0


@frozen
class Asked:
    """A request that arrives."""

    client: str = ""
    model: str = "m"
    rank: int = 1
    at: float = 0.0
    patience: float | None = None


def queue_of(*asked: Asked) -> Queue:
    """A queue of these requests, whose ids are their numbers, from 1."""
    queue = Queue(BOUND)
    for number, one in enumerate(asked, 1):
        until = one.at + (100 if one.patience is None else one.patience)
        queue.add(Ticket(
            str(number), one.model, (), one.at, client=one.client, rank=one.rank, patience=one.patience, until=until,
        ))
    return queue


def serve(queue: Queue, turns: int, now: float = 0.0, *, slots: int = 1) -> list[str]:
    """Give this many turns, each of which ends the oldest of the requests that hold the slots; return the clients."""
    served: list[str] = []
    for _ in range(turns):
        ticket = queue.next(now)
        if ticket is None:
            break
        queue.take(ticket)
        served.append(ticket.client)
        if len(queue.running) == slots:
            queue.end(next(iter(queue.running)))
    return served


def numbers(tickets: Sequence[Ticket]) -> list[int]:
    return [int(ticket.id) for ticket in tickets]


@pytest.mark.parametrize("slots", [1, 3])
def test_clients_take_turns(slots: int) -> None:
    """Of two clients that wait with many requests each gets every other turn, whoever came first."""
    queue = queue_of(*[Asked("x")] * 50, *[Asked("y")] * 50)
    served = serve(queue, 60, slots=slots)
    assert all(abs(served[:end].count("x") - served[:end].count("y")) <= 1 for end in range(len(served)))


def test_who_holds_few_slots_is_next() -> None:
    """A client whose requests take long does not collect the slots: the next one goes to who has fewer."""
    queue = queue_of(*[Asked("long")] * 9, *[Asked("short")] * 9)
    for _ in range(4):
        ticket = queue.next(0)
        assert ticket is not None
        queue.take(ticket)
    assert sorted(ticket.client for ticket in queue.running.values()) == ["long"] * 2 + ["short"] * 2
    for ended in [one.id for one in queue.running.values() if one.client == "short"]:
        queue.end(ended)
        following = queue.next(0)
        assert following is not None
        assert following.client == "short"
        queue.take(following)


def test_newcomers_do_not_pass_those_who_have_waited() -> None:
    """While a new client comes at each turn, a turn of each that waited, and of one newcomer, lies between two of x."""
    queue = queue_of(*[Asked("x")] * 20)
    served = []
    for number in range(40):
        queue.add(Ticket(f"new {number}", "m", (), 0.0, client=f"new {number}"))
        served += serve(queue, 1)
    turns = [index for index, client in enumerate(served) if client == "x"]
    waited = itertools.count(1)
    assert all(later - before <= next(waited) + 2 for before, later in itertools.pairwise(turns))
    assert len(turns) >= 7


def test_high_goes_before_normal_before_low() -> None:
    """A better priority is served first, whoever has more slots and whoever came first."""
    names = ("low", "low", "normal", "normal", "high", "high")
    queue = queue_of(*(Asked("x", rank=RANKS[name]) for name in names), Asked("y"))
    assert numbers(list(queue.order(0, lambda _: True))) == [5, 6, 7, 3, 4, 1, 2]


def test_no_priority_starves() -> None:
    """However many better requests come, the oldest is served within `OLDEST` turns once it has waited for long."""
    queue = queue_of(Asked("low", rank=RANKS["low"]))
    served: list[str] = []
    for number in range(3 * OLDEST):
        for one in (0, 1):
            queue.add(Ticket(f"{number} {one}", "m", (), 0.0, client=f"{one}", rank=RANKS["high"]))
        served += serve(queue, 1, now=BOUND if number >= OLDEST else BOUND - 1)
    assert "low" in served[OLDEST : 2 * OLDEST + 1]
    assert "low" not in served[:OLDEST]


def test_claims_of_the_old_come_first() -> None:
    """Models are loaded for whoever has waited past the bound, the oldest first; else by priority, then age."""
    queue = queue_of(
        Asked(model="a"), Asked(model="b", rank=0), Asked(model="c", rank=2), Asked(model="a", rank=0, at=9),
    )
    models = ["c", "b", "a"]
    assert numbers(queue.claims(0, models)) == [2, 4, 3]
    assert numbers(queue.claims(BOUND, models)) == [1, 2, 3]


def test_those_whose_model_takes_none_are_listed_last() -> None:
    """Positions: first the requests that a loaded model will take, then the others, model by model as they load."""
    queue = queue_of(Asked(model="b"), Asked(model="a"), Asked(model="c"), Asked(model="b"), Asked(model="a"))
    assert numbers(list(queue.order(0, lambda model: model == "a"))) == [2, 5, 1, 4, 3]


def test_a_full_queue_costs_who_fills_it() -> None:
    """The newest request of the client with the most makes way, if it has more than the newcomer's; not of a group."""
    queue = queue_of(Asked("x"), Asked("x"), Asked("x"), Asked("y"))
    victim = queue.last_of_largest("y")
    assert victim is not None
    assert victim.id == "3"
    victim.admitted = True
    assert [getattr(queue.last_of_largest("y"), "id", None), queue.last_of_largest("x")] == ["2", None]
    assert queue_of(Asked("x"), Asked("y")).last_of_largest("y") is None


ASKED = st.builds(
    Asked, st.sampled_from("xyz"), st.sampled_from("ab"), st.integers(0, 2), st.just(0.0),
    st.none() | st.floats(0, 200),
)


@given(st.lists(ASKED, max_size=30), st.integers(0, 12), st.sampled_from([0.0, BOUND]))
def test_the_order_is_the_order_of_turns(asked: list[Asked], turns: int, now: float) -> None:
    """`order` lists each waiting request once, as `next` would give them turns; alike ones in the order of arrival."""
    queue = queue_of(*asked)
    serve(queue, turns, slots=3)
    order = list(queue.order(now, lambda _: True))
    assert {ticket.id for ticket in order} == queue.waiting.keys()
    alike: dict[tuple[str, str, int], int] = {}
    for ticket in order:
        assert queue.next(now) is ticket
        queue.take(ticket)
        key = ticket.client, ticket.model, ticket.rank
        assert alike.get(key, 0) < ticket.number
        alike[key] = ticket.number
    assert queue.next(now) is None


@given(st.lists(ASKED, max_size=30), st.data())
def test_nothing_is_kept_of_those_who_left(asked: list[Asked], data: st.DataObject) -> None:
    """Limits and counts are those of the waiting requests; of a client without requests nothing is left."""
    queue = queue_of(*asked)
    while queue.waiting:
        waiting = list(queue.waiting.values())
        assert queue.next_limit() == min(ticket.until for ticket in waiting)
        now = data.draw(st.sampled_from([0.0, 50.0, 100.0]))
        assert set(numbers(queue.expired(now))) == {int(one.id) for one in waiting if one.until <= now}
        assert queue.counts() == {name: sum(one.model == name for one in waiting) for name in queue.models}
        assert [one.id for name in sorted(queue.models) for one in queue.of(name)] == [
            one.id for one in sorted(waiting, key=lambda one: (one.model, one.number))
        ]
        ticket = data.draw(st.sampled_from(waiting))
        if data.draw(st.booleans()):
            queue.take(ticket)
        else:
            queue.remove(ticket)
    for name in list(queue.running):
        queue.end(name)
    assert queue.next_limit() is None
    assert not queue.models
    assert queue._clients == {}
