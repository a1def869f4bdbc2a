"""Drives the scheduler with 1, 10 and 100 nodes, on a clock of its own: requests/s that it carries, and fairness.

    python tests/simulate_cluster.py

prints the tables of the documentation. The scheduler is the real one; there are no processes, and no time passes. Every
node has 8 instances of 8 slots. A request is answered in 6.7 s on average (200 tokens at 30/s), and there are always a
quarter more requests than slots, each of which is followed by another. Requests/s are those that one core would carry:
the requests served, by the CPU seconds of all events.
"""

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush

from attrs import Factory, define, frozen

from lllms_core.caller import Caller
from lllms_core.pool.budget import Need
from lllms_core.pool.effects import Assign, Effect, Measure, Refuse, Start, Stop
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.state import MemoryLimit, ModelLimits, PoolLimits

INSTANCES, SLOTS = 8, 8
"""Of a node, and of an instance."""
SECONDS = 200 / 30
"""The mean length of an answer."""
EXCESS = 1.25
"""Open requests per slot."""
LOAD, UNLOAD = 3.0, 0.2
"""Seconds."""


@frozen
class Layout:
    """Nodes, and the models that they serve."""

    title: str
    nodes: int
    models: int
    clients: int = 50
    most: int | None = None
    """The most instances of a model; None: as many as there is room for, if all models get the same."""

    @property
    def instances(self) -> int:
        """All instances for which there is room."""
        return self.nodes * INSTANCES


@define
class Course:
    """What happened after all instances were loaded."""

    served: int = 0
    events: int = 0
    cpu: float = 0.0
    waits: dict[str, list[float]] = Factory(dict)
    """By client."""
    loads: int = 0
    warm: int = 0
    """Requests that were assigned to an instance that knew a part of their conversation, of `followed`."""
    followed: int = 0

    @property
    def rate(self) -> float:
        """Requests that a core would carry in a second."""
        return self.served / self.cpu


class Play:
    """The clock, the instances and the clients."""

    def __init__(self, layout: Layout, seed: int = 1) -> None:
        self.layout, self.course = layout, Course()
        self.chance = random.Random(seed)
        self.names = [f"m{number}" for number in range(layout.models)]
        most = layout.most or layout.instances // layout.models
        numbers = itertools.count(1)
        limits = PoolLimits(
            concurrency=10**6, queue_size=10**6, queue_timeout=1e9, max_instances=layout.instances, cores=16,
            memory=MemoryLimit(layout.instances * 10),
        )
        self.scheduler = Scheduler(
            dict.fromkeys(self.names, ModelLimits(max_instances=most, ttl=300.0)), limits,
            lambda model: f"{model}:{next(numbers)}",
        )
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.asked: dict[str, tuple[str, float, int]] = {}
        """By request: its client, when it was asked, and the turns of its conversation so far."""

    def run(self, served: int) -> Course:
        """Serve this many requests once everything is loaded."""
        for number in range(int(self.layout.instances * SLOTS * EXCESS)):
            self.ask(f"c{number % self.layout.clients}")
        settled = self.layout.instances * SLOTS * 2
        self.advance(settled)
        self.course = Course()
        self.advance(served)
        return self.course

    def ask(self, client: str, follows: tuple[str, int] | None = None) -> None:
        """Let a client ask: something new, or the next turn of a conversation about a model."""
        ticket = str(next(self.numbers))
        model, turns = follows or (self.chance.choice(self.names), 0)
        keys = [f"{client}/{model}", *(f"{client}/{model}/{turn}" for turn in range(turns))]
        self.asked[ticket] = client, self.now, turns
        self.course.followed += turns > 0

        def submit() -> list[Effect]:
            return self.scheduler.submit(ticket, model, keys, self.now, caller=Caller(client))

        self.tell(submit)

    def advance(self, served: int) -> None:
        """Let time pass until this many requests more are served."""
        goal = self.course.served + served
        while self.course.served < goal:
            self.now, _, event = heappop(self.events)
            event()

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        """Let something happen."""
        heappush(self.events, (self.now + seconds, next(self.numbers), event))

    def tell_later(self, seconds: float, event: Callable[[], list[Effect]]) -> None:
        """Tell the scheduler later."""
        self.later(seconds, lambda: self.tell(event))

    def tell(self, event: Callable[[], list[Effect]]) -> None:
        """Tell the scheduler, as its dispatcher does, and carry out what it decides."""
        began = time.process_time()
        effects = event()
        self.scheduler.wake_at()
        self.course.cpu += time.process_time() - began
        self.course.events += 1
        for effect in effects:
            self.carry_out(effect)

    def carry_out(self, effect: Effect) -> None:
        """Do what an effect says, in no time, or later."""
        match effect:
            case Start(instance):
                self.course.loads += 1
                self.tell_later(LOAD, lambda: self.scheduler.loaded(instance, SLOTS, self.now))
            case Stop(instance):
                self.tell_later(UNLOAD, lambda: self.scheduler.gone(instance, "", self.now))
            case Measure(model):
                self.tell_later(0.0, lambda: self.scheduler.measured(model, Need(10), self.now))
            case Assign(ticket):
                client, asked, turns = self.asked[ticket]
                self.course.waits.setdefault(client, []).append(self.now - asked)
                self.course.warm += turns > 0
                self.later(self.chance.expovariate(1 / SECONDS), lambda: self.finish(ticket))
            case Refuse(ticket, error):
                raise AssertionError(f"{ticket} is refused: {error}")

    def finish(self, ticket: str) -> None:
        """End an answer; its client asks again."""
        client, _, turns = self.asked.pop(ticket)
        model = self.scheduler.running[ticket].model
        self.course.served += 1
        self.tell(lambda: self.scheduler.finished(ticket, self.now))
        self.ask(client, (model, turns + 1) if turns < 3 else None)


def layouts(nodes: int) -> list[Layout]:
    """Return what the tables compare."""
    return [
        Layout("8 models", nodes, 8),
        Layout("a model per instance", nodes, nodes * INSTANCES),
        Layout("8 models, no limit of instances", nodes, 8, most=10**6),
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main() -> None:
    """Write the tables."""
    served = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    rows = []
    for nodes in (1, 10, 100):
        for layout in layouts(nodes):
            course = Play(layout).run(served)
            rows.append((nodes, layout.title, f"{course.rate:,.0f}", f"{1e6 * course.cpu / course.events:.0f}"))
            sys.stderr.write(f"{rows[-1]}\n")
    sys.stdout.write(table(("nodes", "models", "requests/s", "us per event"), rows) + "\n")


if __name__ == "__main__":
    main()
