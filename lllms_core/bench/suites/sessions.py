"""Thirty conversations over four slots: the cost of their later turns, and of storing them, for running requests."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from attrs import evolve

from lllms_core.bench.children import OurServer
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import model
from lllms_core.bench.timeline import Timeline, output_rate
from lllms_core.bench.traffic import ServerSilent, completion

SLOTS = 4
CONVERSATIONS_A_ROUND = 6
"""Thirty in the usual five rounds."""
OF_THEM_IN_MEMORY = 2
"""Per round: their first turns take most of the time, and more are not needed to evict each from its instance."""
FIRST_TURN, ANSWER, NEXT_TURN = 1000, 4, 16
LATER_TURNS = 3
RUNNING = SLOTS - 1
OTHERS, OTHER_TURN = 3, 250
"""Conversations that come and go next to the running requests, and the words of each."""
TARGET, COST_TARGET = 0.3, 0.95


class _Talks:
    """Conversations with one server, each a list of what user and model said."""

    def __init__(self, count: int) -> None:
        self.random = Random(1)  # noqa: S311  # no secrets here
        self.said = [[words(FIRST_TURN, self.random)] for _ in range(count)]

    async def turn(self, server: OurServer, number: int) -> float:
        """Request the next answer of a conversation; return the milliseconds to its first token."""
        said = self.said[number]
        if len(said) > 1:
            said.append(words(NEXT_TURN, self.random))
        one = await _ask(server, said, ANSWER)
        said.append(one.text)
        return one.ttft * 1000

    async def turns(self, server: OurServer, plan: Plan, what: str) -> list[float]:
        """Run one turn of each conversation, one after the other."""
        times = []
        for number in range(len(self.said)):
            plan.told(f"{what}: conversation {number + 1} of {len(self.said)}")
            times.append(await self.turn(server, number))
        return times


async def run(plan: Plan) -> list[Comparison]:
    """Compare the TTFT of later turns with that of first ones, and running requests with and without storing."""
    settings = {"bench": _model(plan)}
    findings = []
    with TemporaryDirectory() as folder:
        disk = {"store": "disk", "options": {"folder": str(Path(folder) / "sessions")}}
        talks = _Talks(plan.rounds * CONVERSATIONS_A_ROUND)
        async with OurServer(settings, disk) as server:
            await _warm_up(server)
            cold = await talks.turns(server, plan, "first turns")
            stored, resident = [], []
            for number in range(len(talks.said)):
                plan.told(f"second and third turns, from disk: conversation {number + 1} of {len(talks.said)}")
                stored.append(await talks.turn(server, number))
                # The third turn comes at once: its conversation is still resident.
                resident.append(await talks.turn(server, number))
        async with OurServer(settings, disk) as server:
            await _warm_up(server)
            restarted = await talks.turns(server, plan, "turns after a restart")
    few = _Talks(plan.rounds * OF_THEM_IN_MEMORY)
    async with OurServer(settings, {"store": "memory"}) as server:
        await _warm_up(server)
        few_cold = await few.turns(server, plan, "first turns, store memory")
        memory = await few.turns(server, plan, "second turns, from memory")
        cost = await _cost(plan, server)
    for where, later, first, size in (
        ("resident", resident, cold, CONVERSATIONS_A_ROUND), ("from memory", memory, few_cold, OF_THEM_IN_MEMORY),
        ("from disk", stored, cold, CONVERSATIONS_A_ROUND),
        ("after a restart, from disk", restarted, cold, CONVERSATIONS_A_ROUND),
    ):
        findings.append(_finding(where, later, first, size))
    return [*findings, cost]


async def _cost(plan: Plan, server: OurServer) -> Comparison:
    """Compare the speed of running requests while other conversations, stored or not, come and go.

    The latter are requested with `cache_prompt: false`; their prompts are evaluated all the same.
    """
    rates: dict[bool, list[float]] = {True: [], False: []}
    for number in range(plan.rounds):
        for stored in sorted(rates, reverse=bool(number % 2)):
            plan.told(f"running requests next to others, stored: {stored}, round {number + 1} of {plan.rounds}")
            random = Random(number + (1000 if stored else 0))  # noqa: S311  # no secrets here
            running = [
                asyncio.create_task(_ask(server, [words(50, random)], plan.max_tokens)) for _ in range(RUNNING)
            ]
            for _ in range(OTHERS):
                await _ask(server, [words(OTHER_TURN, random)], 2, cache_prompt=stored)
            rates[stored].append(output_rate(await asyncio.gather(*running)))
    what = f"{RUNNING} running requests next to others that come and go: these stored, against not"
    return Comparison(what, "tok/s", tuple(rates[True]), tuple(rates[False]), COST_TARGET)


async def _warm_up(server: OurServer) -> None:
    """Let the thread counts settle."""
    for seed in range(2):
        await _ask(server, [words(OTHER_TURN, Random(-seed - 2))], 4 * ANSWER)  # noqa: S311  # no secrets here


async def _ask(server: OurServer, said: Sequence[str], max_tokens: int, *, cache_prompt: bool = True) -> Timeline:
    """Request the next answer to the alternating turns of user and model."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    body = {"model": server.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    one = await completion(server.base_url, {**body, "cache_prompt": cache_prompt})
    if one.error is not None:
        raise ServerSilent(f"{server.name} answers {one.error}")
    return one


def _model(plan: Plan) -> Mapping[str, object]:
    turns = FIRST_TURN + LATER_TURNS * (NEXT_TURN + ANSWER)
    sizes = evolve(plan, prompt_tokens=turns // 2, max_tokens=plan.max_tokens, clients=(SLOTS,))
    return model(sizes)


def _finding(where: str, later: Sequence[float], cold: Sequence[float], size: int) -> Comparison:
    """Return one figure per round: the median of its conversations."""
    ours, reference = (tuple(median(batch) for batch in _batched(times, size)) for times in (later, cold))
    what = f"TTFT of a later turn, {where}, against a first of {FIRST_TURN:,} words"
    return Comparison(what, "ms", ours, reference, TARGET, "at most")


def _batched(times: Sequence[float], size: int) -> Iterator[Sequence[float]]:
    """Cut a sequence into pieces of `size`."""
    return (times[start : start + size] for start in range(0, len(times), size))
