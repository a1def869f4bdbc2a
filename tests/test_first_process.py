"""The server as process 1, as in a container: real namespaces of processes, which need root."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from programs_for_tests import environment
from waits_for_tests import GUARD, has_ended, poll

from lllms_core.machine import Orphans

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def can_unshare() -> bool:
    """Whether this process may make a namespace of processes."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_unshare(), reason="a namespace of processes needs root")]


@contextmanager
def first_process(folder: Path) -> Iterator[tuple[psutil.Process, subprocess.Popen[str]]]:
    """Run `lllms serve` as process 1 of a namespace; yields it and the program that waits for it."""
    argv = [*NAMESPACE, sys.executable, "-m", "lllms_core", "serve", "--port", "0"]
    (folder / "lllms.toml").write_text('[models.bot]\nengine = "mock"\nisolation = "process"\nmin_instances = 1\n')
    outer = subprocess.Popen(
        argv, cwd=folder, env={**environment(folder), "LLLMS_PLUGINS": "mock,status"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    try:
        poll(lambda: psutil.Process(outer.pid).children())
        [inner] = psutil.Process(outer.pid).children()
        yield inner, outer
    finally:
        outer.kill()
        outer.communicate(timeout=GUARD)


def ready(outer: subprocess.Popen[str]) -> None:
    """Wait until the server serves."""
    assert outer.stdout is not None
    while line := outer.stdout.readline():
        if line.startswith("try: "):
            return
    raise AssertionError(outer.communicate()[1])


def test_it_can_be_stopped_before_it_serves(tmp_path: Path) -> None:
    """SIGTERM ends process 1 while it still imports, although the kernel would let it ignore the signal."""
    with first_process(tmp_path) as (inner, outer):
        poll(lambda: caught(inner) & 1 << signal.SIGTERM - 1)
        inner.send_signal(signal.SIGTERM)
        assert outer.wait(GUARD) == 128 + signal.SIGTERM
        assert outer.stdout is not None
        assert outer.stdout.read() == ""


def caught(process: psutil.Process) -> int:
    """The signals for which a process has a handler."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return int(line.split()[1], 16)
    return 0


def test_it_lets_orphans_go_and_stops_in_order(tmp_path: Path) -> None:
    """What others leave to process 1 does not stay as a zombie, ends of workers are noticed, and SIGTERM gives 0."""
    with first_process(tmp_path) as (inner, outer):
        ready(outer)
        [worker] = inner.children()
        enter = ["nsenter", "--target", str(inner.pid), "--pid", "sh", "-c", "sleep 0 &"]
        subprocess.run(enter, check=True)
        worker.kill()
        poll(lambda: alive(inner) and worker not in alive(inner))
        poll(lambda: len(alive(inner)) == len(inner.children()))
        workers = inner.children(recursive=True)
        inner.send_signal(signal.SIGTERM)
        assert outer.wait(GUARD) == 0
        assert not psutil.wait_procs(workers, timeout=5)[1]


def alive(process: psutil.Process) -> list[psutil.Process]:
    """The children that are no zombies."""
    return [one for one in process.children() if not has_ended(one.pid)]


def test_an_end_that_somebody_waits_for_is_not_taken() -> None:
    """A child is let go at the second look at which it has ended, and only if nobody has waited for it meanwhile."""
    orphans = Orphans()
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert orphans.look() is None
        assert child.wait() == 0
    forgotten = os.spawnvp(os.P_NOWAIT, "true", ["true"])
    os.waitid(os.P_PID, forgotten, os.WEXITED | os.WNOWAIT)
    assert [orphans.look(), orphans.look(), orphans.look()] == [None, forgotten, None]
