"""A worker in a process that a placement has started, perhaps on another machine: its wire is a socket."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Self, cast

from lllms_core.errors import PlacementFailed
from lllms_core.placements import Ending, Launch, Launched, Place, Placement
from lllms_core.tracebacks import kind
from lllms_core.worker.channel import Channel, Heavy
from lllms_core.worker.ends import NativeLog, ended
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.launch import sendable
from lllms_core.worker.wire import (
    FoundSession,
    FrameReader,
    FromWorker,
    Hello,
    Load,
    Open,
    PutSession,
    Surveyed,
    ToWorker,
    encode,
)

LOG = logging.getLogger("lllms.worker")
STATUS_SECONDS = 2.0
"""After the end of its connection a worker is gone, even if nobody knows its exit status by then; likewise after its
end, and after it was killed, even if the connection does not end."""


class SocketWorker(Worker):
    """A process at a place. It ends on `Close`, when killed, and when its connection ends, however it ends."""

    def __init__(self, launched: Launched, place: Place, events: WorkerEvents, native: NativeLog) -> None:
        """Only for `start`."""
        self._launched = launched
        self._place = place
        self._events = events
        self._native = native
        self._about = native.about
        self._frames = FrameReader()
        self._wire: asyncio.Transport | None = None
        self._unreadable: str | None = None
        self._lost = ""
        self._starved = False
        self._channel: Channel | None = None
        self._silent = asyncio.Event()
        """Set when its connection has ended."""
        self._drained = asyncio.Event()
        """Set when nothing more comes through its channel."""
        self._watching: asyncio.Task[None] | None = None
        self._killed = False

    @classmethod
    async def start(cls, load: Load, events: WorkerEvents, placement: Placement, place: Place) -> Self:
        """Start a process at a place and send it the model to load. Raises `ModelLoadFailed` if that fails."""
        if type(load.engine).__module__ == "__main__":
            raise PlacementFailed(
                f"engine '{load.engine.name}' is defined in the main script, which only this machine has; "
                "install it as a package, here and on the other machines",
            )
        with sendable(load.engine):
            frame = encode(load)
        native = NativeLog(f"{load.spec.name} at {place.name}")
        count = 1 if load.sessions is None else 2
        launched = await placement.launch(place.id, Launch(
            f"lllms-worker {load.spec.name}", dict(load.engine.environment), count, native.feed,
        ))
        worker = cls(launched, place, events, native)
        try:
            await worker._open(load, frame)
        except BaseException:
            launched.kill()
            raise
        return worker

    @property
    def starved(self) -> bool:
        """Whether the process has ended for lack of memory, by its own words."""
        return self._starved

    @property
    def lost(self) -> str:
        """Why it is gone, if its place is lost, or the way there; "" if not."""
        return self._lost

    def send(self, message: ToWorker, frame: bytes | None = None) -> None:
        """Write the message to the wire, or to the channel for sessions."""
        if isinstance(message, FoundSession) and message.tokens and self._channel is not None:
            self._channel.send(message)
        elif self._wire is not None and not self._wire.is_closing():
            if isinstance(message, Open):
                self._native.serve()
            self._wire.write(encode(message) if frame is None else frame)

    def kill(self) -> None:
        """Kill the process and every process that it has started."""
        if not self._killed:
            self._killed = True
            self._launched.kill()
            if self._wire is not None:  # a place that cannot be reached does not kill it
                asyncio.get_running_loop().call_later(STATUS_SECONDS, self._wire.abort)

    async def _open(self, load: Load, frame: bytes) -> None:
        loop = asyncio.get_running_loop()
        first, *more = self._launched.sockets
        level = min(logging.WARNING, logging.getLogger("lllms").getEffectiveLevel())
        wire, _ = await loop.create_connection(lambda: _Wire(self._feed, self._silent.set), sock=first)
        self._wire = wire
        wire.write(encode(Hello(None, None, level)) + encode({}) + frame)
        if load.sessions is not None:
            [end] = more
            end.setblocking(True)  # noqa: FBT003  # the standard library's signature

            def tell(function: Callable[..., None], *arguments: object) -> None:
                with contextlib.suppress(RuntimeError):  # a program may end without closing its host
                    loop.call_soon_threadsafe(function, *arguments)

            self._channel = Channel(end, lambda one: tell(self._arrived, one), lambda: tell(self._drained.set))
        self._watching = asyncio.create_task(self._watch())

    def _feed(self, data: bytes) -> None:
        if self._unreadable is not None:
            return  # the rest of answers that may lack a piece
        try:
            for message in self._frames.feed(data):
                self._events.message(cast(FromWorker, message))
        except Exception as error:
            # Perhaps an engine's exception that cannot be unpickled; the request that it belongs to is unknown.
            LOG.exception("the worker of %s sent an unreadable message", self._about)
            self._unreadable = f"the worker sent an unreadable message ({kind(error)}), and was killed"
            self.kill()

    def _arrived(self, message: Heavy) -> None:
        assert isinstance(message, PutSession | Surveyed)  # noqa: S101  # the child sends no others here
        self._events.message(message)

    async def _watch(self) -> None:
        """Wait for the end of the process and of its connection, and report it."""
        ending = asyncio.ensure_future(self._launched.ended())
        silent = asyncio.ensure_future(self._silent.wait())
        await asyncio.wait([ending, silent], return_when=asyncio.FIRST_COMPLETED)
        if not (ending.done() and ending.result().lost):  # else neither comes any more
            await asyncio.wait([ending, silent], timeout=STATUS_SECONDS)
        told = ending.result() if ending.done() else Ending(None, "the connection to it has ended")
        ending.cancel()
        self._launched.kill()  # what it has started, too
        assert self._wire is not None  # noqa: S101  # it is open
        self._wire.abort()
        await silent
        if self._channel is not None:
            with contextlib.suppress(TimeoutError):  # what it sent there has yet to be read
                async with asyncio.timeout(0 if told.lost else STATUS_SECONDS):
                    await self._drained.wait()
            self._channel.close()
        self._native.end()
        if told.status and self._native.last_words and not self._killed:
            LOG.error("the last words of the worker of %s:\n%s", self._about, self._native.last_words)
        self._starved = not self._killed and self._native.starved
        if told.status is None and not self._killed:
            self._lost = told.lost or "the connection to it has ended"
        self._events.ended(self._unreadable or self._reason(told))

    def _reason(self, told: Ending) -> str:
        if self._lost:
            return f"{self._place.name} was lost: {self._lost}"
        return ended(told.status, self._native.cause, starved=self._native.starved)


class _Wire(asyncio.Protocol):
    """The connection to the process."""

    def __init__(self, feed: Callable[[bytes], None], ended: Callable[[], object]) -> None:
        self._feed = feed
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the exit status tells more
        self._ended()
