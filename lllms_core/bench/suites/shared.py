"""64 conversations over 4 slots, all with the same long system prompt: how much of it is evaluated more than once."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from random import Random
from time import perf_counter

from attrs import frozen

from lllms_core.bench.children import OurServer, Peer, ServerProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import model
from lllms_core.bench.timeline import Timeline
from lllms_core.bench.traffic import ServerSilent, completion

CONVERSATIONS, SLOTS, TURNS = 64, 4, 2
SYSTEM, QUESTION, ANSWER = 2000, 30, 16
"""Words of the system prompt and of each question, tokens of each answer."""
TARGET = 0.05
"""Prompt tokens that are evaluated, of all; with these sizes, 0.02 are new."""


@frozen
class Talked:
    """The sums of one round."""

    evaluated: int
    """Prompt tokens that were not cached."""
    prompts: int
    """All prompt tokens."""
    seconds: float

    @property
    def turns(self) -> float:
        """Turns per second."""
        return CONVERSATIONS * TURNS / self.seconds


async def run(plan: Plan) -> list[Comparison]:
    """Compare the evaluated tokens with the new ones, and the turns per second with the peers'."""
    [size, *_] = plan.sizes or (SYSTEM,)
    plan_of_slots = Plan(plan.file, prompt_tokens=-(-size // 4) + 64, max_tokens=plan.max_tokens, clients=(SLOTS,))
    talked: dict[str, list[Talked]] = {}
    async with AsyncExitStack() as stack:
        plan.told("loading the model in all servers")
        ours = await stack.enter_async_context(OurServer({"bench": model(plan_of_slots)}))
        peers = [await stack.enter_async_context(Peer(command, plan.file)) for command in plan.peers]
        for number in range(plan.rounds):
            for server in (ours, *peers):
                plan.told(f"{CONVERSATIONS} conversations, round {number + 1} of {plan.rounds}: {server.name}")
                talked.setdefault(server.name, []).append(await _talk(server, size, seed=number))
    mine = talked[ours.name]
    what = f"{CONVERSATIONS} conversations over {SLOTS} slots, a shared system prompt of {size:,} words"
    evaluated, all_tokens = tuple(float(one.evaluated) for one in mine), tuple(float(one.prompts) for one in mine)
    findings = [Comparison(f"{what}: evaluated, of all", "tokens", evaluated, all_tokens, TARGET, "at most")]
    rate = tuple(one.turns for one in mine)
    for peer in peers:
        theirs = talked[peer.name]
        findings += [
            Comparison(
                f"{what}: evaluated, against {peer.name}", "tokens", evaluated,
                tuple(float(one.evaluated) for one in theirs),
            ),
            Comparison(f"{what}, against {peer.name}", "turns/s", rate, tuple(one.turns for one in theirs)),
        ]
    return findings


async def _talk(server: ServerProcess, size: int, seed: int) -> Talked:
    """Run all conversations, turn by turn, as many at once as there are slots."""
    random = Random(seed)  # noqa: S311  # no secrets here
    system = words(size, random)
    talks = [[system] for _ in range(CONVERSATIONS)]
    asked: list[Timeline] = []

    async def client(waiting: Iterator[list[str]]) -> None:
        for said in waiting:
            said.append(words(QUESTION, random))
            one = await _ask(server, said)
            asked.append(one)
            said.append(one.text)

    begin = perf_counter()
    for _ in range(TURNS):
        waiting = iter(talks)
        await asyncio.gather(*(client(waiting) for _ in range(SLOTS)))
    seconds = perf_counter() - begin
    prompts = sum(one.prompt_tokens for one in asked)
    return Talked(prompts - sum(one.cached_tokens for one in asked), prompts, seconds)


async def _ask(server: ServerProcess, said: list[str]) -> Timeline:
    """Request the next answer after the system prompt and the alternating turns of user and model."""
    roles = ["system", *("assistant" if place % 2 else "user" for place in range(len(said) - 1))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    one = await completion(
        server.base_url, {"model": server.model, "messages": messages, "max_tokens": ANSWER, "temperature": 0},
    )
    if one.error is not None:
        raise ServerSilent(f"{server.name} answers {one.error}")
    return one
