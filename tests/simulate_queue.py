"""Simulates the queue on a clock of its own, against the order of arrival: swaps, waits, and delays by other clients.

    python tests/simulate_queue.py

prints the tables of the documentation. The scheduler is the real one; there are no processes, and no time passes.
"""

import itertools
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import Protocol

from attrs import Factory, define, frozen

from lllms_core.caller import Caller
from lllms_core.pool.effects import Assign, Effect, Refuse, Start, Stop
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.state import ModelLimits, PoolLimits

MODELS = ("a", "b", "c")
MOMENTS = (0.0, 1.0, 3.0, 3.5, 4.4, 7.9, 10.2, 15.7, 20.0)
"""When the single request arrives, among a hundred of another client."""


@frozen
class Arrival:
    """A request, and what it takes."""

    at: float
    model: str
    client: str = ""
    seconds: float = 0.8


@frozen
class Machine:
    """Room for one model, and what that takes."""

    slots: int = 4
    load: float = 3.0
    """Seconds of a load."""
    unload: float = 0.2


@define
class Course:
    """How the requests fared, by their numbers."""

    loads: int = 0
    started: dict[int, float] = Factory(dict)
    waits: list[float] = Factory(list)

    def wait(self, share: float) -> float:
        """Return the wait that this share of the requests did not exceed."""
        return sorted(self.waits)[math.ceil(share * len(self.waits)) - 1]


class Policy(Protocol):
    """The events of a scheduler."""

    def submit(self, ticket: str, model: str, prefixes: Sequence[str], now: float, *, caller: Caller) -> list[Effect]:
        """A request arrives."""

    def loaded(self, instance: str, slots: int, now: float) -> list[Effect]:
        """An instance is ready."""

    def finished(self, ticket: str, now: float) -> list[Effect]:
        """A request has ended."""

    def gone(self, instance: str, reason: str, now: float) -> list[Effect]:
        """An instance is gone."""


class Fifo:
    """The order of arrival: the first request gets its model, and those after it wait."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, str]] = deque()
        self._model = ""
        self._free = self._slots = 0

    def submit(self, ticket: str, model: str, prefixes: Sequence[str], now: float, *, caller: Caller) -> list[Effect]:
        """A request arrives."""
        del prefixes, now, caller
        self._waiting.append((ticket, model))
        return self._next()

    def loaded(self, instance: str, slots: int, now: float) -> list[Effect]:
        """An instance is ready."""
        del instance, now
        self._free = self._slots = slots
        return self._next()

    def finished(self, ticket: str, now: float) -> list[Effect]:
        """A request has ended."""
        del ticket, now
        self._free += 1
        return self._next()

    def gone(self, instance: str, reason: str, now: float) -> list[Effect]:
        """An instance is gone."""
        del instance, reason, now
        self._model = ""
        return self._next()

    def _next(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._waiting and self._waiting[0][1] == self._model and self._free:
            effects.append(Assign(self._waiting.popleft()[0], self._model))
            self._free -= 1
        wanted = self._waiting[0][1] if self._waiting else self._model
        if not self._model:
            self._model = wanted
            return [*effects, Start(wanted, wanted, 1)] if wanted else effects
        if wanted != self._model and self._slots and self._free == self._slots:
            self._free = self._slots = 0
            return [*effects, Stop(self._model)]
        return effects


def ours(machine: Machine, **limits: float) -> Scheduler:
    """Return the scheduler, with room for one instance."""
    numbers = itertools.count(1)
    pool = PoolLimits(machine.slots, 10_000, 1e9, 1, 1, **limits)  # type: ignore[arg-type]
    return Scheduler(dict.fromkeys(MODELS, ModelLimits(ttl=-1)), pool, lambda model: f"{model}{next(numbers)}")


def play(policy: Policy, arrivals: Sequence[Arrival], machine: Machine) -> Course:
    """Let the requests arrive, and carry out what the policy decides, until all are served."""
    course, numbers = Course(), itertools.count()
    events: list[tuple[float, int, Callable[[float], list[Effect]]]] = []

    def later(at: float, event: Callable[[float], list[Effect]]) -> None:
        heappush(events, (at, next(numbers), event))

    for number, one in enumerate(arrivals):
        later(one.at, lambda now, number=number, one=one: policy.submit(  # type: ignore[misc]
            str(number), one.model, (), now, caller=Caller(one.client),
        ))
    while events:
        now, _, event = heappop(events)
        for effect in event(now):
            match effect:
                case Start(instance):
                    course.loads += 1
                    assert course.loads <= len(arrivals), "a load served nobody"
                    later(now + machine.load, lambda now, i=instance: policy.loaded(i, machine.slots, now))  # type: ignore[misc]
                case Stop(instance):
                    later(now + machine.unload, lambda now, i=instance: policy.gone(i, "", now))  # type: ignore[misc]
                case Assign(ticket):
                    course.started[int(ticket)] = now
                    end = now + arrivals[int(ticket)].seconds
                    later(end, lambda now, ticket=ticket: policy.finished(ticket, now))  # type: ignore[misc]
                case Refuse(ticket, error):
                    raise AssertionError(f"{ticket} is refused: {error}")
    course.waits = [course.started[number] - one.at for number, one in enumerate(arrivals)]
    return course


def burst(count: int = 90) -> list[Arrival]:
    """All requests at once, model by model in turn."""
    return [Arrival(0.0, MODELS[number % 3], f"client {number % 7}") for number in range(count)]


def stream(seed: int, count: int = 90, gap: float = 0.5) -> list[Arrival]:
    """Requests of random lengths and distances, model by model in turn."""
    chance = random.Random(seed)
    times = itertools.accumulate(chance.expovariate(1 / gap) for _ in range(count))
    return [
        Arrival(at, MODELS[number % 3], f"client {chance.randrange(7)}", chance.uniform(0.2, 1.4))
        for number, at in enumerate(times)
    ]


def crowd(moment: float, count: int = 100) -> list[Arrival]:
    """Many requests of one client, and a single one of another, some time later."""
    return [*(Arrival(0.0, "a", "many") for _ in range(count)), Arrival(moment, "a", "one")]


def siege(seconds: int = 120) -> list[Arrival]:
    """Requests that keep all slots of one model busy, and a single one for another model."""
    return [*(Arrival(number / 5, "a") for number in range(5 * seconds)), Arrival(10.0, "b", "one")]


def delay(course: Course, last: int) -> int:
    """Return how many requests the last one waited for: one that ran, and those that started before it meanwhile."""
    order = list(course.started)
    arrived = course.started[last] - course.waits[last]
    before = [number for number in order[: order.index(last)] if course.started[number] >= arrived]
    return len(before) + (course.waits[last] > 0)


def swaps() -> str:
    """Return the table of loads and waits."""
    quick, slow = Machine(), Machine(slots=1, load=5.0)
    rows: list[Sequence[object]] = []
    for name, arrivals, machine in (
        ("90 at once", burst(), quick), ("90 in 45 s", stream(1), quick), ("90 at once, overloaded", burst(), slow),
    ):
        for policy, title in (
            (Fifo(), "order of arrival"), (ours(machine, min_residency=0.0), "lllms, `min_residency = 0`"),
            (ours(machine), "lllms"),
        ):
            course = play(policy, arrivals, machine)
            waits = [f"{course.wait(share):.0f} s" for share in (0.5, 0.99)]
            rows.append((name, title, course.loads, *waits))
    for policy, title in ((Fifo(), "order of arrival"), (ours(quick), "lllms")):
        course = play(policy, siege(), quick)
        rows.append(("a single one beside 600", title, course.loads, "", f"{course.waits[-1]:.0f} s"))
    return table(("requests", "order", "loads", "median wait", "99 %"), rows)


def delays() -> str:
    """Return the table of the delays by a client with many requests."""
    rows: list[Sequence[object]] = []
    for slots in (1, 4):
        machine = Machine(slots)
        policies: dict[str, Callable[[], Policy]] = {"order of arrival": Fifo, "lllms": partial(ours, machine)}
        for title, policy in policies.items():
            courses = [play(policy(), crowd(moment), machine) for moment in MOMENTS]
            rows.append((slots, title, max(delay(course, len(course.waits) - 1) for course in courses)))
    return table(("slots", "order", "requests of another's 100 that a single one waits for"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main() -> None:
    """Write the tables."""
    sys.stdout.write(f"{swaps()}\n\n{delays()}\n")


if __name__ == "__main__":
    main()
