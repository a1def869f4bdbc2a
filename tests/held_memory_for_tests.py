"""What a process of Python holds: memory in use, without what its allocators keep for later."""

import ctypes
import gc
import signal
import sys
from pathlib import Path

import psutil
from attrs import frozen
from besieged_for_tests import until

_COUNTS = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)


class _Mallinfo(ctypes.Structure):
    """The result of glibc's `mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in _COUNTS]  # how ctypes wants it


@frozen
class Held:
    """The memory that a process has in use."""

    blocks: int
    """Small objects of Python."""
    bytes: int
    """All larger ones, and those of libraries."""


def tell_held(path: Path) -> None:
    """At SIGUSR1, write into this file what the process holds, after it has given the rest back to the system."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo

    def tell(*_: object) -> None:
        gc.collect()
        libc.malloc_trim(0)
        info = libc.mallinfo2()
        part = path.with_suffix(".part")
        part.write_text(f"{sys.getallocatedblocks()} {info.uordblks + info.hblkhd}")
        part.replace(path)

    signal.signal(signal.SIGUSR1, tell)


def ask_held(server: psutil.Process, path: Path) -> Held:
    """Ask a process that has called `tell_held` with this file."""
    path.unlink(missing_ok=True)
    server.send_signal(signal.SIGUSR1)
    until(path.exists, "the process tells what it holds")
    return Held(*map(int, path.read_text().split()))
