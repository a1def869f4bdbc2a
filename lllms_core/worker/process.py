"""A worker in a process of its own: the server survives whatever native code does there."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Self, cast

from lllms_core.engines import Engine
from lllms_core.errors import ModelLoadFailed
from lllms_core.tracebacks import kind
from lllms_core.worker.channel import Channel, Heavy
from lllms_core.worker.ends import Kills, NativeLog, ended, for_memory
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.launch import Inheritance, sendable
from lllms_core.worker.wire import (
    FoundSession,
    FrameReader,
    FromWorker,
    Load,
    Open,
    PutSession,
    Surveyed,
    Taken,
    ToWorker,
    Warm,
    encode,
)

LOG = logging.getLogger("lllms.worker")
LAST_WORDS_SECONDS = 1.0
"""How long the output of a dead worker is read at most, if programs that it started keep its pipes open."""
TAKE_SECONDS = 30.0
"""A ready spare takes a model in milliseconds, one that is on its way in seconds, unless it is stuck."""
WIRE_IN, WIRE_OUT, NATIVE_LOG = 0, 1, 2


class ProcessWorker(Worker):
    """A child process. It ends on `Close`, when killed, and when this process ends, however it ends."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: "_Pipes") -> None:
        self._transport = transport
        self._pipes = pipes
        self._wire = cast(asyncio.WriteTransport, transport.get_pipe_transport(WIRE_IN))
        self.pid = transport.get_pid()

    @classmethod
    async def start(cls, load: Load, events: WorkerEvents) -> Self:
        """Start a process and send it the model to load. Raises `ModelLoadFailed` if that fails."""
        launch = Inheritance.of(load.engine)
        with sendable(load.engine):
            frame = encode(load)
        name = load.spec.name
        transport, pipes = await _spawn(launch, f"lllms-worker {name}", f"model '{name}'", frame, events)
        pipes.serve(name, events, sessions=load.sessions is not None)
        return cls(transport, pipes)

    @classmethod
    async def spare(cls, launch: Inheritance, engine: Engine, events: WorkerEvents, *, quiet: bool) -> Self:
        """Start a process that imports what the engine's loads need, sends `Warmed`, and waits for `load`.

        With `quiet` it does so with the lowest priority. `events` are its callbacks until then. Raises
        `ModelLoadFailed` if that fails.
        """
        with sendable(engine):
            frame = encode(Warm(engine))
        about = f"a spare worker of engine '{engine.name}'"
        return cls(*await _spawn(launch, f"lllms-worker ({engine.name})", about, frame, events, quiet=quiet))

    async def load(self, load: Load, events: WorkerEvents) -> bool:
        """Send a spare the model to load; return False if it ended before it took that, True once it has.

        One that does not take it within `TAKE_SECONDS` is killed. Its end is an event of the spare until then. Raises
        `ModelLoadFailed` if the model cannot be sent.
        """
        with sendable(load.engine):
            frame = encode(load)
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pipes.taken = taken
        self._pipes.taker = lambda: self._pipes.serve(load.spec.name, events, sessions=load.sessions is not None)
        if not self._wire.is_closing():
            self._wire.write(frame)
        timer = asyncio.get_running_loop().call_later(TAKE_SECONDS, self.kill)
        try:
            return await taken  # directly: further messages follow as soon as this task has run
        finally:
            timer.cancel()

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

    def __init__(self, about: str, events: WorkerEvents, end: socket.socket) -> None:
        """Start for a process whose logs are `about` this; `end` is our end of the socket for sessions."""
        self._about = about
        self._events = events
        self._frames = FrameReader()
        self.native = NativeLog(about)
        self._kills = Kills.count()
        self._killed = False
        self.starved = False
        self._unreadable: str | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._reason: str | None = None
        self._end: socket.socket | None = end
        self._serving = False
        """Whether it is no spare: the end of a spare is no error."""
        self.taker: Callable[[], None] = lambda: None
        """Called when a spare takes its model."""
        self.taken: asyncio.Future[bool] | None = None
        """Whether it has."""
        self.channel: Channel | None = None

    def serve(self, model: str, events: WorkerEvents, *, sessions: bool) -> None:
        """From now on the process works for this model, and perhaps exchanges sessions."""
        self._serving = True
        self._about = self.native.about = model
        self._events = events
        self._kills = Kills.count()
        end, self._end = self._end, None
        if end is None:
            return  # the process has ended
        if sessions:
            self._open_channel(end)
        else:
            end.close()

    def _open_channel(self, end: socket.socket) -> None:
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
        if self._unreadable is not None:
            return  # the rest of answers that may lack a piece
        messages: list[object] = []
        try:
            for message in self._frames.feed(data):
                messages.append(message)  # noqa: PERF402  # those before an unreadable one count
        except Exception as error:
            # Perhaps an engine's exception that cannot be unpickled; the request that it belongs to is unknown.
            LOG.exception("the worker of %s sent an unreadable message", self._about)
            self._unreadable = f"the worker sent an unreadable message ({kind(error)}), and was killed"
            self.kill()
        self._deliver(messages)

    def _deliver(self, messages: Sequence[object]) -> None:
        for place, message in enumerate(messages):
            if isinstance(message, Taken):
                self.taker()
                self._settle(taken=True)
                # Only after this does the caller of `load` have the worker that the next messages are about.
                asyncio.get_running_loop().call_soon(self._deliver, messages[place + 1 :])
                return
            self._events.message(cast(FromWorker, message))

    def _settle(self, *, taken: bool) -> None:
        if self.taken is not None and not self.taken.done():
            self.taken.set_result(taken)

    def process_exited(self) -> None:
        # Processes that the worker has started must not outlive it.
        self._kill_group()
        self._patience = asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the exit status tells more
        if self._patience is not None:
            self._patience.cancel()
        self._transport.close()
        if self._end is not None:
            self._end.close()
            self._end = None
        self._settle(taken=False)
        self.native.end()
        status, words = self._transport.get_returncode(), self.native.last_words
        if status and words and not self._killed:
            level = logging.ERROR if self._serving else logging.DEBUG
            LOG.log(level, "the last words of the worker of %s:\n%s", self._about, words)
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


class _Wire(asyncio.Protocol):
    """Takes the wire's bytes when they are read: asyncio's own protocol passes them on in the loop's next turn."""

    def __init__(self, own: asyncio.BaseProtocol, pipes: _Pipes) -> None:
        self._own = own
        self._pipes = pipes

    def data_received(self, data: bytes) -> None:
        self._pipes.pipe_data_received(WIRE_OUT, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._own.connection_lost(exc)  # a process has ended once all its pipes have


async def _spawn(
    launch: Inheritance, title: str, about: str, frame: bytes, events: WorkerEvents, *, quiet: bool = False,
) -> tuple[asyncio.SubprocessTransport, _Pipes]:
    """Start a process, and send it what it inherits and then `frame`. Raises `ModelLoadFailed` if it does not start."""
    ours, theirs = socket.socketpair()
    with theirs:
        first = launch.frames(theirs.fileno(), quiet=quiet)
        try:
            transport, pipes = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Pipes(about, events, ours), *launch.command(title, quiet=quiet),
                env=launch.environment, pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is for the server, which then closes its workers
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise ModelLoadFailed(f"could not start a worker process for {about}: {error}") from error
            raise
    wire = cast(asyncio.ReadTransport, transport.get_pipe_transport(WIRE_OUT))
    wire.set_protocol(_Wire(wire.get_protocol(), pipes))  # before the process has anything to say
    cast(asyncio.WriteTransport, transport.get_pipe_transport(WIRE_IN)).write(first + frame)
    return transport, pipes
