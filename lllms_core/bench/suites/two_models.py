"""Two models that generate at once and have to share the cores."""

import asyncio
from contextlib import AsyncExitStack
from random import Random

from attrs import evolve

from lllms_core.bench.children import OurServer, RawLoopProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import LONGEST, ask_all, context, model
from lllms_core.bench.timeline import decode_rate

TARGET = 0.9


async def run(plan: Plan) -> list[Comparison]:
    """Compare both together with two raw loops of one thread each."""
    plan = evolve(plan, clients=(1,))
    names = ("first", "second")
    ours: list[float] = []
    reference: list[float] = []
    async with AsyncExitStack() as stack:
        plan.told("loading the models")
        raws = [await stack.enter_async_context(RawLoopProcess(plan.file, 1, context(plan))) for _ in names]
        server = await stack.enter_async_context(OurServer({name: model(plan) for name in names}))
        for number in range(-1, plan.rounds):
            random = Random(number + 1)  # noqa: S311  # no secrets here; Random(-1) would be Random(1)
            prompts = [words(plan.prompt_tokens, random) for _ in names]
            plan.told(f"two models, round {number + 1} of {plan.rounds}")
            both = await asyncio.gather(*(
                raw.run([prompt], plan.max_tokens, 1, LONGEST) for raw, prompt in zip(raws, prompts, strict=True)
            ))
            through = await asyncio.gather(*(
                ask_all(server, [prompt], plan.max_tokens, name=name)
                for name, prompt in zip(names, prompts, strict=True)
            ))
            if number >= 0:
                reference.append(decode_rate([timeline for one in both for timeline in one]))
                ours.append(decode_rate([timeline for one in through for timeline in one]))
    what = "two models at once, together, against two raw loops of one thread each"
    return [Comparison(what, "tok/s", tuple(ours), tuple(reference), TARGET)]
