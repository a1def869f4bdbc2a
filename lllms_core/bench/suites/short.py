"""Short answers: requests per second of many clients, on the mock engine and on a tiny model."""

import asyncio
from contextlib import AsyncExitStack
from random import Random
from time import perf_counter

from lllms_core.bench.children import OurServer, Peer, ServerProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.load import words
from lllms_core.bench.suite_plan import Plan, people
from lllms_core.bench.suites.http import BareServer
from lllms_core.bench.suites.raw import ask_all, model

MODEL = "tiny"
REQUESTS = 200
"""Over all clients together."""
QUESTION, ANSWER = 8, 4
"""Words of a prompt, tokens of an answer."""
PEER_TARGET = 0.5


async def run(plan: Plan) -> list[Comparison]:
    """Compare the mock engine with a bare handler, and the tiny model with the peers."""
    findings = []
    options = {"slots": max(plan.clients)}
    sizes = Plan(plan.file, prompt_tokens=QUESTION, max_tokens=ANSWER, clients=plan.clients)
    async with AsyncExitStack() as stack:
        plan.told("starting the servers")
        bare = await stack.enter_async_context(BareServer())
        mock = {"engine": "mock", "isolation": "process", "ttl": -1, "options": options}
        scripted = await stack.enter_async_context(OurServer({"bench": mock}, name="mock"))
        ours = await stack.enter_async_context(OurServer({"bench": model(sizes)}))
        peers = [await stack.enter_async_context(Peer(command, plan.file)) for command in plan.peers]
        for clients in plan.clients:
            rates: dict[str, list[float]] = {}
            for number in range(-1, plan.rounds):
                servers: list[ServerProcess] = [bare, scripted, ours, *peers]
                turn = number % len(servers)
                for server in servers[turn:] + servers[:turn]:
                    plan.told(f"{people(clients)}, round {number + 1} of {plan.rounds}: {server.name}")
                    rate = await _rate(server, clients, seed=number + 1)
                    if number >= 0:
                        rates.setdefault(server.name, []).append(rate)
            what = f"short answers, {people(clients)}"
            findings.append(_compare(f"{what}, mock engine, against a bare handler", rates, scripted, bare))
            findings.append(_compare(f"{what}, tiny model, against the mock engine", rates, ours, scripted))
            findings += [
                _compare(f"{what}, tiny model, against {peer.name}", rates, ours, peer, PEER_TARGET) for peer in peers
            ]
    return findings


async def _rate(server: ServerProcess, clients: int, seed: int) -> float:
    """Return the requests per second of this many clients, each of which sends its next after each answer."""
    random = Random(seed)  # noqa: S311  # no secrets here
    waiting = iter([words(QUESTION, random) for _ in range(REQUESTS)])

    async def client() -> None:
        for prompt in waiting:
            await ask_all(server, [prompt], ANSWER)

    begin = perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return REQUESTS / (perf_counter() - begin)


def _compare(
    what: str, rates: dict[str, list[float]], one: ServerProcess, other: ServerProcess, target: float | None = None,
) -> Comparison:
    return Comparison(what, "requests/s", tuple(rates[one.name]), tuple(rates[other.name]), target)
