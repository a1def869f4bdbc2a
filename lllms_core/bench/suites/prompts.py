"""Time to the first token of short, middling and long prompts, of one client: in turns with other servers, and alone.

In turns, each request follows one to another program, which may not have come to rest yet. In blocks, each program gets
several requests after a pause.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from statistics import median

from attrs import evolve

from lllms_core.bench.children import OurServer, Peer, RawLoopProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import LoadTest, calibrate, words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import RawJob, ask_all, model
from lllms_core.bench.timeline import Timeline
from lllms_core.bench.traffic import ServerSilent
from lllms_core.machine import available_cores

SIZES = (10, 300, 3000)
"""Tokens of the prompts."""
TARGET = 1.1
BLOCK = 3
"""Requests of a block, whose median counts."""
PAUSE = 2.5
"""Seconds of rest before a block."""
ANSWER = 2
LONGEST = 300.0
"""Seconds per request."""
RAW = "the raw loop"
TURNS, BLOCKS = "in turns", "in blocks"

Times = dict[tuple[str, int, str], list[float]]
"""Milliseconds to the first token, round by round; by the way of asking, the size of the prompt, and the program."""


async def run(plan: Plan) -> list[Comparison]:
    """Compare our server with the raw loop, with a thread for each core, and with the peers."""
    sizes = plan.sizes or SIZES
    async with AsyncExitStack() as stack:
        plan.told("loading the model in all servers")
        raw = await stack.enter_async_context(RawLoopProcess(plan.file, 1, 2 * max(sizes) + 256))
        ours = await stack.enter_async_context(OurServer({"bench": sized(plan, max(sizes))}))
        peers = [await stack.enter_async_context(Peer(command, plan.file)) for command in plan.peers]
        jobs: dict[str, RawJob] = {server.name: partial(ask_all, server) for server in (ours, *peers)}
        jobs[RAW] = partial(raw.run, threads=available_cores())
        per_word = await calibrate(LoadTest(ours.base_url, ours.model, chat=False))
        times = await _rounds(plan, jobs, {size: max(1, round(size / per_word)) for size in sizes})
    return compare(times, ours.name)


def sized(plan: Plan, size: int) -> Mapping[str, object]:
    """Return the model for our server's configuration, with room for prompts of about this many tokens."""
    return model(evolve(plan, prompt_tokens=-(-size // 4), max_tokens=ANSWER))


def compare(times: Times, ours: str) -> list[Comparison]:
    """Return a finding for each way of asking, size and other program."""
    findings = []
    for (way, size, name), others in times.items():
        if name == ours:
            continue
        what = f"TTFT, prompt of {size:,} tokens, {way}, against {name}"
        target = None if name == RAW else TARGET
        findings.append(Comparison(what, "ms", tuple(times[way, size, ours]), tuple(others), target, "at most"))
    return findings


async def first_token(job: RawJob, count: int, random: Random) -> float:
    """Return the milliseconds until the first token after a new prompt of `count` words."""
    return (await answer(job, count, random)).ttft * 1000


async def answer(job: RawJob, count: int, random: Random) -> Timeline:
    """Return a short answer to a new prompt of `count` words. Raises `ServerSilent` if no text comes."""
    [one] = await job([words(count, random)], ANSWER, seconds=LONGEST)
    if not one.arrivals:
        raise ServerSilent(
            f"to a prompt of {count:,} words no text came within {LONGEST:.0f} s, or none at all; take shorter ones "
            "(--sizes), or a model that does not end at once",
        )
    return one


async def _rounds(plan: Plan, jobs: Mapping[str, RawJob], counts: Mapping[int, int]) -> Times:
    """Ask all programs; `counts` has the words of each size."""
    times: Times = {}
    for number in range(-1, plan.rounds):
        random = Random(number + 1)  # noqa: S311  # no secrets here
        turn = number % len(jobs)  # rotate, so that none is always first or after the same one
        names = [*jobs][turn:] + [*jobs][:turn]
        for size, count in counts.items():
            told = f"{size:,} tokens, {'warm-up' if number < 0 else f'round {number + 1} of {plan.rounds}'}"
            measured: dict[tuple[str, str], list[float]] = {}
            for _ in range(BLOCK):
                for name in names:
                    plan.told(f"{told}, {TURNS}: {name}")
                    measured.setdefault((TURNS, name), []).append(await first_token(jobs[name], count, random))
            for name in names if number >= 0 else ():
                plan.told(f"{told}, {BLOCKS}: {name}")
                await asyncio.sleep(PAUSE)
                measured[BLOCKS, name] = [await first_token(jobs[name], count, random) for _ in range(BLOCK)]
            for (way, name), one in measured.items() if number >= 0 else ():
                times.setdefault((way, size, name), []).append(median(one))
    return times
