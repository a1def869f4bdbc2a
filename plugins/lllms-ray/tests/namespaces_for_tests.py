"""Nodes of Ray on one machine, each in a network namespace of its own, on a bridge; needs root and `ip`."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

START_SECONDS = 180.0
"""How long Ray may take to start a node, next to whatever else this machine does."""
CLONE_NEWNET = 0x40000000
SETTINGS = {
    "RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
"""Ray's. By the health checks of the README a busy machine would lose nodes that are only slow."""
SUPERVISE = """
renice -n -10 $$ > /dev/null
test ! -e /proc/self/autogroup || echo -10 > /proc/self/autogroup
while :; do "$@"; sleep 0.5; done
"""
"""A service manager that restarts what ends. Ray's helpers have 15 s to start, which nothing can change, or their node
crashes: they go before other tests of this machine."""


def missing() -> str:
    """Return why there can be no nodes here; "" if they can be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip` (iproute2)"
    if find_spec("ray") is None:
        return "Ray is not installed; `make ray` does that"
    return ""


class Nodes:
    """Node 1 has the head of the cluster, and the server; 2 and more are others."""

    def __init__(self, count: int, environment: Mapping[int, Mapping[str, str]]) -> None:
        """Make the networks and start the nodes, each with more variables in its `environment`."""
        self.count = count
        self.folder = Path(tempfile.mkdtemp(prefix="lr", dir="/tmp"))  # short: Ray puts sockets into it
        self._environment = environment
        self._supervisors: dict[int, subprocess.Popen[bytes]] = {}

    def name(self, number: int) -> str:
        """Return the name of a node's namespace."""
        return f"lllms-ray-{os.getpid()}-{number}"

    def address(self, number: int) -> str:
        """Return the address of a node."""
        return f"10.77.0.{number}"

    def _log(self, number: int) -> Path:
        return self.folder / f"log{number}"

    @property
    def head(self) -> str:
        """The address of the cluster."""
        return f"{self.address(1)}:6379"

    def connect(self) -> None:
        """Make the namespaces, and a bridge in the first, to which the others are connected."""
        for number in range(1, self.count + 1):
            ip("netns", "add", self.name(number))
            ip("-n", self.name(number), "link", "set", "lo", "up")
        first = self.name(1)
        ip("-n", first, "link", "add", "bridge", "type", "bridge")
        ip("-n", first, "addr", "add", f"{self.address(1)}/24", "dev", "bridge")
        ip("-n", first, "link", "set", "bridge", "up")
        for number in range(2, self.count + 1):
            peer = ("peer", "name", "uplink", "netns", self.name(number))
            ip("-n", first, "link", "add", f"to{number}", "type", "veth", *peer)
            ip("-n", first, "link", "set", f"to{number}", "master", "bridge", "up")
            ip("-n", self.name(number), "addr", "add", f"{self.address(number)}/24", "dev", "uplink")
            ip("-n", self.name(number), "link", "set", "uplink", "up")

    def start(self, number: int) -> None:
        """Start a node under a supervisor."""
        ray = str(Path(sys.executable).with_name("ray"))
        role = ("--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={self.folder}/ray")
        if number > 1:
            role = (f"--address={self.head}",)
        with self._log(number).open("wb") as log:
            self._supervisors[number] = subprocess.Popen(
                ["ip", "netns", "exec", self.name(number), "sh", "-c", SUPERVISE, "sh", ray, "start", *role,
                 f"--node-ip-address={self.address(number)}", "--num-cpus=0", "--object-store-memory=80000000",
                 "--disable-usage-stats", "--block"],
                env={**os.environ, **SETTINGS, **self._environment.get(number, {})}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )

    def wait(self, number: int) -> None:
        """Wait until Ray runs on a node."""
        end = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in (told := self._log(number).read_text(errors="replace")):
            assert time.monotonic() < end, told[-3000:]
            time.sleep(0.2)

    def raylet(self, number: int) -> int | None:
        """Return the process of a node by which Ray manages it."""
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] == "raylet" and any(
                one.endswith(f"_address={self.address(number)}") for one in process.info["cmdline"] or ()
            ):
                return int(process.pid)
        return None

    def link(self, number: int, state: str) -> None:
        """Cut the link to a node ("down"), or mend it ("up")."""
        ip("-n", self.name(1), "link", "set", f"to{number}", state)

    def processes(self) -> Iterator[psutil.Process]:
        """Yield all processes in the namespaces, except this one."""
        inside = {(Path("/run/netns") / self.name(number)).stat().st_ino for number in range(1, self.count + 1)}
        for process in psutil.process_iter():
            with suppress(OSError):
                if process.pid != os.getpid() and Path(f"/proc/{process.pid}/ns/net").stat().st_ino in inside:
                    yield process

    def close(self) -> None:
        """End everything."""
        for supervisor in self._supervisors.values():
            with suppress(ProcessLookupError):
                os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait()
        left = list(self.processes())
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        for number in range(1, self.count + 1):
            ip("netns", "del", self.name(number))
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def nodes(count: int, environment: Mapping[int, Mapping[str, str]]) -> Iterator[Nodes]:
    """Run a cluster; meanwhile this thread, and whatever it starts, is on its first node."""
    cluster = Nodes(count, environment)
    try:
        cluster.connect()
        with inside(cluster.name(1)):
            for number in range(1, count + 1):  # one after the other: two at once have been seen to hang for minutes
                cluster.start(number)
                cluster.wait(number)
            yield cluster
    finally:
        cluster.close()


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Move this thread, and those that it starts, into a network namespace."""
    with Path("/proc/thread-self/ns/net").open("rb") as before, (Path("/run/netns") / name).open("rb") as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(before.fileno())


def enter(namespace: int) -> None:
    """Move this thread into the namespace of a descriptor."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
