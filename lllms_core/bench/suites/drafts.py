"""Speculation against the plain loop: answers that repeat their prompt, more or less, and answers that repeat nothing.

The model's weights are random, but each of its words is followed by a certain other one (`random_model.followers`), so
the text of an answer is known, and costs the work of any model of its shape. The prompt holds that text with some words
changed, which stand for what an editor changes: there, drafts are wrong. The server knows nothing of this.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from random import Random

from attrs import evolve

from lllms_core.bench.children import OurServer, RawLoopProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.random_model import SHAPES, followers, vocabulary
from lllms_core.bench.suite_plan import Plan, people
from lllms_core.bench.suites.raw import RawJob, ask_all, best_fixed, context, fixed, model, thread_counts
from lllms_core.bench.timeline import decode_rate

MODEL = "135m-chained"
GAIN, NO_LOSS = 1.3, 0.98
"""The targets: for answers that repeat their prompt, at one client; and for all others."""
AROUND = 12
"""Words of the prompt before and after those that the answer repeats."""
LONGEST = 60.0
"""Seconds per answer."""
RANDOM = "random text"
TASKS: Mapping[str, tuple[int, int]] = {"quote this page": (90, 1), "edit this code": (14, 1), "fill this JSON": (5, 2)}
"""By task: so many words of the prompt as the answer has them, then so many other ones, and so on."""


async def run(plan: Plan) -> list[Comparison]:
    """Compare decode rates with those of the best fixed thread count of the plain loop, which drafts nothing."""
    plan = evolve(plan, max_tokens=2 * plan.max_tokens, prompt_tokens=2 * plan.max_tokens + 2 * AROUND)
    async with AsyncExitStack() as stack:
        plan.told("loading the model")
        raw = await stack.enter_async_context(RawLoopProcess(plan.file, max(plan.clients), context(plan)))
        ours = await stack.enter_async_context(OurServer({"bench": model(plan)}))
        findings = []
        for clients in plan.clients:
            rates: dict[str, dict[str, list[float]]] = {}
            for number in range(-1, plan.rounds):
                told = f"{people(clients)}, {'warm-up' if number < 0 else f'round {number + 1} of {plan.rounds}'}"
                for task in (*TASKS, RANDOM):
                    random = Random(f"{task} {number} {clients}")  # noqa: S311  # no secrets here
                    prompts = [write_prompt(task, plan.max_tokens, random) for _ in range(clients)]
                    jobs: list[tuple[str, RawJob]] = [(ours.name, partial(ask_all, ours))]
                    jobs += [(fixed(count), partial(raw.run, threads=count)) for count in thread_counts()]
                    turn = number % len(jobs)
                    for name, job in jobs[turn:] + jobs[:turn]:
                        plan.told(f"{told}, {task}: {name}")
                        rate = decode_rate(await job(prompts, plan.max_tokens, seconds=LONGEST))
                        if number >= 0:
                            rates.setdefault(task, {}).setdefault(name, []).append(rate)
            findings += _compare(rates, ours.name, clients)
        return findings


def write_prompt(task: str, count: int, random: Random) -> str:
    """Return a prompt whose answer, of `count` words, is found in it as far as the task says."""
    size = SHAPES[MODEL].vocabulary
    ring, tokens = followers(size), vocabulary(size)[0]
    place = random.randrange(len(ring))
    answer = [ring[(place + at) % len(ring)] for at in range(count + 1)]
    same, other = TASKS.get(task, (0, 1))
    changed = [random.choice(ring) if at % (same + other) >= same else token for at, token in enumerate(answer)]
    before, after = ([random.choice(ring) for _ in range(AROUND)] for _ in range(2))
    text = [*before, *changed, *after, answer[0]]
    return "".join(tokens[token].replace("Ġ", " ") for token in text)


def _compare(rates: Mapping[str, Mapping[str, Sequence[float]]], ours: str, clients: int) -> list[Comparison]:
    found, sums = [], []
    for task, measured in rates.items():
        mine = tuple(measured[ours])
        reference = best_fixed({name: [(rate, rate) for rate in one] for name, one in measured.items()}, 0)
        target = NO_LOSS if clients > 1 or task == RANDOM else None
        found.append(Comparison(f"decode, {people(clients)}, {task}", "tok/s", mine, reference, target))
        if task != RANDOM:
            sums.append((mine, reference))
    # Equally long answers, one after the other: the mean of the times.
    mine, reference = (tuple(map(_mean_rate, zip(*(one[side] for one in sums), strict=True))) for side in (0, 1))
    target = GAIN if clients == 1 else NO_LOSS
    return [*found, Comparison(f"decode, {people(clients)}, the three tasks", "tok/s", mine, reference, target)]


def _mean_rate(rates: Sequence[float]) -> float:
    return len(rates) / sum(1 / rate for rate in rates) if all(rates) else 0.0
