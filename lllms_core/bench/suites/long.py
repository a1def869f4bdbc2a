"""Time to the first token of very long prompts, with a small model: what grows faster than the prompt shows here."""

from contextlib import AsyncExitStack
from functools import partial
from random import Random

from lllms_core.bench.children import OurServer, Peer, RawLoopProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import LoadTest, calibrate
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.prompts import RAW, Times, compare, first_token, sized
from lllms_core.bench.suites.raw import RawJob, ask_all
from lllms_core.machine import available_cores

MODEL = "long"
SIZES = (8_000, 32_000)
"""Tokens of the prompts."""
TURNS = "in turns"


async def run(plan: Plan) -> list[Comparison]:
    """Compare our server with the raw loop and the peers."""
    sizes = plan.sizes or SIZES
    times: Times = {}
    async with AsyncExitStack() as stack:
        plan.told("loading the model in all servers")
        raw = await stack.enter_async_context(RawLoopProcess(plan.file, 1, 2 * max(sizes) + 256))
        ours = await stack.enter_async_context(OurServer({"bench": sized(plan, max(sizes))}))
        peers = [await stack.enter_async_context(Peer(command, plan.file)) for command in plan.peers]
        jobs: dict[str, RawJob] = {server.name: partial(ask_all, server) for server in (ours, *peers)}
        jobs[RAW] = partial(raw.run, threads=available_cores())
        per_word = await calibrate(LoadTest(ours.base_url, ours.model, chat=False))
        for number in range(-1, plan.rounds):
            random = Random(number + 1)  # noqa: S311  # no secrets here
            turn = number % len(jobs)
            for size in sizes if number >= 0 else sizes[:1]:
                for name in [*jobs][turn:] + [*jobs][:turn]:
                    plan.told(f"{size:,} tokens, round {number + 1} of {plan.rounds}: {name}")
                    one = await first_token(jobs[name], max(1, round(size / per_word)), random)
                    if number >= 0:
                        times.setdefault((TURNS, size, name), []).append(one)
    return compare(times, ours.name)
