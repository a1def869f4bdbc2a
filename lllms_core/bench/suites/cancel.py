"""The time until a cancelled request frees its slot."""

import asyncio
from itertools import pairwise
from random import Random
from statistics import median
from time import perf_counter

from attrs import evolve

from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import model
from lllms_core.config import parse_config
from lllms_core.host import Host

TARGET = 2.0
LOOK_EVERY = 0.0005


async def run(plan: Plan) -> list[Comparison]:
    """Compare the time from cancel to idle slot with the time of one step of the same answer."""
    idle: list[float] = []
    steps: list[float] = []
    config = parse_config({"models": {"bench": model(evolve(plan, max_tokens=512, clients=(1,)))}})
    async with Host(config) as host:
        for number in range(-1, plan.rounds):
            plan.told(f"cancel {number + 1} of {plan.rounds}")
            prompt = words(plan.prompt_tokens, Random(number + 1))  # noqa: S311  # no secrets here
            request = host.request("bench", prompt=prompt, parameters={"max_tokens": 512, "temperature": 0})
            async with host.submit(request) as stream:
                times: list[float] = []
                while len(times) < 24:
                    await stream.take()
                    times.append(perf_counter())
            begin = perf_counter()
            while host.status().running:  # noqa: ASYNC110  # no event; poll every half millisecond
                await asyncio.sleep(LOOK_EVERY)
            if number >= 0:
                idle.append((perf_counter() - begin) * 1000)
                steps.append(median(later - earlier for earlier, later in pairwise(times[1:])) * 1000)
    what = "from cancel to idle slot, against one step"
    return [Comparison(what, "ms", tuple(idle), tuple(steps), TARGET, "at most")]
