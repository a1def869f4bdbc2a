"""The cores that this process may use, and their share that others leave it."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import floor
from pathlib import Path

from lllms_core.machine.control_groups import ROOT, control_groups, membership_text, read_text

_STAT = "/proc/stat"
_LOAD = "/proc/loadavg"
_THREADS = "/proc/self/task"
_IDLE_FIELDS = (3, 4)  # idle and iowait, in the order of proc_stat(5)
_COUNTED_FIELDS = 8  # user to steal; guest time is already part of user time
_SHORTEST_LOOK = 0.1  # seconds; the kernel counts in ticks of 10 ms


def yield_quickly() -> None:
    """Limit how long a thread holds the GIL while another waits for it: 1 ms instead of Python's 5 ms.

    An event loop or a step waits several times while a large request is read beside it: `/health` took up to 0.3 s.
    """
    sys.setswitchinterval(0.001)


def processor_features() -> frozenset[str] | None:
    """Return Linux's names of the processor's features, like `avx2` or `asimddp`; None if they are unknown."""
    for line in read_text("/proc/cpuinfo").splitlines():
        name, _, rest = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(rest.split())
    return None


def available_cores() -> int:
    """Return the cores that this process may use, at least 1: its CPU affinity, limited by a cgroup quota."""
    cores = len(usable_cpus())
    quota = cgroup_cores(membership_text(), ROOT) if sys.platform == "linux" else None
    return max(1, cores if quota is None else min(cores, floor(quota)))


def usable_cpus() -> frozenset[int]:
    """Return the numbers of the CPUs that this process may run on; all, if the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cgroup_cores(membership: str, root: str | Path) -> float | None:
    """Return the tightest CPU quota, in cores, of this process's cgroups; None without one.

    See `control_groups` for the arguments.
    """
    return min((quota for group in control_groups(membership, root, "cpu") for quota in _quotas(group)), default=None)


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


def runnable_tasks(load: str) -> int | None:
    """Return how many threads run or wait for a core at this moment, from the text of /proc/loadavg; None without it.

    The reader is one of them.
    """
    fields = load.split()
    return int(fields[3].partition("/")[0]) if len(fields) > 3 else None


def running_threads(stats: Iterable[str]) -> int:
    """Return how many threads run or wait for a core, from the texts of their /proc/PID/task/TID/stat."""
    return sum(stat.rpartition(")")[2].split()[:1] == ["R"] for stat in stats)


class CpuWatch:
    """Measures how many cores other programs have left to this one; a look takes about 0.1 ms."""

    def __init__(
        self,
        *,
        cpus: frozenset[int] | None = None,
        read_stat: Callable[[], str] = lambda: read_text(_STAT),
        read_load: Callable[[], str] = lambda: read_text(_LOAD),
        read_threads: Callable[[], Iterable[str]] = lambda: _thread_stats(_THREADS),
        clock: Callable[[], float] = time.perf_counter,
        own_seconds: Callable[[], float] = time.process_time,
        ticks_per_second: int | None = None,
    ) -> None:
        self._cpus = usable_cpus() if cpus is None else cpus
        self._read_stat, self._clock, self._own_seconds = read_stat, clock, own_seconds
        self._read_load, self._read_threads = read_load, read_threads
        self._hertz = ticks_per_second or (os.sysconf("SC_CLK_TCK") if sys.platform == "linux" else 100)
        self._last = self._look()

    def spare_cores(self) -> float | None:
        """Return the cores that were idle or ours, on average since the last result.

        None if the system does not tell, or within 0.1 s of the last result: then the measurement continues.
        """
        look = self._look()
        if look is None or self._last is None:
            self._last = self._last or look  # the first may have failed, for want of a descriptor for example
            return None
        (then, busy_then, own_then), (now, busy_now, own_now) = self._last, look
        if now - then < _SHORTEST_LOOK:
            return None
        self._last = look
        others = (busy_now - busy_then - (own_now - own_then)) / (now - then)
        return len(self._cpus) - max(0.0, others)

    def spare_now(self) -> int | None:
        """Return the cores that no other process runs on or waits for at this moment; None if unknown.

        Fewer than those that are free for this process, if others may not use its cores.
        """
        tasks = runnable_tasks(self._read_load())
        if tasks is None:
            return None
        # Ours are at least this one, and perhaps the one that has just received the request.
        return len(self._cpus) - min(len(self._cpus), max(0, tasks - max(1, running_threads(self._read_threads()))))

    def _look(self) -> tuple[float, float, float] | None:
        stat = self._read_stat()
        if not stat:
            return None
        return self._clock(), busy_ticks(stat, self._cpus) / self._hertz, self._own_seconds()


def _thread_stats(folder: str) -> Iterator[str]:
    """Yield the `stat` of each thread of a process; names of threads may hold any bytes."""
    for thread in os.listdir(folder):  # noqa: PTH208  # no paths, see `read_text`
        with suppress(OSError), open(f"{folder}/{thread}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            yield file.read()  # it has not ended meanwhile


def _quotas(group: str) -> Iterator[float]:
    """Yield the CPU quota of a cgroup of version 2 or 1, if it has one."""
    quota, _, period = read_text(f"{group}/cpu.max").strip().partition(" ")
    if quota not in {"", "max"}:
        yield int(quota) / int(period or 100_000)
    quota = read_text(f"{group}/cpu.cfs_quota_us").strip()
    period = read_text(f"{group}/cpu.cfs_period_us").strip()
    if quota not in {"", "-1"} and period:
        yield int(quota) / int(period)
