"""Requests that generate while a long prompt is read: their longest wait for a token, in steps."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from random import Random
from statistics import median

from attrs import frozen

from lllms_core.bench.children import OurServer, Peer, ServerProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import LoadTest, calibrate, words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.prompts import LONGEST, answer, sized
from lllms_core.bench.suites.raw import ask_all
from lllms_core.bench.timeline import Timeline, percentile

SIZES = (8_000,)
"""Tokens of the prompt."""
WRITERS = 2
QUESTION = 8
"""Words of the writers' own prompts."""
TARGET = 2.0
USUAL = 95.0
"""The share of the waits, in percent, that are no longer than the usual ones."""


@frozen
class Waits:
    """The times between the tokens of those that generate, in milliseconds."""

    step: float
    """The median while nothing else runs."""
    usual: float
    """What 95 of 100 do not exceed while the prompt is read."""
    longest: float
    prompt: float
    """Until the first token after the prompt."""


async def run(plan: Plan) -> list[Comparison]:
    """Compare the waits while a prompt is read with a step of the writers alone, and with the peers' waits."""
    [size, *_] = plan.sizes or SIZES
    async with AsyncExitStack() as stack:
        plan.told("loading the model in all servers")
        ours = await stack.enter_async_context(OurServer({"bench": sized(plan, size)}))
        peers = [await stack.enter_async_context(Peer(command, plan.file)) for command in plan.peers]
        per_word = await calibrate(LoadTest(ours.base_url, ours.model, chat=False))
        waits: dict[str, list[Waits]] = {server.name: [] for server in (ours, *peers)}
        for number in range(-1, plan.rounds):
            for server in (ours, *peers):
                plan.told(f"a prompt of {size:,} tokens, round {number + 1} of {plan.rounds}: {server.name}")
                count = max(1, round((size if number >= 0 else size / 8) / per_word))
                one = await measure(server, count, plan.max_tokens, seed=number + 1)
                if number >= 0:
                    waits[server.name].append(one)
    mine, *others = ([*waits[server.name]] for server in (ours, *peers))
    steps = tuple(one.step for one in mine)
    longest, usual = tuple(one.longest for one in mine), tuple(one.usual for one in mine)
    what = f"while a prompt of {size:,} tokens is read, {WRITERS} writers"
    findings = [
        Comparison(f"{what}: longest wait for a token, in steps", "ms", longest, steps, TARGET, "at most"),
        Comparison(f"{what}: 95 of 100 waits, in steps", "ms", usual, steps, TARGET, "at most"),
    ]
    for peer, theirs in zip(peers, others, strict=True):
        other = tuple(one.longest for one in theirs)
        first = tuple(one.prompt for one in theirs)
        prompts = tuple(one.prompt for one in mine)
        findings += [
            Comparison(f"{what}: longest wait, against {peer.name}", "ms", longest, other),
            Comparison(f"{what}: TTFT of the prompt, against {peer.name}", "ms", prompts, first),
        ]
    return findings


async def measure(server: ServerProcess, count: int, max_tokens: int, seed: int) -> Waits:
    """Let two clients generate without end, and then send a prompt of `count` words."""
    random = Random(seed)  # noqa: S311  # no secrets here
    written: list[Timeline] = []
    alone = asyncio.Event()
    read = asyncio.Event()

    async def write() -> None:
        while not read.is_set():
            written.extend(await ask_all(server, [words(QUESTION, random)], max_tokens, seconds=LONGEST))
            if len(written) >= 2 * WRITERS:
                alone.set()

    writers = [asyncio.create_task(write()) for _ in range(WRITERS)]
    try:
        waiting = asyncio.create_task(alone.wait())
        await asyncio.wait([waiting, *writers], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        prompt = await answer(partial(ask_all, server), count, random)
    finally:
        read.set()
        await asyncio.gather(*writers)
    begin, end = prompt.start, prompt.start + prompt.ttft
    waits = [pair for one in written for pair in pairwise(time for time, _ in one.arrivals)]
    before = [later - earlier for earlier, later in waits if later <= begin]
    during = [later - earlier for earlier, later in waits if later > begin and earlier < end]
    return Waits(
        median(before) * 1000, percentile(during or [0.0], USUAL) * 1000, max(during, default=0.0) * 1000,
        prompt.ttft * 1000,
    )
