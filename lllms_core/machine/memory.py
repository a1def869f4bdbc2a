"""The memory that this process may use."""

import os
from pathlib import Path

from lllms_core.machine.control_groups import ROOT, control_groups, membership_text, read_text

_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Of version 2, which may say `max`, and of version 1, whose word for no limit is a number beyond all memory."""


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use: the machine's, limited by cgroups; None if unknown."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limit = cgroup_memory(membership_text(), ROOT)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total if limit is None else min(total, limit)


def cgroup_memory(membership: str, root: Path) -> int | None:
    """Return the tightest memory limit, in bytes, of this process's cgroups; None without one. See `control_groups`."""
    files = [group / name for group in control_groups(membership, root, "memory") for name in _LIMITS]
    return min((int(text) for file in files if (text := read_text(file).strip()).isdecimal()), default=None)
