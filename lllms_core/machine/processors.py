"""The resources of this process: cores, the share that others leave of them, memory, its home folder and files."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from math import floor
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage, and the line of `memory.stat` with cached files, of versions 2 and 1 of cgroups. The word of version 2
for no limit is `max`, that of version 1 a number beyond all memory."""
_STAT = Path("/proc/stat")
_IDLE_FIELDS = (3, 4)  # idle and iowait, in the order of proc_stat(5)
_COUNTED_FIELDS = 8  # user to steal; guest time is already part of user time
_SHORTEST_LOOK = 0.1  # seconds; the kernel counts in ticks of 10 ms


def yield_quickly() -> None:
    """Let a thread of this process hold the interpreter for 1 ms when another waits for it, not for Python's 5 ms.

    An event loop, or a step, waits several times while a large request is read beside it: `/health` took up to 0.3 s.
    """
    sys.setswitchinterval(0.001)


def available_cores() -> int:
    """Return the cores that this process may use, at least 1: its CPU affinity, limited by a cgroup quota."""
    cores = len(usable_cpus())
    quota = cgroup_cores(_read(Path("/proc/self/cgroup")), _CGROUPS) if sys.platform == "linux" else None
    return max(1, cores if quota is None else min(cores, floor(quota)))


def usable_cpus() -> frozenset[int]:
    """Return the numbers of the CPUs that this process may run on; all, if the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cgroup_cores(membership: str, root: Path) -> float | None:
    """Return the tightest CPU quota, in cores, of this process's cgroups; None without one.

    `membership` is the text of /proc/self/cgroup (version 1, 2 or both), `root` the mount point of the cgroups. A quota
    binds all groups below it, so every parent counts. Inside a container the path may be the host's, of which only
    the root is visible.
    """
    return min((quota for group in _groups(membership, root, "cpu") for quota in _quotas(group)), default=None)


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use: the machine's, limited by cgroups; None if unknown."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limit = cgroup_memory(_read(Path("/proc/self/cgroup")), _CGROUPS) if sys.platform == "linux" else None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total if limit is None else min(total, limit)


def cgroup_memory(membership: str, root: Path) -> int | None:
    """Return the tightest memory limit, in bytes, of this process's cgroups; None without one. See `cgroup_cores`."""
    files = [group / names[0] for group in _groups(membership, root, "memory") for names in _MEMORY_FILES]
    return min((int(text) for file in files if (text := _read(file).strip()).isdecimal()), default=None)


def free_memory() -> int | None:
    """Return the bytes of memory that programs can still take here without swapping; None if the system does not tell.

    Where it tells only how much there is at all, that is returned.
    """
    if sys.platform != "linux":
        return usable_memory()
    known = [available_memory(_read(Path("/proc/meminfo"))), cgroup_free(_read(Path("/proc/self/cgroup")), _CGROUPS)]
    return min((size for size in known if size is not None), default=None)


def available_memory(meminfo: str) -> int | None:
    """Return the bytes that the kernel can give to programs, from the text of /proc/meminfo; None if it lacks them."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable" and rest.split()[:1] and rest.split()[0].isdecimal():
            return int(rest.split()[0]) * 1024
    return None


def cgroup_free(membership: str, root: Path) -> int | None:
    """Return the bytes that this process's cgroups leave it; None without a limit. See `cgroup_cores`.

    Cached files that a group could give back count as free, as they do for the machine.
    """
    frees = []
    for group in _groups(membership, root, "memory"):
        for limit, usage, cached in _MEMORY_FILES:
            most, used = _read(group / limit).strip(), _read(group / usage).strip()
            if most.isdecimal() and used.isdecimal():
                stats = (line.partition(" ") for line in _read(group / "memory.stat").splitlines())
                files = next((int(value) for name, _, value in stats if name == cached and value.isdecimal()), 0)
                frees.append(max(0, int(most) - max(0, int(used) - files)))
    return min(frees, default=None)


def _groups(membership: str, root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups that may limit it, with all their parents."""
    for line in membership.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mounts = [root, root / "unified"]
        elif controller in controllers.split(","):
            mounts = [root / controllers, root / controller]
        else:
            continue
        names = [part for part in path.split("/") if part not in {"", ".."}]
        for mount in mounts:
            yield from (mount.joinpath(*names[:depth]) for depth in range(len(names) + 1))


def busy_ticks(stat: str, cpus: Iterable[int]) -> int:
    """Return the clock ticks for which `cpus` were busy since boot (stolen time too), from the text of /proc/stat."""
    wanted = {f"cpu{number}" for number in cpus}
    ticks = 0
    for line in stat.splitlines():
        name, *fields = line.split(maxsplit=_COUNTED_FIELDS + 1)
        if not name.startswith("cpu"):
            break
        if name in wanted:
            ticks += sum(int(field) for i, field in enumerate(fields[:_COUNTED_FIELDS]) if i not in _IDLE_FIELDS)
    return ticks


class CpuWatch:
    """Measures how many cores other programs have left to this one since the last look; a look takes about 0.1 ms."""

    def __init__(
        self,
        *,
        cpus: frozenset[int] | None = None,
        read_stat: Callable[[], str] = lambda: _read(_STAT),
        clock: Callable[[], float] = time.perf_counter,
        own_seconds: Callable[[], float] = time.process_time,
        ticks_per_second: int | None = None,
    ) -> None:
        self._cpus = usable_cpus() if cpus is None else cpus
        self._read_stat, self._clock, self._own_seconds = read_stat, clock, own_seconds
        self._hertz = ticks_per_second or (os.sysconf("SC_CLK_TCK") if sys.platform == "linux" else 100)
        self._last = self._look()

    def spare_cores(self) -> float | None:
        """Return the cores that were idle or ours, on average since the last result.

        None if the system does not tell, or within 0.1 s of the last result: then the measurement continues.
        """
        look = self._look()
        if look is None or self._last is None:
            return None
        (then, busy_then, own_then), (now, busy_now, own_now) = self._last, look
        if now - then < _SHORTEST_LOOK:
            return None
        self._last = look
        others = (busy_now - busy_then - (own_now - own_then)) / (now - then)
        return len(self._cpus) - max(0.0, others)

    def _look(self) -> tuple[float, float, float] | None:
        stat = self._read_stat()
        if not stat:
            return None
        return self._clock(), busy_ticks(stat, self._cpus) / self._hertz, self._own_seconds()


def _quotas(group: Path) -> Iterator[float]:
    """Yield the CPU quota of a cgroup of version 2 or 1, if it has one."""
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    if quota not in {"", "max"}:
        yield int(quota) / int(period or 100_000)
    quota, period = _read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()
    if quota not in {"", "-1"} and period:
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    """Return the text of a kernel file; empty if it does not exist, as on other systems."""
    try:
        return path.read_text("ascii")
    except OSError:
        return ""
