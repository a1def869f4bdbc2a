"""A thousand stored sessions: the server's memory for them, and what they cost the lookup of another."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from lllms_core.bench.children import OurServer
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import ask_all
from lllms_core.machine import private_memory

SESSIONS, FIRST = 1000, 100
"""FIRST come before the memory is measured for the first time: a server grows with its first requests anyway."""
SHARED, OWN = 1000, 100
"""Words of each prompt: those that all share, and its own."""
LOOKUPS = 20
CLIENTS = 8
MEMORY = 10.0
"""MB for 1,000 sessions on a disk."""
SLOWER = 1.5
"""The time of a request with the store full, to that with the store empty, at most."""
LOOK_EVERY = 0.05


async def run(plan: Plan) -> list[Comparison]:
    """Compare the server's growth with a budget, and requests that look for a session before and after it."""
    grown, before, after = [], [], []
    for number in range(plan.rounds):
        with TemporaryDirectory() as folder:
            store = {"store": "disk", "options": {"folder": str(Path(folder) / "sessions")}}
            options = {"sessions": True, "slots": CLIENTS}
            mock = {"engine": "mock", "isolation": "process", "ttl": -1, "options": options}
            random = Random(number)  # noqa: S311  # no secrets here
            prompts = [words(SHARED, Random(-1)) + words(OWN, random) for _ in range(FIRST + SESSIONS + 2 * LOOKUPS)]  # noqa: S311
            async with OurServer({"bench": mock}, store) as server:
                told = f"round {number + 1} of {plan.rounds}"
                plan.told(f"an empty store, {told}")
                before.append(await _lookups(server, prompts[:LOOKUPS]))
                await _store(server, prompts[LOOKUPS : LOOKUPS + FIRST], Path(folder))
                small = private_memory(server.pid) or 0
                plan.told(f"storing {SESSIONS:,} sessions, {told}")
                await _store(server, prompts[LOOKUPS + FIRST : -LOOKUPS], Path(folder))
                more = max(0, (private_memory(server.pid) or 0) - small)
                grown.append(more / 1e6 * 1000 / SESSIONS)
                plan.told(f"a full store, {told}")
                after.append(await _lookups(server, prompts[-LOOKUPS:]))
    budget = (MEMORY,) * plan.rounds
    return [
        Comparison("memory of the server for 1,000 stored sessions, against the budget", "MB", tuple(grown), budget, 1,
                   "at most"),
        Comparison(f"TTFT on the mock engine with {SESSIONS:,} stored sessions, against an empty store", "ms",
                   tuple(after), tuple(before), SLOWER, "at most"),
    ]


async def _lookups(server: OurServer, prompts: Sequence[str]) -> float:
    """Return the median milliseconds to the first token of requests that find no more than a shared beginning."""
    times = []
    for prompt in prompts:
        [one] = await ask_all(server, [prompt], 2)
        times.append(one.ttft * 1000)
    return median(times)


async def _store(server: OurServer, prompts: Sequence[str], folder: Path) -> None:
    """Send prompts whose sessions are stored, and wait until they are."""
    waiting = iter(prompts)
    there = _count(folder)

    async def client() -> None:
        for prompt in waiting:
            await ask_all(server, [prompt], 2)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    while _count(folder) < there + len(prompts):  # noqa: ASYNC110  # the store tells nobody
        await asyncio.sleep(LOOK_EVERY)


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.session"))
