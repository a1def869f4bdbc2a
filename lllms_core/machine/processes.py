"""The memory of other processes, as Linux counts it."""

from lllms_core.machine.control_groups import read_text

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
