"""What a process of Python holds: memory in use, without what its allocators keep for later, and threads."""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from attrs import frozen
from besieged_for_tests import until

PATIENCE = 20.0
_COUNTS = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)

POOLS = {
    "asyncio_": min(32, (os.cpu_count() or 1) + 4), "lllms-reader_": 1, "lllms-checker_": 1, "lllms-documents_": 1,
}
"""The most threads of each pool, which stay once they were needed: of the event loop's executor, and of ours."""


class _Mallinfo(ctypes.Structure):
    """The result of glibc's `mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in _COUNTS]  # how ctypes wants it


@frozen
class Held:
    """The memory that a process has in use, and its threads."""

    blocks: int
    """Small objects of Python."""
    bytes: int
    """All larger ones, and those of libraries."""
    threads: Counter[str]
    """By their names without numbers."""

    def more_threads(self, before: "Held") -> Counter[str]:
        """Return the threads beyond those of before, and beyond the bounds of pools."""
        return self.threads - (before.threads | Counter(POOLS))

    def __str__(self) -> str:
        return f"{self.blocks} blocks and {self.bytes / 2**20:.1f} MiB in use"


def tell_held(path: Path) -> None:
    """At SIGUSR1, write into this file what the process holds, after it has given the rest back to the system."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo

    def tell(*_: object) -> None:
        gc.collect()
        libc.malloc_trim(0)
        info = libc.mallinfo2()
        part = path.with_suffix(".part")
        names = [one.name.rstrip("0123456789") for one in threading.enumerate()]
        part.write_text(json.dumps([sys.getallocatedblocks(), info.uordblks + info.hblkhd, names]))
        part.replace(path)

    signal.signal(signal.SIGUSR1, tell)


def ask_held(server: psutil.Process, path: Path, like: Held | None = None) -> Held:
    """Ask a process that has called `tell_held` with this file, again for a while if it has more threads than `like`.

    A thread that waits for nothing but the end of a time, like that of a repeated exception, passes.
    """
    end = time.monotonic() + PATIENCE
    while True:
        path.unlink(missing_ok=True)
        server.send_signal(signal.SIGUSR1)
        until(path.exists, "the process tells what it holds")
        blocks, size, names = json.loads(path.read_text())
        held = Held(blocks, size, Counter(names))
        if like is None or not held.more_threads(like) or time.monotonic() > end:
            return held
