"""Swaps: from a request for a model that is not loaded to its first token, with room for one of two models."""

import asyncio
import itertools
from random import Random
from time import perf_counter

from attrs import evolve

from lllms_core.bench.children import OurServer, Peer, RawLoopProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites.raw import LONGEST, ask_all, context, model
from lllms_core.bench.timeline import Timeline
from lllms_core.bench.traffic import ServerSilent, completion
from lllms_core.machine import available_cores

TARGET = 1.3
PAUSE = 2.0
"""Seconds after a swap in which the next spare worker gets ready, and disturbs no other measurement."""
LOOK_EVERY = 0.005
NAMES = ("first", "second")
"""Both are the same file: what a load costs does not depend on which of two files the page cache holds."""


async def run(plan: Plan) -> list[Comparison]:
    """Compare swaps, with and without a spare worker, with programs that start and load the model."""
    plan = evolve(plan, clients=(1,), max_tokens=2)
    models = {name: model(plan) for name in NAMES}
    room = {"max_instances": 1}
    warm, cold = [], []
    others: dict[str, list[float]] = {name: [] for name in ("", *plan.peers)}
    async with (
        OurServer(models, server=room) as ours,
        OurServer(models, name="lllms without spare workers", server={**room, "spare_workers": 0}) as bare,
    ):
        names = itertools.cycle(NAMES)
        for number in range(-1, plan.rounds):
            random, name = Random(number + 1), next(names)  # noqa: S311  # no secrets here
            plan.told(f"swap {number + 1} of {plan.rounds}")
            times = []
            for server in (ours, bare):
                [one] = await ask_all(server, [words(plan.prompt_tokens, random)], plan.max_tokens, name=name)
                times.append(one.ttft * 1000)
                await asyncio.sleep(PAUSE)
            for command, measured in others.items():
                plan.told(f"start and load {number + 1} of {plan.rounds}: {command or 'a plain program'}")
                measured.append(await first_token(plan, command, random))
            if number < 0:
                others = {command: [] for command in others}
            else:
                warm.append(times[0])
                cold.append(times[1])
    what = "from a request to its first token, with another model unloaded for it"
    findings = []
    for command, measured in others.items():
        against = f"against start and load of {command or 'a plain llama.cpp program'}"
        findings += [
            Comparison(f"{what}, {against}", "ms", tuple(warm), tuple(measured), TARGET, "at most"),
            Comparison(f"the same without a spare worker, {against}", "ms", tuple(cold), tuple(measured)),
        ]
    return findings


async def first_token(plan: Plan, command: str, random: Random) -> float:
    """Return the milliseconds from the start of a program to its first token: a peer's, or the raw loop's for ""."""
    prompt = words(plan.prompt_tokens, random)
    begin = perf_counter()
    if not command:
        async with RawLoopProcess(plan.file, 1, context(plan)) as raw:
            await raw.run([prompt], 1, available_cores(), LONGEST)
            return (perf_counter() - begin) * 1000
    async with Peer(command, plan.file, LOOK_EVERY) as peer:
        one = await _ask_until_loaded(peer, prompt)
        return (one.arrivals[0][0] - begin) * 1000


async def _ask_until_loaded(peer: Peer, prompt: str) -> Timeline:
    """Return the first answer of a server that refuses requests until its model is loaded."""
    while True:
        one = await completion(
            peer.base_url, {"model": peer.model, "prompt": prompt, "max_tokens": 2, "temperature": 0},
        )
        if one.arrivals:
            return one
        if one.error is None or not one.error.startswith("503"):
            raise ServerSilent(f"{peer.name} answers {one.error}")
        await asyncio.sleep(LOOK_EVERY)
