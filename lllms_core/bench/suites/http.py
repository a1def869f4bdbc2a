"""Our server on the mock engine against a bare handler that yields ready-made events: the cost of our HTTP code."""

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from lllms_core.bench.children import OurServer, ServerProcess
from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.suite_plan import Plan, people
from lllms_core.bench.suites.raw import ask_all
from lllms_core.bench.timeline import Timeline

TARGET = 0.8
TOKENS = 16000
"""Over all clients together."""


class BareServer(ServerProcess):
    """The minimum that Quart and Hypercorn need."""

    name = "bare"
    model = "bench"

    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "lllms_core.bench.bare_server"])

    async def ready(self) -> None:
        """Wait for the line with the address."""
        self.base_url = f"{(await self.line()).split()[-1]}/v1"


async def run(plan: Plan) -> list[Comparison]:
    """Compare the events per second that clients receive."""
    script = [{"replies": ["token token token token"], "tokens": TOKENS}]
    options = {"script": script, "slots": max(plan.clients), "context_length": 2 * TOKENS}
    findings = []
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(BareServer())
        # In a process, as models usually are: a thread would compete with the server's own for the interpreter.
        mock = {"engine": "mock", "isolation": "process", "ttl": -1, "options": options}
        ours = await stack.enter_async_context(OurServer({"bench": mock}))
        for clients in plan.clients:
            rates: dict[str, list[float]] = {bare.name: [], ours.name: []}
            for number in range(-1, plan.rounds):
                for server in ((bare, ours) if number % 2 else (ours, bare)):
                    plan.told(f"{people(clients)}, round {number + 1} of {plan.rounds}: {server.name}")
                    timelines = await ask_all(server, ["go"] * clients, TOKENS // clients)
                    if number >= 0:
                        rates[server.name].append(_chunks_per_second(timelines))
            what = f"chunks, mock engine, {people(clients)}, against a bare handler"
            findings.append(Comparison(what, "chunks/s", tuple(rates[ours.name]), tuple(rates[bare.name]), TARGET))
    return findings


def _chunks_per_second(timelines: Sequence[Timeline]) -> float:
    duration = max(timeline.end for timeline in timelines) - min(timeline.start for timeline in timelines)
    return sum(len(timeline.arrivals) for timeline in timelines) / duration
