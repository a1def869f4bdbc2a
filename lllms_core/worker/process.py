"""A worker in a process of its own: the server survives whatever native code does there."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing import process, spawn
from typing import Self, cast

from lllms_core.engines import Engine
from lllms_core.errors import ModelLoadFailed
from lllms_core.tracebacks import kind
from lllms_core.worker.channel import Channel, Heavy
from lllms_core.worker.ends import Kills, NativeLog, ended, for_memory
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.wire import (
    FoundSession,
    FrameReader,
    FromWorker,
    Load,
    Open,
    PutSession,
    Surveyed,
    ToWorker,
    encode,
)

LOG = logging.getLogger("lllms.worker")
LAST_WORDS_SECONDS = 1.0
"""How long the output of a dead worker is read at most, if programs that it started keep its pipes open."""
WIRE_IN, WIRE_OUT, NATIVE_LOG = 0, 1, 2

# Not `-m lllms_core.worker.child`: from its first import the child must find the same modules as this process.
BOOT = "import sys; sys.path[:] = sys.argv[2:]; from lllms_core.worker.child import main; main()"


class ProcessWorker(Worker):
    """A child process. It ends on `Close`, when killed, and when this process ends, however it ends."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: "_Pipes") -> None:
        self._transport = transport
        self._pipes = pipes
        self._wire = cast(asyncio.WriteTransport, transport.get_pipe_transport(WIRE_IN))
        self.pid = transport.get_pid()

    @classmethod
    async def start(cls, load: Load, events: WorkerEvents) -> Self:
        """Start the process and send it the model to load. Raises `ModelLoadFailed` if that fails."""
        model, engine = load.spec.name, load.engine.name
        if getattr(process.current_process(), "_inheriting", False):
            raise ModelLoadFailed(
                f"a worker imports the main script again to find an engine in it, and the script loads model '{model}' "
                "while it is imported; put its actions under `if __name__ == \"__main__\":`",
            )
        try:
            data = spawn.get_preparation_data("lllms worker")
            ours, theirs = (None, None) if load.sessions is None else socket.socketpair()
            number = None if theirs is None else theirs.fileno()
            # Warnings are always relayed: those about a lack of memory explain a crash.
            level = min(logging.WARNING, logging.getLogger("lllms").getEffectiveLevel())
            frames = encode((os.getpid(), number, level)) + encode(_preparation(load.engine, data)) + encode(load)
        except Exception as error:  # pickling runs code of the engine's classes
            raise ModelLoadFailed(
                f"engine '{engine}' cannot be sent to a worker process ({error}); "
                'define it at the top of a module, or let it say isolation = "thread"',
            ) from error
        inherited = () if theirs is None else (theirs.fileno(),)
        path = [entry for entry in cast(list[object], data["sys_path"]) if isinstance(entry, str)]
        try:
            transport, pipes = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Pipes(model, events),
                spawn.get_executable(), "-c", BOOT, f"lllms-worker {model}", *path,
                env={**load.engine.environment, **os.environ}, pass_fds=inherited,
                start_new_session=True,  # a terminal's Ctrl-C is for the server, which then closes its workers
            )
        except OSError as error:
            raise ModelLoadFailed(f"could not start a worker process for model '{model}': {error}") from error
        finally:
            if theirs is not None:
                theirs.close()
        worker = cls(transport, pipes)
        if ours is not None:
            pipes.open_channel(ours)
        worker._wire.write(frames)
        return worker

    @property
    def starved(self) -> bool:
        """Whether the process has ended for lack of memory."""
        return self._pipes.starved

    def send(self, message: ToWorker, frame: bytes | None = None) -> None:
        """Write the message to the wire, or to the channel for sessions."""
        if isinstance(message, FoundSession) and message.tokens and self._pipes.channel is not None:
            self._pipes.channel.send(message)
        elif not self._wire.is_closing():
            if isinstance(message, Open):
                self._pipes.native.serve()
            self._wire.write(encode(message) if frame is None else frame)

    def kill(self) -> None:
        """Kill the process and every process that it has started, at once."""
        self._pipes.kill()


class _Pipes(asyncio.SubprocessProtocol):
    """Turns the output of the process into events."""

    def __init__(self, model: str, events: WorkerEvents) -> None:
        self._model = model
        self._events = events
        self._frames = FrameReader()
        self.native = NativeLog(model)
        self._kills = Kills.count()
        self._killed = False
        self.starved = False
        self._unreadable: str | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._reason: str | None = None
        self.channel: Channel | None = None

    def open_channel(self, end: socket.socket) -> None:
        """Exchange sessions with the process over this socket."""
        loop = asyncio.get_running_loop()

        def tell(function: Callable[..., None], *arguments: object) -> None:
            with contextlib.suppress(RuntimeError):  # a program may end without closing its host
                loop.call_soon_threadsafe(function, *arguments)

        self.channel = Channel(end, lambda message: tell(self._arrived, message), lambda: tell(self._channel_ended))

    def kill(self) -> None:
        if self._transport.get_returncode() is None:  # else another process may have its id by now
            self._killed = True
            self._kill_group()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == NATIVE_LOG:
            self.native.feed(data)
            return
        try:
            messages = list(self._frames.feed(data))
        except Exception as error:
            # Perhaps an engine's exception that cannot be unpickled; the request that it belongs to is unknown.
            LOG.exception("the worker of %s sent an unreadable message", self._model)
            self._unreadable = f"the worker sent an unreadable message ({kind(error)}), and was killed"
            self.kill()
            return
        for message in messages:
            self._events.message(cast(FromWorker, message))

    def process_exited(self) -> None:
        # Processes that the worker has started must not outlive it.
        self._kill_group()
        self._patience = asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the exit status tells more
        if self._patience is not None:
            self._patience.cancel()
        self._transport.close()
        self.native.end()
        status, words = self._transport.get_returncode(), self.native.last_words
        if status and words and not self._killed:
            LOG.error("the last words of the worker of %s:\n%s", self._model, words)
        kernel = Kills.count().since(self._kills) if status == -signal.SIGKILL and not self._killed else None
        self.starved = not self._killed and for_memory(status, starved=self.native.starved, kernel=kernel)
        self._reason = self._unreadable or ended(
            status, self.native.cause, starved=self.native.starved, kernel=kernel,
        )
        if self.channel is None:
            self._events.ended(self._reason)
        else:  # what the process sent through it has yet to be read
            self._patience = asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self.channel.close)

    def _arrived(self, message: Heavy) -> None:
        assert isinstance(message, PutSession | Surveyed)  # noqa: S101  # the child sends no others here
        self._events.message(message)

    def _channel_ended(self) -> None:
        self.channel = None
        if self._reason is not None:
            if self._patience is not None:
                self._patience.cancel()
            self._events.ended(self._reason)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all are gone already
            os.killpg(self._transport.get_pid(), signal.SIGKILL)


def _preparation(engine: Engine, data: dict[str, object]) -> dict[str, object]:
    """Return what the child needs before it can unpickle the engine: the main script, if that defines the engine."""
    wanted = {"orig_dir"}
    if type(engine).__module__ == "__main__":
        main = {"init_main_from_path", "init_main_from_name"}
        if not main & data.keys():
            raise TypeError("it is defined in an interactive session")
        wanted |= main
    return {key: data[key] for key in wanted & data.keys()}
