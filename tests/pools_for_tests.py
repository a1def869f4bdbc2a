"""Pools of scripted models, and requests to them, for the tests of workers, the pool and the host."""

import asyncio
import itertools
from typing import Any

import engines_for_tests as engines
from waits_for_tests import GUARD

from lllms_core.engines import Engine
from lllms_core.pool.instance import PATIENCE, Patience
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import ModelLimits, PoolLimits
from lllms_core.types import Isolation, ModelSpec, Request, TextRequest

_numbers = itertools.count(1)


def ask(prompt: str, model: str = "scripted", **fields: Any) -> Request:
    """A request with a unique id."""
    return TextRequest(f"r{next(_numbers)}", model, prompt=prompt, **fields)


class Pools:
    """Starts pools of scripted models."""

    def __init__(self) -> None:
        self.pools: list[Pool] = []

    async def start(
        self,
        options: engines.Options | None = None,
        *,
        isolation: Isolation = "thread",
        limits: PoolLimits | None = None,
        model_limits: ModelLimits | None = None,
        patience: Patience = PATIENCE,
        engine: Engine | None = None,
        models: tuple[str, ...] = ("scripted",),
    ) -> Pool:
        """Start a pool whose models all have these options and limits."""
        entries = {
            name: PoolModel(
                engine or engines.ScriptedEngine(),
                ModelSpec(name, options or engines.Options()),
                model_limits or ModelLimits(),
                isolation,
            )
            for name in models
        }
        pool = Pool(entries, limits or PoolLimits(cores=2), patience=patience)
        self.pools.append(pool)
        async with asyncio.timeout(GUARD):
            await pool.start()
        return pool

    async def close(self) -> None:
        """Close all pools at once."""
        async with asyncio.timeout(GUARD):
            for pool in self.pools:
                await pool.close(grace=0)
