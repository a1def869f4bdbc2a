"""Other processes: their memory, as Linux counts it, and the parent with which a process ends."""

import ctypes
import os
import signal
import sys

from lllms_core.machine.control_groups import read_text

PR_SET_PDEATHSIG = 1
_PRIVATE = ("RssAnon", "RssShmem", "VmSwap")


def private_memory(pid: int) -> int | None:
    """Return the bytes of memory that only this process uses, those in swap included; None if the system does not tell.

    Pages of files, such as mapped weights, do not count: the kernel can take them back. It takes some 20 µs.
    """
    return private_bytes(read_text(f"/proc/{pid}/status"))


def private_bytes(status: str) -> int | None:
    """Return the private bytes in the text of /proc/PID/status; None if it lacks them, as that of a dead process."""
    found = dict.fromkeys(_PRIVATE, 0)
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if name in found and number and number[0].isdecimal():
            found[name] = int(number[0]) * 1024
    return sum(found.values()) if any(found.values()) else None


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, even while native code holds the interpreter.

    The parent is the thread that started it. Only Linux does so: elsewhere a closed pipe or socket has to do.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above
