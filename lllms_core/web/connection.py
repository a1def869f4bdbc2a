"""One connection: Hypercorn's protocols between a socket and the application, with a limit on every wait.

It replaces Hypercorn's `TCPServer`, which keeps a connection that its client has closed until the keep-alive time is
over (pgjones/hypercorn#241), and waits forever for headers, for a silent HTTP/2 client, and for a client that does not
read.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from attrs import define, field
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from lllms_core.web.limits import ConnectionLimits
from lllms_core.web.protocols import Protocols
from lllms_core.web.seldom import Seldom

MAX_READ = 2**16
SILENT = 1.0
"""Seconds without a byte after which an incomplete request may have to make room. Honest clients do not pause so."""

FAULTS = Seldom(logging.getLogger("lllms.http"))

State = Literal["headers", "idle", "busy", "closing"]
"""The connection receives headers, waits for a request, serves one, or is about to close."""


class ConnectionReader(asyncio.StreamReaderProtocol):
    """Notices the end of a connection even while no task reads from it."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(MAX_READ)
        super().__init__(self.reader)
        self.ended = asyncio.Event()

    def eof_received(self) -> bool | None:
        """The client has closed its side: it has left, because a client that awaits an answer has no reason to."""
        self.ended.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is broken, or was closed here."""
        self.ended.set()
        super().connection_lost(exc)


@define(eq=False)
class Connection:
    """Serves one connection until either side ends it."""

    app: AppWrapper
    config: Config
    context: WorkerContext
    limits: ConnectionLimits
    changed: Callable[[], object]
    """Called when it may have become able to make room."""
    transport: asyncio.Transport
    wire: ConnectionReader
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.get_running_loop)
    _sending: asyncio.Lock = field(factory=asyncio.Lock)
    _writer: asyncio.StreamWriter = field(init=False)
    _protocol: Protocols | None = None
    _state: State = "headers"
    _since: float = field(init=False)
    """When this state began."""
    _heard: float = field(init=False)
    """When bytes last arrived."""
    _pending: int = 0
    """Bytes that waited for the client at the last call of `late`."""
    _progress: float = field(init=False)
    """When their number last changed."""

    def __attrs_post_init__(self) -> None:
        self._writer = asyncio.StreamWriter(self.transport, self.wire, self.wire.reader, self._loop)
        self._since = self._heard = self._progress = self._loop.time()

    async def run(self) -> None:
        """Serve the connection; return when it is closed and all its tasks have ended."""
        try:
            socket = self.transport.get_extra_info("socket")
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            secure = self.transport.get_extra_info("ssl_object") is not None
            async with TaskGroup(self._loop) as group:
                self._protocol = protocol = Protocols(
                    self.app, self.config, self.context, group, ConnectionState({}), ssl=secure,
                    client=client, server=server, send=self._send, alpn_protocol="http/1.1",
                )
                protocol.offer(self)
                await protocol.initiate()
                reading = self._loop.create_task(self._read(protocol))
                try:
                    await self.wire.ended.wait()
                finally:
                    reading.cancel()
                await asyncio.wait([reading])
                await protocol.handle(Closed())
                self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        except OSError:
            pass  # broken before it began
        except Exception as error:  # noqa: BLE001  # any failure ends only this connection
            _report(error)
        finally:
            self.transport.abort()

    def late(self, now: float) -> bool:
        """Whether its client has made the server wait too long; call it regularly."""
        pending = self.transport.get_write_buffer_size() + (self._protocol.pending if self._protocol else 0)
        if pending != self._pending:
            self._pending, self._progress = pending, now
        if pending:
            return now - self._progress > self.limits.send
        limits = {"headers": self.limits.headers, "idle": self.limits.idle, "closing": self.limits.linger}
        return self._state in limits and now - self._since > limits[self._state]

    def yields(self, now: float) -> tuple[int, float] | None:
        """Return the connection's rank for making room for a new one, the smallest first; None if it must not.

        Connections about to close go first, then idle ones, then those with an incomplete request; among equals the one
        that has waited longest.
        """
        if self.transport.is_closing():
            return None
        if self._closing:
            return (0, self._since)
        if self._state == "idle":
            return (1, self._since) if not self.transport.get_write_buffer_size() else None
        if now - self._heard < SILENT:
            return None
        if self._state == "headers":
            return (2, self._since)
        return (3, self._heard) if self._protocol is not None and self._protocol.half_sent else None

    @property
    def free(self) -> bool:
        """Whether nothing waits to be sent, and it is not about to close."""
        transport = self.transport
        return not (
            self._closing or self._sending.locked() or transport.is_closing() or transport.get_write_buffer_size()
        )

    def write_now(self, data: bytes) -> None:
        """Write without waiting; call it only while it is `free`."""
        self.transport.write(data)

    def stop(self) -> None:
        """Close it as soon as it serves no request."""
        if self._state in {"idle", "headers"}:
            self._writer.close()

    def abort(self) -> None:
        """Close it now."""
        self.transport.abort()

    @property
    def _closing(self) -> bool:
        return self._state == "closing"

    async def _read(self, protocol: Protocols) -> None:
        try:
            while data := await self.wire.reader.read(MAX_READ):
                self._heard = self._loop.time()
                if self._closing:
                    continue
                if self._state == "idle" and not protocol.idle:
                    self._become("headers")
                await protocol.handle(RawData(data))
                if self._state == "busy" and protocol.idle:
                    self._become("idle")
                if self._closing:
                    await protocol.handle(Closed())  # ends the request whose bytes were at fault
        except OSError:
            pass  # broken
        except Exception as error:  # noqa: BLE001  # bytes that the protocol cannot handle
            _report(error)
        finally:
            self.wire.ended.set()

    async def _send(self, event: Event) -> None:
        """Carry out an event from the protocol."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._finish()
        elif isinstance(event, Updated) and not self._closing:
            if event.idle and self.context.terminated.is_set():
                self._finish()
            else:
                self._become("idle" if event.idle else "busy")

    async def _write(self, data: bytes) -> None:
        async with self._sending:
            if self._closing or self.transport.is_closing():
                return
            try:
                self._writer.write(data)
                await self._writer.drain()
            except (ConnectionError, RuntimeError):
                self.wire.ended.set()

    def _become(self, state: State) -> None:
        if state != self._state:
            self._state, self._since = state, self._loop.time()
            if state in {"idle", "closing"}:
                self.changed()

    def _finish(self) -> None:
        """Close it after the written bytes are sent and the client has had time to read them."""
        if self._closing:
            return
        self._become("closing")
        if self._protocol is None or not self._protocol.sends_more:
            self._writer.close()
            return
        try:
            self._writer.write_eof()
        except (NotImplementedError, OSError, RuntimeError):
            self._writer.close()


def _report(error: Exception) -> None:
    """Log a fault of a protocol, without anything that the client sent."""
    while isinstance(error, BaseExceptionGroup) and isinstance(error.exceptions[0], Exception):
        error = error.exceptions[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    FAULTS.warning("a connection was closed after a fault in its protocol: %s%s", type(error).__name__, where)
