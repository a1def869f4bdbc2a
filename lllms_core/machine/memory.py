"""The memory that this process may use."""

import os
import sys
from pathlib import Path

from lllms_core.machine.control_groups import ROOT, control_groups, membership_text, read_text

_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage, and the line of `memory.stat` with cached files, for versions 2 and 1 of cgroups. "No limit" is `max`
in version 2, and a number beyond all memory in version 1."""


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use: the machine's, limited by cgroups; None if unknown."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limit = cgroup_memory(membership_text(), ROOT)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total if limit is None else min(total, limit)


def cgroup_memory(membership: str, root: str | Path) -> int | None:
    """Return the tightest memory limit, in bytes, of this process's cgroups; None without one. See `control_groups`."""
    files = [f"{group}/{names[0]}" for group in control_groups(membership, root, "memory") for names in _FILES]
    return min((int(text) for file in files if (text := read_text(file).strip()).isdecimal()), default=None)


def free_memory() -> int | None:
    """Return the bytes of memory still available here without swapping; None if the system does not report them.

    If it reports only the total, that is returned.
    """
    if sys.platform != "linux":
        return usable_memory()
    known = [available_memory(read_text("/proc/meminfo")), cgroup_free(membership_text(), ROOT)]
    return min((size for size in known if size is not None), default=None)


def available_memory(meminfo: str) -> int | None:
    """Return the bytes that the kernel can give to programs, from the text of /proc/meminfo; None if it lacks them."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable" and rest.split()[:1] and rest.split()[0].isdecimal():
            return int(rest.split()[0]) * 1024
    return None


def cgroup_free(membership: str, root: str | Path) -> int | None:
    """Return the bytes that this process's cgroups leave it; None without a limit. See `control_groups`.

    Cached files that a group could release count as free, as they do for the machine.
    """
    frees = []
    for group in control_groups(membership, root, "memory"):
        for limit, usage, cached in _FILES:
            most, used = read_text(f"{group}/{limit}").strip(), read_text(f"{group}/{usage}").strip()
            if most.isdecimal() and used.isdecimal():
                stats = (line.partition(" ") for line in read_text(f"{group}/memory.stat").splitlines())
                files = next((int(value) for name, _, value in stats if name == cached and value.isdecimal()), 0)
                frees.append(max(0, int(most) - max(0, int(used) - files)))
    return min(frees, default=None)
