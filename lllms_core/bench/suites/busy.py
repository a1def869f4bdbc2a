"""Our server against itself with fixed thread counts, on an idle machine and next to a program that uses every core."""

from contextlib import AsyncExitStack

from attrs import evolve

from lllms_core.bench.children import BusyNeighbour, OurServer
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.suite_plan import Plan, people
from lllms_core.bench.suites.raw import best_fixed, fixed, model, rounds, thread_counts
from lllms_core.machine import available_cores

QUIET, BESIDE = 0.97, 0.8
LONGEST = 5.0
"""Seconds per job in a round: next to a busy program, a wrong thread count can be a hundred times slower."""
PROMPT = 8
"""Words of a prompt: only decoding is compared, so it should start at once."""


async def run(plan: Plan) -> list[Comparison]:
    """Compare decode rates with those of the best fixed thread count under the same load."""
    plan = evolve(plan, max_tokens=2 * plan.max_tokens, prompt_tokens=PROMPT)
    findings: list[Comparison] = []
    async with AsyncExitStack() as stack:
        plan.told("loading the model in all servers")
        ours = await stack.enter_async_context(OurServer({"bench": model(plan)}))
        others = [
            await stack.enter_async_context(OurServer({"bench": model(plan, count)}, name=fixed(count)))
            for count in thread_counts()
        ]
        for beside, target in (("on an idle machine", QUIET), ("next to a busy program", BESIDE)):
            if target == BESIDE:
                await stack.enter_async_context(BusyNeighbour(plan.file, available_cores()))
            for clients in plan.clients:
                rates = await rounds(plan, None, [ours, *others], clients, LONGEST)
                decode = tuple(rate[0] for rate in rates[ours.name])
                what = f"decode, {people(clients)}, {beside}, against the best fixed thread count"
                findings.append(Comparison(what, "tok/s", decode, best_fixed(rates, 0), target))
    return findings
