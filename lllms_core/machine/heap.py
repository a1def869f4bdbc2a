"""The heap of this process: freed memory that its allocator keeps goes back to the system from time to time.

By itself, glibc returns only the end of each heap. After a large request, a load or an error, many free pages lie
between objects that stay, so a server would stay as large as in its busiest moment. Nor does it return every end: the
larger the blocks that a process has freed, the more it keeps, in each thread's heap, and none of that on request.
"""

import asyncio
import ctypes
import sys
import time
from functools import cache

SECONDS = 10.0
"""Between two times at which memory goes back; each takes a few milliseconds, in which other threads may wait."""
WORKED = 0.05
"""Seconds of processor time in between without which this process has nothing new to give back."""
END, MAPPED = 128 << 10, 1 << 20
"""In bytes: the free end that each heap may keep, and the size from which a block is no part of a heap: the system gets
it back as soon as it is freed. The first is what glibc starts with."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The numbers of two parameters of glibc's `mallopt`."""


async def tend_heap() -> None:
    """Give free memory back while this process works, until cancelled; nothing happens without glibc."""
    if _glibc() is None:
        return
    keep_short_ends()
    worked = 0.0
    while True:
        await asyncio.sleep(SECONDS)
        if time.process_time() - worked >= WORKED:
            await asyncio.to_thread(give_back)
            worked = time.process_time()


def keep_short_ends() -> None:
    """From now on, return the free end of each heap to the system once it exceeds `END`; nothing happens without glibc.

    With one of these parameters set, glibc no longer raises them as large blocks are freed, up to 64 MiB per heap.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_TRIM_THRESHOLD, END)
        libc.mallopt(_MMAP_THRESHOLD, MAPPED)


def give_back() -> bool:
    """Give the free pages of this process back to the system; return whether there were any."""
    libc = _glibc()
    return libc is not None and bool(libc.malloc_trim(0))


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process; None for another one than glibc."""
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    return libc if hasattr(libc, "malloc_trim") else None
