"""Thirty conversations over four slots: what their later turns cost, and what storing them costs those who run."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from attrs import evolve

from lllms_core.bench.children import OurServer
from lllms_core.bench.findings import Finding
from lllms_core.bench.load import Load, ask, words
from lllms_core.bench.plan import Plan
from lllms_core.bench.suites.raw import model
from lllms_core.bench.timeline import Timeline, decode_rate
from lllms_core.bench.traffic import ServerSilent

SLOTS = 4
CONVERSATIONS_A_ROUND = 6
"""Thirty of them in the five rounds that are usual."""
FIRST_TURN, ANSWER, NEXT_TURN = 1000, 16, 16
LATER_TURNS = 4
"""As many as a context has room for."""
RUNNING = SLOTS - 1
TARGET, COST_TARGET = 0.3, 0.95


class _Talks:
    """Conversations with one server, each a list of what was said."""

    def __init__(self, count: int) -> None:
        self.random = Random(1)  # noqa: S311  # no secrets here
        self.said = [[words(FIRST_TURN, self.random)] for _ in range(count)]

    async def turn(self, server: OurServer, number: int) -> float:
        """Ask for the next answer of a conversation; the milliseconds to its first token."""
        said = self.said[number]
        if len(said) > 1:
            said.append(words(NEXT_TURN, self.random))
        one = await ask(Load(server.base_url, server.model, max_tokens=ANSWER), said)
        _check(server, one)
        said.append(one.text)
        return one.ttft * 1000

    def shorten(self) -> None:
        """Go back to the first answers, so that no conversation outgrows its context."""
        for said in self.said:
            del said[2:]

    async def turns(self, server: OurServer) -> list[float]:
        """One turn of each conversation, one after the other."""
        return [await self.turn(server, number) for number in range(len(self.said))]


async def run(plan: Plan) -> list[Finding]:
    """Compare the TTFT of later turns with that of first ones, and the speed of who runs with storing and without."""
    count = plan.rounds * CONVERSATIONS_A_ROUND
    settings = {"bench": _model(plan)}
    findings = []
    with TemporaryDirectory() as folder:
        disk = {"store": "disk", "options": {"folder": str(Path(folder) / "sessions")}}
        for name, sessions in (("memory", {"store": "memory"}), ("disk", disk)):
            talks = _Talks(count)
            async with OurServer(settings, sessions) as server:
                plan.told(f"{count} first turns, store {name}")
                cold = await talks.turns(server)
                plan.told(f"{count} second and third turns, store {name}")
                # The third turn comes at once: its conversation has not left.
                later = [[await talks.turn(server, number) for _ in range(2)] for number in range(count)]
                stored, resident = ([one[which] for one in later] for which in range(2))
                findings.append(_finding(f"from {name}", stored, cold))
                if name == "memory":
                    findings.append(_finding("resident", resident, cold))
        async with OurServer(settings, disk) as server:
            plan.told("turns after a restart")
            await ask(Load(server.base_url, server.model, max_tokens=2), ["warm up"])
            findings.append(_finding("after a restart, from disk", await talks.turns(server), cold))
    return [*findings, await _cost(plan, settings)]


async def _cost(plan: Plan, settings: Mapping[str, Mapping[str, object]]) -> Finding:
    """Compare the speed of running requests beside short turns of many conversations, with storing and without."""
    rates: dict[str, list[float]] = {"memory": [], "none": []}
    for number in range(plan.rounds):
        for store in sorted(rates, reverse=bool(number % 2)):
            plan.told(f"storing beside running requests, store {store}, round {number + 1} of {plan.rounds}")
            async with OurServer(settings, {"store": store}) as server:
                rates[store].append(await _busy_rate(server, plan.max_tokens))
    what = f"{RUNNING} running requests beside turns of other conversations, storing against not storing"
    return Finding(what, "tok/s", tuple(rates["memory"]), tuple(rates["none"]), COST_TARGET)


async def _busy_rate(server: OurServer, max_tokens: int) -> float:
    talks = _Talks(3)
    await talks.turns(server)
    load = Load(server.base_url, server.model, max_tokens=max_tokens)
    running = [asyncio.create_task(ask(load, [words(50, talks.random)])) for _ in range(RUNNING)]
    while not all(task.done() for task in running):
        await talks.turns(server)
        talks.shorten()
    timelines = [task.result() for task in running]
    for one in timelines:
        _check(server, one)
    return decode_rate(timelines)


def _model(plan: Plan) -> Mapping[str, object]:
    turns = FIRST_TURN + LATER_TURNS * (NEXT_TURN + ANSWER)
    sizes = evolve(plan, prompt_tokens=turns, max_tokens=plan.max_tokens, clients=(SLOTS,))
    return model(sizes)


def _check(server: OurServer, one: Timeline) -> None:
    if one.error is not None:
        raise ServerSilent(f"{server.name} answers {one.error}")


def _finding(where: str, later: Sequence[float], cold: Sequence[float]) -> Finding:
    """One figure for each round: the median of its conversations."""
    ours, reference = (
        tuple(median(batch) for batch in _batched(times, CONVERSATIONS_A_ROUND)) for times in (later, cold)
    )
    what = f"TTFT of a later turn, {where}, against a first of {FIRST_TURN:,} words"
    return Finding(what, "ms", ours, reference, TARGET, "at most")


def _batched(times: Sequence[float], size: int) -> Iterator[Sequence[float]]:
    """Cut a sequence into pieces of a size."""
    return (times[start : start + size] for start in range(0, len(times), size))
