"""The cores available to a process, read from strings and small folders instead of this machine."""

import mmap
import os
import sys
import time
from pathlib import Path

import pytest

from lllms_core.machine import (
    CpuWatch,
    available_cores,
    available_memory,
    busy_ticks,
    cgroup_cores,
    cgroup_free,
    cgroup_memory,
    free_memory,
    private_bytes,
    private_memory,
    usable_cpus,
    usable_memory,
)
from lllms_core.worker.ends import Kills

STAT = """\
cpu  300 0 100 1000 50 0 0 10 0 0
cpu0 200 0 60 400 20 1 2 5 7 0
cpu1 100 0 40 600 30 0 0 5 0 0
intr 12345 0 0
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_this_process_has_at_least_one_core_and_never_more_than_its_affinity():
    """Whatever machine the test runs on, the count is usable."""
    assert 1 <= available_cores() <= len(usable_cpus())


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("200000 100000", 2.0), ("150000 100000", 1.5), ("50000", 0.5)]
)
def test_a_version_2_quota_is_quota_over_period(tmp_path: Path, text: str, cores: float | None):
    """`cpu.max` holds microseconds of CPU per period, or `max` for no limit."""
    write(tmp_path / "cpu.max", text + "\n")
    assert cores == cgroup_cores("0::/\n", tmp_path)


def test_the_tightest_quota_of_all_parents_counts(tmp_path: Path):
    """A group without a quota of its own is bound by its parents'."""
    write(tmp_path / "a/cpu.max", "300000 100000")
    write(tmp_path / "a/b/cpu.max", "max 100000")
    assert cgroup_cores("0::/a/b", tmp_path) == 3.0


def test_a_path_of_the_host_falls_back_to_the_root_that_a_container_sees(tmp_path: Path):
    """Without a cgroup namespace the path does not exist; the mounted root is the container's own group."""
    write(tmp_path / "cpu.max", "100000 100000")
    assert cgroup_cores("0::/docker/0123abcd", tmp_path) == 1.0


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_a_version_1_quota_is_read_from_the_cpu_hierarchy(tmp_path: Path, folder: str):
    """Other controllers, and the empty version 2 hierarchy beside it, do not disturb."""
    write(tmp_path / folder / "box/cpu.cfs_quota_us", "250000\n")
    write(tmp_path / folder / "box/cpu.cfs_period_us", "100000\n")
    membership = f"9:name=systemd:/\n4:memory:/box\n3:cpuset:/\n1:{folder}:/box\n0::/\n"
    assert cgroup_cores(membership, tmp_path) == 2.5


def test_an_unlimited_version_1_group_sets_no_quota(tmp_path: Path):
    """-1 means no limit to the kernel."""
    write(tmp_path / "cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert cgroup_cores("1:cpu:/\n", tmp_path) is None


def test_no_cgroups_at_all_set_no_quota(tmp_path: Path):
    """Other systems have neither the file nor the folder."""
    assert cgroup_cores("", tmp_path) is None


def test_the_tightest_memory_limit_of_all_parents_counts(tmp_path: Path):
    """Version 2 writes `max` for no limit; a group is bound by its parents' limits."""
    write(tmp_path / "a/memory.max", "3000000\n")
    write(tmp_path / "a/b/memory.max", "max\n")
    assert cgroup_memory("0::/a/b", tmp_path) == 3_000_000
    assert cgroup_memory("0::/c", tmp_path) is None


def test_a_version_1_memory_limit_is_read_from_the_memory_hierarchy(tmp_path: Path):
    """The root's huge number, which means no limit to the kernel, does not hide the group's own limit."""
    write(tmp_path / "memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "memory/box/memory.limit_in_bytes", "5000\n")
    assert cgroup_memory("9:name=systemd:/\n4:memory:/box\n0::/\n", tmp_path) == 5000


def test_this_process_may_use_some_memory():
    """Whatever machine the test runs on, the limit is a usable number."""
    assert (usable_memory() or 0) > 2**24


def test_free_memory_is_what_the_kernel_can_give(tmp_path: Path):
    """The kernel's own estimate, which contains the caches that it can drop, is used; without it, none is known."""
    assert available_memory("MemTotal:  100 kB\nMemFree:  10 kB\nMemAvailable:   60 kB\n") == 60 * 1024
    assert available_memory("MemTotal:  100 kB\nMemFree:  10 kB\n") is None
    assert available_memory("MemAvailable:\nMemAvailable: x kB\n") is None
    assert available_memory("") is None


def test_a_group_leaves_what_it_does_not_use(tmp_path: Path):
    """Of all groups with a limit the fullest counts; cached files that it could give back are free."""
    write(tmp_path / "a/memory.max", "1000\n")
    write(tmp_path / "a/memory.current", "700\n")
    write(tmp_path / "a/memory.stat", "anon 300\nfile 400\ninactive_file 350\n")
    write(tmp_path / "a/b/memory.max", "5000\n")
    write(tmp_path / "a/b/memory.current", "100\n")
    write(tmp_path / "c/memory.max", "max\n")
    write(tmp_path / "c/memory.current", "100\n")
    write(tmp_path / "memory/box/memory.limit_in_bytes", "1000\n")
    write(tmp_path / "memory/box/memory.usage_in_bytes", "900\n")
    assert cgroup_free("0::/a/b", tmp_path) == 650
    assert cgroup_free("0::/c", tmp_path) is None
    assert cgroup_free("4:memory:/box", tmp_path) == 100
    assert cgroup_free("", tmp_path) is None


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path: Path):
    """A limit lowered below the usage leaves 0, never less."""
    write(tmp_path / "memory.max", "100\n")
    write(tmp_path / "memory.current", "700\n")
    assert cgroup_free("0::/", tmp_path) == 0


def test_this_machine_has_free_memory():
    """Whatever machine the test runs on, some memory is free, and no more than it has."""
    assert 0 < (free_memory() or 1) <= (usable_memory() or 1)


def test_busy_ticks_count_work_and_stolen_time_of_the_named_cpus_only():
    """Idle time and waiting for disks are not busy; guest time is in user time already."""
    assert busy_ticks(STAT, [0]) == 200 + 60 + 1 + 2 + 5
    assert busy_ticks(STAT, [0, 1]) == 268 + 145
    assert busy_ticks(STAT, []) == 0


class Fakes:
    """A machine of two CPUs whose clock and counters are set by the test."""

    def __init__(self) -> None:
        self.now = self.own = 0.0
        self.busy = 0
        self.watch = CpuWatch(
            cpus=frozenset({0, 1}), read_stat=self.stat, clock=lambda: self.now, own_seconds=lambda: self.own,
            ticks_per_second=100,
        )

    def stat(self) -> str:
        return f"cpu  {self.busy} 0 0 0 0 0 0 0 0 0\ncpu0 {self.busy} 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n"


def test_spare_cores_are_those_that_others_leave():
    """In one second the machine was busy for 1.5 cores, 0.9 of them ours: 1.4 of two cores were available to us."""
    fakes = Fakes()
    fakes.now, fakes.busy, fakes.own = 1.0, 150, 0.9
    assert fakes.watch.spare_cores() == pytest.approx(1.4)
    fakes.now = 2.0
    assert fakes.watch.spare_cores() == pytest.approx(2.0)


def test_our_own_work_never_makes_more_cores_than_there_are():
    """The two clocks differ by up to a tick; the answer never exceeds the machine."""
    fakes = Fakes()
    fakes.now, fakes.busy, fakes.own = 1.0, 98, 1.0
    assert fakes.watch.spare_cores() == 2.0


def test_a_look_that_comes_too_soon_answers_nothing_and_keeps_the_window():
    """Ticks of 10 ms reveal nothing about a few milliseconds."""
    fakes = Fakes()
    fakes.now, fakes.busy = 0.05, 5
    assert fakes.watch.spare_cores() is None
    fakes.now, fakes.busy = 0.2, 20
    assert fakes.watch.spare_cores() == pytest.approx(1.0)


def test_the_cores_left_at_this_moment_are_those_that_nobody_waits_for():
    """Of three runnable threads one is the reader, so two want the two cores; with one more core, one is left."""
    def watch(cpus: int, load: str) -> CpuWatch:
        return CpuWatch(cpus=frozenset(range(cpus)), read_load=lambda: load, read_threads=list)

    assert watch(2, "1.10 0.90 0.50 3/170 26646\n").spare_now() == 0
    assert watch(3, "1.10 0.90 0.50 3/170 26646\n").spare_now() == 1
    assert watch(2, "1.10 0.90 0.50 1/170 26646\n").spare_now() == 2
    assert watch(2, "1.10 0.90 0.50 9/170 26646\n").spare_now() == 0
    assert watch(2, "").spare_now() is None


def test_our_own_threads_leave_the_cores_to_us():
    """The thread that has just received a request still runs, and so may those of the last decode: nobody else does."""
    threads = ["7 (python) R 1 7", "8 (a) R (wire) R 1 7", "9 (OMP) S 1 7", ""]
    watch = CpuWatch(
        cpus=frozenset(range(2)), read_load=lambda: "1.10 0.90 0.50 3/170 26646\n", read_threads=lambda: threads,
    )
    assert watch.spare_now() == 1
    alone = CpuWatch(
        cpus=frozenset(range(2)), read_load=lambda: "1.10 0.90 0.50 1/170 26646\n", read_threads=lambda: threads,
    )
    assert alone.spare_now() == 2


def test_a_thread_of_this_process_that_computes_is_counted_as_ours():
    """Without arguments, the watch finds the threads of this process; it answers for the real machine, too."""
    left = CpuWatch().spare_now()
    assert left is None or 0 <= left <= available_cores()


def test_a_system_without_proc_stat_answers_nothing():
    """The caller relies on its own measurements there."""
    watch = CpuWatch(read_stat=lambda: "", clock=time.perf_counter)
    assert watch.spare_cores() is None


def test_a_first_look_that_fails_is_made_up_for():
    """Without descriptors at its start the watch has nothing to compare with; the next look gives it that."""
    fakes = Fakes()
    texts = iter(["", fakes.stat(), "", fakes.stat()])
    watch = CpuWatch(
        cpus=frozenset({0, 1}), read_stat=lambda: next(texts), clock=lambda: fakes.now, own_seconds=lambda: 0.0,
        ticks_per_second=100,
    )
    assert [watch.spare_cores(), watch.spare_cores()] == [None, None]
    fakes.now = 1.0
    assert watch.spare_cores() == pytest.approx(2.0)


STATUS = """\
Name:\tpython
VmHWM:\t   50000 kB
RssAnon:\t    3000 kB
RssFile:\t   40000 kB
RssShmem:\t      20 kB
VmSwap:\t     100 kB
"""


def test_private_memory_is_what_a_file_cannot_give_back():
    """Anonymous and shared pages count, those in swap too, those of files not; a dead process has none."""
    assert private_bytes(STATUS) == 3120 * 1024
    assert private_bytes("Name:\tpython\nState:\tZ (zombie)\n") is None
    assert private_bytes("RssAnon:\t kB\nVmSwap: much kB") is None
    assert private_bytes("") is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_private_memory_grows_with_what_is_taken():
    """What a process takes is seen at once; no such process, no figure."""
    before = private_memory(os.getpid())
    taken = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # never what was freed before
    taken.write(b"x" * len(taken))
    after = private_memory(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before > 0.9 * len(taken)
    assert private_memory(2**22 + 1) is None


def test_looks_leave_no_names_behind(monkeypatch: pytest.MonkeyPatch):
    """What is read again and again is no `Path`: those intern their parts, and Python's table of these would grow."""
    looks = (
        lambda: private_memory(os.getpid()), usable_memory, free_memory, available_cores, CpuWatch().spare_cores,
        CpuWatch().spare_now, Kills.count,
    )
    for look in looks:
        look()  # the first may import something
    interned = []
    monkeypatch.setattr(sys, "intern", lambda name: interned.append(name) or name)
    for look in looks:
        look()
    assert interned == []
