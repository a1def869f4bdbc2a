"""A worker in a process of its own: whatever native code does there, the server lives on."""

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import sys
from collections import deque
from multiprocessing import spawn
from typing import Self, cast

from lllms_core.engines import Engine
from lllms_core.errors import ModelLoadFailed
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.wire import FrameReader, FromWorker, Load, ToWorker, encode

LOG = logging.getLogger("lllms.worker")
LOG_TAIL = 20
"""So many last lines of a worker's log are kept, to explain its end."""
WIRE_IN, WIRE_OUT, NATIVE_LOG = 0, 1, 2


class ProcessWorker(Worker):
    """A child process. It ends when told to, when killed, and when this process ends in whatever way."""

    def __init__(self, transport: asyncio.SubprocessTransport) -> None:
        self._transport = transport
        self._wire = cast(asyncio.WriteTransport, transport.get_pipe_transport(WIRE_IN))
        self.pid = transport.get_pid()

    @classmethod
    async def start(cls, load: Load, events: WorkerEvents) -> Self:
        """Start the process and tell it what to load. Raises `ModelLoadFailed` if that is not possible."""
        try:
            first, second = encode(_preparation(load.engine)), encode(load)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ModelLoadFailed(
                f"engine '{load.engine.name}' cannot travel to a worker process ({error}); "
                'define it at the top of a module, or let it say isolation = "thread"',
            ) from error
        try:
            transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Pipes(load.spec.name, events),
                sys.executable, "-m", "lllms_core.worker",
                start_new_session=True,  # a terminal's Ctrl-C is for the server, which then closes its workers
            )
        except OSError as error:
            raise ModelLoadFailed(f"no worker process for model '{load.spec.name}' can be started: {error}") from error
        worker = cls(transport)
        worker._wire.write(first + second)
        return worker

    def send(self, message: ToWorker) -> None:
        """Write the message to the wire."""
        if not self._wire.is_closing():
            self._wire.write(encode(message))

    def kill(self) -> None:
        """End the process and whatever it has started, at once."""
        _kill_group(self._transport)


class _Pipes(asyncio.SubprocessProtocol):
    """Turns what comes out of the process into events."""

    def __init__(self, model: str, events: WorkerEvents) -> None:
        self._model = model
        self._events = events
        self._frames = FrameReader()
        self._line = b""
        self._tail: deque[str] = deque(maxlen=LOG_TAIL)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == NATIVE_LOG:
            *lines, self._line = (self._line + data).split(b"\n")
            for line in lines:
                self._log(line)
            return
        for message in self._frames.feed(data):
            self._events.message(cast(FromWorker, message))

    def process_exited(self) -> None:
        # What the worker itself has started may hold the pipes open, and must not outlive it.
        _kill_group(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the exit status tells more
        self._log(self._line)
        status = self._transport.get_returncode()
        if status and self._tail:
            LOG.error("the last words of the worker of %s:\n%s", self._model, "\n".join(self._tail))
        self._events.ended(_reason(status))

    def _log(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            self._tail.append(text)
            LOG.debug("%s: %s", self._model, text)


def _preparation(engine: Engine) -> dict[str, object]:
    """What the child needs before it can unpickle the engine: the import path, and the main script if it defines it."""
    data = spawn.get_preparation_data("lllms worker")
    wanted = {"sys_path", "dir", "orig_dir"}
    if type(engine).__module__ == "__main__":
        wanted |= {"init_main_from_path", "init_main_from_name"}
        if not wanted & data.keys() - {"sys_path", "dir", "orig_dir"}:
            raise TypeError("it is defined in an interactive session")
    return {"parent": os.getpid(), **{key: data[key] for key in wanted & data.keys()}}


def _kill_group(transport: asyncio.SubprocessTransport) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone already
        os.killpg(transport.get_pid(), signal.SIGKILL)


def _reason(status: int | None) -> str:
    """Say for people how a process ended."""
    if not status:
        return "the worker ended"
    if status > 0:
        return f"the worker ended with status {status}"
    if -status == signal.SIGKILL:
        return "the worker was killed (SIGKILL; the machine may be out of memory)"
    return f"the worker crashed ({signal.Signals(-status).name})"
