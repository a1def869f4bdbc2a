"""The heap of this process: freed memory that its allocator keeps goes back to the system from time to time.

By itself, glibc returns only the end of each heap. After a large request, a load or an error, many free pages lie
between objects that stay, so a server would stay as large as in its busiest moment.
"""

import asyncio
import ctypes
import sys
import time
from collections.abc import Callable
from functools import cache

SECONDS = 10.0
"""Between two times at which memory goes back; each takes a few milliseconds, in which other threads may wait."""
WORKED = 0.05
"""Seconds of processor time in between without which this process has nothing new to give back."""


async def tend_heap() -> None:
    """Give free memory back while this process works, until cancelled; nothing happens without glibc."""
    if _trim_of_libc() is None:
        return
    worked = 0.0
    while True:
        await asyncio.sleep(SECONDS)
        if time.process_time() - worked >= WORKED:
            await asyncio.to_thread(give_back)
            worked = time.process_time()


def give_back() -> bool:
    """Give the free pages of this process back to the system; return whether there were any."""
    trim = _trim_of_libc()
    return trim is not None and bool(trim(0))


@cache
def _trim_of_libc() -> Callable[[int], int] | None:
    """Return `malloc_trim` of the C library; None for another library than glibc."""
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
