"""The cost of token masks: constrained answers compared with free ones, in turns on one server."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random

from attrs import evolve

from lllms_core.bench.children import OurServer
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan, people
from lllms_core.bench.suites.raw import model
from lllms_core.bench.timeline import Timeline, decode_rate
from lllms_core.bench.traffic import ServerSilent, completion

TARGET = 1 / 1.15
"""The masks may add 15 % to the time of a step."""
TOOLS_TARGET = 1 / 1.03
"""Tools that are offered but not called may add 3 %."""
PROMPT = 8
"""Words of a prompt: only decoding is compared."""
SCHEMAS: Mapping[str, Mapping[str, object]] = {
    # Nearly every token is allowed next; hardly any is.
    "a long text": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "many numbers": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 10**6}, "minItems": 10**4},
}
FREE, CHAT, TOOLS = "", "chat", "chat with tools"
_CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": _CITY}}
KINDS: Mapping[str, Mapping[str, object]] = {
    FREE: {}, **{name: {"json_schema": schema} for name, schema in SCHEMAS.items()},
    CHAT: {"ignore_eos": True}, TOOLS: {"ignore_eos": True, "tools": [TOOL]},
}


async def run(plan: Plan) -> list[Comparison]:
    """Compare decode rates with those of the same prompts without a schema, and without tools."""
    plan = evolve(plan, max_tokens=2 * plan.max_tokens, prompt_tokens=PROMPT)
    findings = []
    plan.told("loading the model")
    async with OurServer({"bench": model(evolve(plan, prompt_tokens=32 * PROMPT))}) as server:
        lengths = dict.fromkeys(KINDS, PROMPT)
        with_tools, without = [await _ask(server, plan, 1, 0, kind) for kind in (TOOLS, CHAT)]
        # The tools are part of the prompt: longer prompts make slower steps.
        lengths[CHAT] += with_tools[0].prompt_tokens - without[0].prompt_tokens
        for clients in plan.clients:
            rates: dict[str, list[float]] = {name: [] for name in KINDS}
            for number in range(-1, plan.rounds):
                plan.told(f"{people(clients)}, {'warm-up' if number < 0 else f'round {number + 1} of {plan.rounds}'}")
                names = [*KINDS]
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    asked = evolve(plan, prompt_tokens=lengths[name])
                    rate = decode_rate(await _ask(server, asked, clients, number, name))
                    if number >= 0:
                        rates[name].append(rate)
            findings += _compare(rates, clients)
    return findings


def _compare(rates: Mapping[str, Sequence[float]], clients: int) -> list[Comparison]:
    found = []
    for name in SCHEMAS:
        what = f"decode, {people(clients)}, {name} in a JSON schema against free text"
        found.append(Comparison(what, "tok/s", tuple(rates[name]), tuple(rates[FREE]), TARGET))
    what = f"decode, {people(clients)}, tools offered and not called against no tools"
    return [*found, Comparison(what, "tok/s", tuple(rates[TOOLS]), tuple(rates[CHAT]), TOOLS_TARGET)]


async def _ask(server: OurServer, plan: Plan, clients: int, number: int, kind: str) -> Sequence[Timeline]:
    random = Random(number * 1000 + clients)  # noqa: S311  # no secrets here
    body = {"model": server.model, "max_tokens": plan.max_tokens, "temperature": 0, **KINDS[kind]}
    prompts = [words(plan.prompt_tokens, random) for _ in range(clients)]
    if kind in {CHAT, TOOLS}:
        asked = [{**body, "messages": [{"role": "user", "content": one}]} for one in prompts]
    else:
        asked = [{**body, "prompt": one} for one in prompts]
    timelines = await asyncio.gather(*(completion(server.base_url, one) for one in asked))
    for timeline in timelines:
        if timeline.error is not None:
            raise ServerSilent(f"{server.name} answers {timeline.error}")
    return timelines
