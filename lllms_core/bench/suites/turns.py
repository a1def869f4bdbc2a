"""A long conversation: the tokens evaluated for the first turn are not evaluated again for the second."""

from random import Random

from attrs import evolve

from lllms_core.bench.children import OurServer
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import LoadTest, ask, words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import model
from lllms_core.bench.traffic import ServerSilent

FIRST_TURN, ANSWER, SECOND_TURN = 1000, 32, 16
TARGET = 0.2


async def run(plan: Plan) -> list[Comparison]:
    """Compare the time to first token of a second turn with that of the first, of about 1,000 tokens."""
    first: list[float] = []
    second: list[float] = []
    sizes = evolve(plan, prompt_tokens=FIRST_TURN, max_tokens=ANSWER, clients=(1,))
    async with OurServer({"bench": model(sizes)}) as server:
        load = LoadTest(server.base_url, server.model, max_tokens=ANSWER)
        for number in range(-1, plan.rounds):
            plan.told(f"conversation {number + 1} of {plan.rounds}")
            random = Random(number + 1)  # noqa: S311  # no secrets here; Random(-1) would be Random(1)
            said = [words(FIRST_TURN, random)]
            one = await ask(load, said)
            said += [one.text, words(SECOND_TURN, random)]
            two = await ask(load, said)
            for timeline in (one, two):
                if timeline.error is not None:
                    raise ServerSilent(f"{server.name} answers {timeline.error}")
            if number >= 0:
                first.append(one.ttft * 1000)
                second.append(two.ttft * 1000)
    what = f"TTFT of the second turn against the first, of {FIRST_TURN:,} words"
    return [Comparison(what, "ms", tuple(second), tuple(first), TARGET, "at most")]
