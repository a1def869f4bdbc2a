"""Drives the scheduler with 1, 10 and 100 nodes, on a clock of its own: requests/s that it carries, and fairness.

    python tests/simulate_cluster.py [REQUESTS]

prints the tables of the documentation. The scheduler is the real one; there are no processes, and no time passes. A
node has room for 8 instances of 8 slots. A request is answered in 6.7 s on average (200 tokens at 30/s), its first
token comes after half a second, and there are always a quarter more requests than slots, each followed by another.
Requests/s are those that one core would carry: the requests served, by the CPU seconds of all events.
"""

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush

from attrs import Factory, define, frozen

from lllms_core.caller import Caller
from lllms_core.placements import Place
from lllms_core.pool.budget import Need
from lllms_core.pool.effects import Assign, Effect, Measure, Refuse, Start, Stop
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.state import ModelLimits, PoolLimits

INSTANCES, SLOTS = 8, 8
"""Of a node, and of an instance."""
SECONDS = 200 / 30
"""The mean length of an answer."""
EXCESS = 1.25
"""Open requests per slot."""
LOAD, UNLOAD, FIRST_TOKEN = 3.0, 0.2, 0.5
"""Seconds."""
NEED = 10
"""Bytes of an instance; a node has as many as its instances need."""


@frozen
class Layout:
    """Nodes, and the models that they serve."""

    title: str
    nodes: int
    models: int
    clients: int = 50
    most: int | None = None
    """The most instances of a model; None: as many as there is room for, if all models get the same."""
    kept: int = 0
    """`min_instances` of each model."""
    greedy: float = 0.0
    """The share of all requests that belongs to the first client; 0: as many as any other's."""

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
    failed: int = 0
    """Requests that were lost with a node after their first token."""
    again: int = 0
    """Requests that were lost with a node before that, and queued anew."""

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
        self.scheduler = Scheduler(
            dict.fromkeys(self.names, ModelLimits(layout.kept, most, ttl=300.0)),
            PoolLimits(concurrency=10**6, queue_size=10**6, queue_timeout=1e9, max_instances=INSTANCES),
            lambda model: f"{model}:{next(numbers)}", local=False,
        )
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.asked: dict[str, tuple[str, float, int]] = {}
        """By request: its client, when it was asked, and the turns of its conversation so far."""
        for number in range(layout.nodes):
            place = Place(f"node {number}", f"node {number}", cores=16, memory=INSTANCES * NEED)
            self.tell(partial(self.scheduler.there, place, self.now))

    def run(self, served: int) -> Course:
        """Serve this many requests once everything is loaded."""
        self.crowd()
        self.advance(2 * self.layout.instances * SLOTS)
        self.course = Course()
        self.advance(served)
        return self.course

    def crowd(self) -> None:
        """Let more requests come than all instances can run at once."""
        for number in range(int(self.layout.instances * SLOTS * EXCESS)):
            greedy = self.chance.random() < self.layout.greedy
            self.ask("c0" if greedy else f"c{number % self.layout.clients}")

    def grow(self) -> float:
        """Let them come to nodes without instances; return the seconds until all instances are loaded."""
        self.crowd()
        while self.scheduler.fleet.loading or len(self.scheduler.instances) < self.layout.instances:
            self.step()
        return self.now

    def kill(self, nodes: int) -> None:
        """Let these nodes die."""
        for number in range(nodes):
            entry = self.scheduler.fleet.places[f"node {number}"]
            running = {ticket.id: ticket for one in entry.instances.values() for ticket in one.running.values()}
            silent = {name for name, ticket in running.items() if self.now - ticket.started < FIRST_TOKEN}
            self.course.failed += len(running) - len(silent)
            self.course.again += len(silent)
            self.tell(partial(self.scheduler.departed, entry.id, self.now, silent))
            for name in running.keys() - silent:
                client, _, _ = self.asked.pop(name)
                self.ask(client)

    def ask(self, client: str, follows: tuple[str, int] | None = None) -> None:
        """Let a client ask: something new, or the next turn of a conversation about a model."""
        ticket = str(next(self.numbers))
        model, turns = follows or (self.chance.choice(self.names), 0)
        keys = [f"{client}/{model}", *(f"{client}/{model}/{turn}" for turn in range(turns))]
        self.asked[ticket] = client, self.now, turns

        def submit() -> list[Effect]:
            return self.scheduler.submit(ticket, model, keys, self.now, caller=Caller(client))

        self.tell(submit)

    def advance(self, served: int) -> None:
        """Let time pass until this many requests more are served."""
        goal = self.course.served + served
        while self.course.served < goal:
            self.step()

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, event = heappop(self.events)
        event()

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        """Let something happen."""
        heappush(self.events, (self.now + seconds, next(self.numbers), event))

    def tell_later(self, seconds: float, event: Callable[[], list[Effect]], instance: str = "") -> None:
        """Tell the scheduler later, unless that instance is gone by then."""
        self.later(seconds, lambda: self.tell(event) if not instance or instance in self.scheduler.instances else None)

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
                self.tell_later(LOAD, lambda: self.scheduler.loaded(instance, SLOTS, self.now), instance)
            case Stop(instance):
                self.tell_later(UNLOAD, lambda: self.scheduler.gone(instance, "", self.now), instance)
            case Measure(model, place, memory):
                self.tell_later(0.0, lambda: self.scheduler.measured(model, Need(NEED), self.now, place, memory))
            case Assign(ticket, instance):
                client, asked, _ = self.asked[ticket]
                self.course.waits.setdefault(client, []).append(self.now - asked)
                self.later(self.chance.expovariate(1 / SECONDS), lambda: self.finish(ticket, instance))
            case Refuse(ticket, error):
                raise AssertionError(f"{ticket} is refused: {error}")

    def finish(self, ticket: str, instance: str) -> None:
        """End an answer, unless its instance is gone; its client asks again."""
        if instance not in self.scheduler.instances:
            return
        client, _, turns = self.asked.pop(ticket)
        model = self.scheduler.running[ticket].model
        self.course.served += 1
        self.tell(lambda: self.scheduler.finished(ticket, self.now))
        self.ask(client, (model, turns + 1) if turns < 3 else None)


def layouts(nodes: int) -> list[Layout]:
    """Return what the first table compares."""
    return [
        Layout("8", nodes, 8),
        Layout("8, any number of instances", nodes, 8, most=10**6),
        Layout("one per instance", nodes, nodes * INSTANCES),
    ]


def rates(served: int) -> str:
    """Return the table of the requests that the scheduler carries."""
    rows = []
    for layout in [layout for nodes in (1, 10, 100) for layout in layouts(nodes)]:
        course = Play(layout).run(served)
        rows.append((layout.nodes, layout.title, f"{course.rate:,.0f}", f"{1e6 * course.cpu / course.events:.0f}"))
    return table(("nodes", "models", "requests/s", "us per event"), rows)


def fairness(served: int) -> str:
    """Return the table of what one client with half of all requests does to the others."""
    rows = []
    for nodes in (1, 10, 100):
        for greedy in (0.0, 0.5):
            course = Play(Layout("8", nodes, 8, greedy=greedy)).run(served)
            waits = {client: sum(all_of) / len(all_of) for client, all_of in course.waits.items()}
            others = [wait for client, wait in waits.items() if client != "c0"]
            rows.append((nodes, f"{greedy:.0%}", f"{waits['c0']:.1f} s", f"{sum(others) / len(others):.1f} s"))
    return table(("nodes", "requests of the first client", "its mean wait", "mean wait of 49 others"), rows)


def growth(_served: int) -> str:
    """Return the table of how long a model takes to spread over nodes without instances."""
    rows = []
    for nodes in (1, 10, 100):
        layout = Layout("1", nodes, 1)
        rows.append((nodes, layout.instances, f"{Play(layout).grow():.0f} s", f"{layout.instances * LOAD:.0f} s"))
    return table(("nodes", "instances of one model", "until all are loaded", "one after the other"), rows)


def losses(served: int) -> str:
    """Return the table of what is lost when a tenth of the nodes die."""
    rows = []
    for nodes in (10, 100):
        play = Play(Layout("8", nodes, 8, most=10**6, kept=max(1, nodes // 10)))
        play.run(served)
        play.course = Course()
        play.kill(nodes // 10)
        asked = set(play.asked)
        play.advance(served)
        while asked & play.asked.keys():
            play.advance(100)
        rows.append((nodes, play.layout.instances * SLOTS, play.course.failed, play.course.again))
    return table(("nodes", "running", "failed", "queued anew, and served"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main() -> None:
    """Write the tables."""
    served = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for make in (rates, fairness, growth, losses):
        sys.stdout.write(f"{make(served)}\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
