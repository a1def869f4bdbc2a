"""The CPU time for bringing tokens from a worker process to the streams of 8 requests."""

import asyncio
import time
from collections.abc import Iterable, Iterator

from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.suite_plan import Plan
from lllms_core.engines import Engine, NoOptions, Progress, SerialModel
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import PoolLimits
from lllms_core.types import Delta, ModelSpec, TextRequest

BUDGET = 50.0
"""Microseconds per token."""
SLOTS, TOKENS, STEP = 8, 400, 0.004


class PacedModel(SerialModel):
    """Gives every open request a token at each step, like a batching engine; a step takes 4 ms without CPU time."""

    slots = SLOTS

    def step(self) -> Iterable[Delta]:
        """Wait for the time of a step, then return the tokens."""
        time.sleep(STEP)
        return super().step()

    def complete(self, prompt: str, request: TextRequest) -> Iterator[str]:  # noqa: ARG002  # the same answer for all
        """Yield the requested number of tokens, and last the CPU time that this process has used meanwhile."""
        begin = time.process_time()
        for _ in range(TOKENS):
            yield " token"
        yield f" {time.process_time() - begin}"


class PacedEngine(Engine):
    """Loads `PacedModel`."""

    name = "bench-paced"
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> PacedModel:  # noqa: ARG002  # nothing to load
        """Return the model."""
        return PacedModel()


async def run(plan: Plan) -> list[Comparison]:
    """Compare the CPU time per token, in this process and in both, with the budget."""
    parent: list[float] = []
    both: list[float] = []
    pool = Pool({"paced": PoolModel(PacedEngine(), ModelSpec("paced", NoOptions()))}, PoolLimits(concurrency=SLOTS))
    await pool.start()
    try:
        for number in range(-1, plan.rounds):
            plan.told(f"wire, round {number + 1} of {plan.rounds}")
            begin = time.process_time()
            answers = await asyncio.gather(*(_answer(pool, f"{number}-{slot}") for slot in range(SLOTS)))
            spent = time.process_time() - begin
            in_worker = max(float(answer.split()[-1]) for answer in answers)
            if number >= 0:
                parent.append(spent / (SLOTS * TOKENS) * 1e6)
                both.append((spent + in_worker) / (SLOTS * TOKENS) * 1e6)
    finally:
        await pool.close(grace=0)
    budget = (BUDGET,) * plan.rounds
    what = "CPU time per token for wire, pool and stream, 8 slots"
    return [
        Comparison(f"{what}: the server, against the budget", "us", tuple(parent), budget, 1, "at most"),
        Comparison(f"{what}: server and worker, against the budget", "us", tuple(both), budget, 1, "at most"),
    ]


async def _answer(pool: Pool, request_id: str) -> str:
    async with pool.submit(TextRequest(request_id, "paced", "go")) as stream:
        return (await stream.gather()).text
