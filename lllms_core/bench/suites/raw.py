"""The same work through a plain llama.cpp loop and through servers, in turns: the cost of serving."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from typing import Protocol

from lllms_core.bench.children import OurServer, Peer, RawLoopProcess, ServerProcess
from lllms_core.bench.comparisons import Comparison, best
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan, people
from lllms_core.bench.timeline import Timeline, decode_rate, output_rate
from lllms_core.bench.traffic import ServerSilent, completion
from lllms_core.machine import available_cores

DECODE, WHOLE = 0.97, 0.95
LONGEST = 30.0
"""Seconds per job; next to other programs, a wrong thread count can be a hundred times slower."""
PEER_TARGETS = {"llama_cpp.server": {1: 1.0, 8: 1.5}, "llama-server": {1: 1.0, 8: 1.0}}
"""By a word in the peer's command: the minimum ratio for each number of clients, with prompts and without."""

Rates = tuple[float, float]
"""Tokens per second: while all were generating, and from the first request to the last token."""


class RawJob(Protocol):
    """Does the work once: answers all prompts at the same time."""

    async def __call__(self, prompts: Sequence[str], max_tokens: int, *, seconds: float) -> list[Timeline]:
        """Answer each prompt with this many tokens, for at most this many seconds."""


async def run(plan: Plan) -> list[Comparison]:
    """Compare our server and the peers with the best fixed thread count of the raw loop."""
    async with AsyncExitStack() as stack:
        plan.told("loading the model in all servers")
        raw = await stack.enter_async_context(RawLoopProcess(plan.file, max(plan.clients), context(plan)))
        ours = await stack.enter_async_context(OurServer({"bench": model(plan)}))
        peers = [await stack.enter_async_context(Peer(command, plan.file)) for command in plan.peers]
        findings = []
        for clients in plan.clients:
            rates = await rounds(plan, raw, [ours, *peers], clients)
            findings += _compare(rates, ours, peers, clients)
        return findings


def context(plan: Plan) -> int:
    """Return the tokens that a sequence must hold; prompts are counted in words of perhaps several tokens."""
    return 8 * plan.prompt_tokens + plan.max_tokens + 256


def model(plan: Plan, threads: int | None = None) -> Mapping[str, object]:
    """Return the model for our server's configuration; the engine chooses the thread count unless it is given."""
    options = {"context_length": context(plan), "slots": max(plan.clients), "threads": threads or "auto"}
    return {"engine": "llamacpp", "file": str(plan.file), "ttl": -1, "options": options}


def thread_counts() -> list[int]:
    """Return the fixed thread counts to try: one, half of the cores, all of them."""
    cores = available_cores()
    return sorted({1, max(1, cores // 2), cores})


async def rounds(
    plan: Plan, raw: RawLoopProcess | None, servers: Sequence[ServerProcess], clients: int, seconds: float = LONGEST,
) -> dict[str, list[Rates]]:
    """Let all do the same work in turns; return each round's rates, by `1 threads`, ... or server name."""
    rates: dict[str, list[Rates]] = {}
    for number in range(-1, plan.rounds):
        random = Random(number * 1000 + clients)  # noqa: S311  # no secrets here
        prompts = [words(plan.prompt_tokens, random) for _ in range(clients)]
        jobs: list[tuple[str, RawJob]] = [(server.name, partial(ask_all, server)) for server in servers]
        if raw is not None:
            jobs += [(fixed(count), partial(raw.run, threads=count)) for count in thread_counts()]
        turn = number % len(jobs)  # rotate, so that none is always first or after the same one
        for name, job in jobs[turn:] + jobs[:turn]:
            told = "warm-up" if number < 0 else f"round {number + 1} of {plan.rounds}"
            plan.told(f"{people(clients)}, {told}: {name}")
            timelines = await job(prompts, plan.max_tokens, seconds=seconds)
            if number >= 0:
                rates.setdefault(name, []).append((decode_rate(timelines), output_rate(timelines)))
    return rates


async def ask_all(
    server: ServerProcess, prompts: Sequence[str], max_tokens: int, seconds: float = LONGEST, name: str | None = None,
) -> list[Timeline]:
    """Send all prompts at once, as text to continue, greedily; to the server's first model unless one is named."""
    body = {"model": name or server.model, "max_tokens": max_tokens, "temperature": 0}
    timelines = await asyncio.gather(*(
        completion(server.base_url, {**body, "prompt": prompt}, seconds=seconds) for prompt in prompts
    ))
    for timeline in timelines:
        if timeline.error is not None:
            raise ServerSilent(f"{server.name} answers {timeline.error}")
    return list(timelines)


def fixed(count: int) -> str:
    """Return the name for a fixed thread count."""
    return f"{count} threads"


def best_fixed(rates: Mapping[str, Sequence[Rates]], which: int) -> tuple[float, ...]:
    """Return the rates of the best fixed thread count, round by round."""
    return best([tuple(rate[which] for rate in rates[fixed(count)]) for count in thread_counts()])


def _compare(
    rates: Mapping[str, Sequence[Rates]], ours: ServerProcess, peers: Sequence[ServerProcess], clients: int,
) -> list[Comparison]:
    who = people(clients)
    decode, whole = (tuple(rate[which] for rate in rates[ours.name]) for which in (0, 1))
    findings = [
        Comparison(f"decode, {who}, against the raw loop", "tok/s", decode, best_fixed(rates, 0), DECODE),
        Comparison(f"prompts and decode, {who}, against the raw loop", "tok/s", whole, best_fixed(rates, 1), WHOLE),
    ]
    for peer in peers:
        targets = next((target for word, target in PEER_TARGETS.items() if word in peer.name), {})
        for which, what, rate in ((0, "decode", decode), (1, "prompts and decode", whole)):
            theirs = tuple(one[which] for one in rates[peer.name])
            told = f"{what}, {who}, against {peer.name}"
            findings.append(Comparison(told, "tok/s", rate, theirs, targets.get(clients)))
    return findings
