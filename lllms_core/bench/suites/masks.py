"""Answers constrained by a JSON schema against free ones, in turns on one server: the cost of token masks."""

import asyncio
from collections.abc import Mapping
from random import Random

from attrs import evolve

from lllms_core.bench.children import OurServer
from lllms_core.bench.findings import Finding
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan, people
from lllms_core.bench.suites.raw import model
from lllms_core.bench.timeline import Timeline, decode_rate
from lllms_core.bench.traffic import ServerSilent, completion

TARGET = 1 / 1.15
"""The masks may add 15 % to the time of a step."""
PROMPT = 8
"""Words of a prompt: only decoding is compared."""
SCHEMAS: Mapping[str, Mapping[str, object]] = {
    # Nearly every token is allowed next; hardly any is.
    "a long text": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "many numbers": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 10**6}, "minItems": 10**4},
}


async def run(plan: Plan) -> list[Finding]:
    """Compare decode rates with those of the same prompts without a schema."""
    plan = evolve(plan, max_tokens=2 * plan.max_tokens, prompt_tokens=PROMPT)
    kinds: dict[str, Mapping[str, object]] = {"": {}}
    kinds |= {name: {"json_schema": schema} for name, schema in SCHEMAS.items()}
    findings = []
    plan.told("loading the model")
    async with OurServer({"bench": model(plan)}) as server:
        for clients in plan.clients:
            rates: dict[str, list[float]] = {name: [] for name in kinds}
            for number in range(-1, plan.rounds):
                plan.told(f"{people(clients)}, {'warm-up' if number < 0 else f'round {number + 1} of {plan.rounds}'}")
                names = [*kinds]
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    rate = decode_rate(await _ask(server, plan, clients, number, kinds[name]))
                    if number >= 0:
                        rates[name].append(rate)
            free = tuple(rates[""])
            for name in SCHEMAS:
                what = f"decode, {people(clients)}, {name} in a JSON schema against free text"
                findings.append(Finding(what, "tok/s", tuple(rates[name]), free, TARGET))
    return findings


async def _ask(
    server: OurServer, plan: Plan, clients: int, number: int, constraint: Mapping[str, object],
) -> list[Timeline]:
    random = Random(number * 1000 + clients)  # noqa: S311  # no secrets here
    body = {"model": server.model, "max_tokens": plan.max_tokens, "temperature": 0, **constraint}
    prompts = [words(plan.prompt_tokens, random) for _ in range(clients)]
    timelines = await asyncio.gather(*(completion(server.base_url, {**body, "prompt": one}) for one in prompts))
    for timeline in timelines:
        if timeline.error is not None:
            raise ServerSilent(f"{server.name} answers {timeline.error}")
    return list(timelines)
