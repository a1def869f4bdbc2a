"""What a server's process owes to others while it runs: to its service manager, as the first process, and memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lllms_core.machine.first_process import Orphans, is_first
from lllms_core.machine.heap import tend_heap
from lllms_core.machine.service_manager import notify, watchdog_seconds

ORPHANS_SECONDS = 3.0
"""Between two looks for orphans that have ended."""


@asynccontextmanager
async def duties() -> AsyncIterator[None]:
    """Meanwhile give free memory back, tell a watchdog that the event loop turns, and as process 1 let orphans go."""
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(tend_heap())]
    if (seconds := watchdog_seconds()) is not None:
        tasks.append(asyncio.create_task(_repeat(lambda: notify("WATCHDOG=1"), seconds / 2)))
    if is_first():
        tasks.append(asyncio.create_task(_repeat(Orphans().look, ORPHANS_SECONDS)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(act: Callable[[], object], seconds: float) -> None:
    while True:
        act()
        await asyncio.sleep(seconds)
