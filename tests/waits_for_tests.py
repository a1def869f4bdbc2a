"""How long tests wait, and how they wait for a condition that has no event."""

import asyncio
import time
from collections.abc import Callable

import psutil

GUARD = 60.0
"""Seconds after which a test fails instead of waiting on: so many that a loaded machine never needs them."""


async def until(condition: Callable[[], object], pause: float = 0.005) -> None:
    """Wait until a condition holds that has no event; look every `pause` seconds."""
    async with asyncio.timeout(GUARD):
        while not condition():  # noqa: ASYNC110  # as the docstring says
            await asyncio.sleep(pause)


def poll(condition: Callable[[], object], pause: float = 0.01) -> None:
    """Like `until`, for tests without an event loop."""
    end = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < end
        time.sleep(pause)


def has_ended(pid: int) -> bool:
    """Whether a process has ended, even if nobody has waited for it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
