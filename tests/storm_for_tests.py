"""Faults of the machine below a running server: of its processes, their pipes and memory, its files and its disk."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil
from attrs import define, field, frozen
from chaos_server_for_tests import FULL

Kind = Literal[
    "kill", "kill a spare", "stop and continue", "stop for ever", "garbage on the wire", "no more memory",
    "delete a model's file", "truncate a model's file", "truncate a session", "delete all sessions", "fill the disk",
]
WEIGHTS: Mapping[Kind, float] = {
    "kill": 6, "kill a spare": 3, "stop and continue": 4, "stop for ever": 0.7, "garbage on the wire": 3,
    "no more memory": 2, "delete a model's file": 1, "truncate a model's file": 1, "truncate a session": 3,
    "delete all sessions": 1, "fill the disk": 2,
}
LITTLE = 1 << 20
"""Bytes of address space that a process gets in addition, when it has no more memory."""


@frozen
class Fault:
    """One fault, whatever the server is doing then."""

    after: float
    """Seconds since the fault before."""
    kind: Kind
    place: int
    """Chooses one of the processes or files that there are, by the remainder."""
    lasts: float
    """Seconds until it is mended, if it is of a kind that ends."""
    data: bytes
    """The garbage, if it is that."""


def schedule(seed: object, per_second: float) -> Iterator[Fault]:
    """The faults of a seed: always the same."""
    chosen = random.Random(f"{seed} storm")
    kinds, weights = [*WEIGHTS], [*WEIGHTS.values()]
    while True:
        yield Fault(
            chosen.expovariate(per_second), chosen.choices(kinds, weights)[0], chosen.randrange(1 << 30),
            chosen.uniform(0.05, 1.5), chosen.randbytes(chosen.choice((1, 4, 100, 5000))),
        )


@define
class Storm:
    """Carries out faults."""

    server: psutil.Process
    models: Mapping[Path, Path]
    """The models' files, and the originals they are copies of."""
    sessions: Path
    folder: Path
    """The server's folder."""
    pids: Callable[[], set[int]]
    """Returns the workers of instances."""
    seen: set[int] = field(factory=set)
    """All children of the server that were there at a fault."""
    _stopped: set[int] = field(factory=set)
    _mends: dict[object, tuple[float, Callable[[], object]]] = field(factory=dict)
    """What to mend, when, and how."""

    def strike(self, fault: Fault) -> bool:
        """Carry out a fault; return whether there was anything to hit."""
        match fault.kind:
            case "delete a model's file" | "truncate a model's file":
                return self._hit_model(fault)
            case "truncate a session" | "delete all sessions":
                return self._hit_sessions(fault)
            case "fill the disk":
                full = self.folder / FULL
                full.touch()
                self._later(full, fault.lasts, lambda: full.unlink(missing_ok=True))
                return True
            case _:
                return self._hit_process(fault)

    def mend(self, *, everything: bool = False) -> None:
        """End the faults whose time is over."""
        now = time.monotonic()
        for what, (when, how) in list(self._mends.items()):
            if everything or when <= now:
                del self._mends[what]
                how()

    def _later(self, what: object, seconds: float, how: Callable[[], object]) -> None:
        self._mends[what] = time.monotonic() + seconds, how

    def _hit_process(self, fault: Fault) -> bool:
        workers = self.pids()
        children = {one.pid for one in self.server.children()}
        self.seen |= children | workers
        among = sorted((children - workers if fault.kind == "kill a spare" else workers) - self._stopped)
        if not among:
            return False
        pid = among[fault.place % len(among)]
        match fault.kind:
            case "stop and continue" | "stop for ever":
                send(pid, signal.SIGSTOP)
                self._stopped.add(pid)
                if fault.kind == "stop and continue":
                    self._later(pid, fault.lasts, lambda: self._continue(pid))
            case "garbage on the wire":
                return write_to_wire(pid, fault.data)
            case "no more memory":
                return limit_memory(pid)
            case _:
                send(pid, signal.SIGKILL)
        return True

    def _continue(self, pid: int) -> None:
        self._stopped.discard(pid)
        send(pid, signal.SIGCONT)

    def _hit_model(self, fault: Fault) -> bool:
        files = [file for file in self.models if file not in self._mends]
        if not files:
            return False
        file = files[fault.place % len(files)]
        if fault.kind == "delete a model's file":
            file.unlink()
        else:
            os.truncate(file, fault.place % file.stat().st_size)
        self._later(file, fault.lasts, lambda: restore(file, self.models[file]))
        return True

    def _hit_sessions(self, fault: Fault) -> bool:
        files = session_files(self.sessions)
        if not files:
            return False
        if fault.kind == "delete all sessions":
            shutil.rmtree(self.sessions, ignore_errors=True)
            return True
        file = files[fault.place % len(files)]
        with suppress(FileNotFoundError):  # the server has deleted it meanwhile
            os.truncate(file, fault.place % (file.stat().st_size + 1))
        return True


def session_files(folder: Path) -> Sequence[Path]:
    """The files below a folder of sessions."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def restore(file: Path, original: Path) -> None:
    """Put a fresh copy in the place of a file, as downloads do."""
    new = file.with_suffix(".new")
    shutil.copyfile(original, new)
    new.replace(file)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, if it exists."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def write_to_wire(pid: int, data: bytes) -> bool:
    """Write into the pipe by which a worker sends its messages; return whether it was found.

    A worker has two pipes for output: one has number 2, the other is the wire.
    """
    ends = Path(f"/proc/{pid}/fd")
    try:
        log = (ends / "2").readlink()
        for end in sorted(ends.iterdir(), key=lambda end: int(end.name)):
            where = end.readlink()
            if int(end.name) > 2 and str(where).startswith("pipe:") and where != log and is_written(end):
                pipe = os.open(end, os.O_WRONLY | os.O_NONBLOCK)
                try:
                    os.write(pipe, data)
                finally:
                    os.close(pipe)
                return True
    except OSError:
        return False  # the worker has just ended, or its pipe is full
    return False


def is_written(end: Path) -> bool:
    """Whether a descriptor, by its path in /proc, was opened to be written."""
    return bool(end.lstat().st_mode & 0o200)


def limit_memory(pid: int) -> bool:
    """Let a process have hardly more address space than it has now; return whether it had more before."""
    try:
        most = psutil.Process(pid).memory_info().vms + LITTLE
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
    except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        return False  # it is gone, or has a lower limit already
    return True
