"""Starts: from `lllms serve` to the first token of a model that is loaded for the request."""

from random import Random
from time import perf_counter

from attrs import evolve

from lllms_core.bench.children import OurServer
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import ask_all, model
from lllms_core.bench.suites.swap import first_token


async def run(plan: Plan) -> list[Comparison]:
    """Compare with programs that start, load the model, and generate a token."""
    plan = evolve(plan, clients=(1,), max_tokens=2)
    ours: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in ("", *plan.peers)}
    for number in range(plan.rounds):
        random = Random(number)  # noqa: S311  # no secrets here
        plan.told(f"start {number + 1} of {plan.rounds}")
        begin = perf_counter()
        async with OurServer({"bench": model(plan)}) as server:
            [one] = await ask_all(server, [words(plan.prompt_tokens, random)], plan.max_tokens)
            ours.append((one.arrivals[0][0] - begin) * 1000)
        for command, measured in others.items():
            plan.told(f"start {number + 1} of {plan.rounds}: {command or 'a plain program'}")
            measured.append(await first_token(plan, command, random))
    what = "from lllms serve to the first token, against start and load of"
    return [
        Comparison(f"{what} {command or 'a plain llama.cpp program'}", "ms", tuple(ours), tuple(measured))
        for command, measured in others.items()
    ]
