"""The server: accepts connections, limits them, and ends them in time."""

import asyncio
import logging
import select
import socket
import ssl
from collections.abc import Awaitable, Callable

from attrs import define, field
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, ASGIFramework

from lllms_core.web.connection import SILENT, Connection, ConnectionReader
from lllms_core.web.limits import ConnectionLimits
from lllms_core.web.seldom import Seldom

LOG = logging.getLogger("lllms.http")

ACCEPT_PAUSE = 1.0
"""Seconds until the next try to accept after one failed for lack of descriptors or memory, unless one is freed."""


async def serve_app(
    app: ASGIFramework, listener: socket.socket, stopped: Callable[[], Awaitable[object]],
    limits: ConnectionLimits | None = None, tls: Callable[[], ssl.SSLContext] | None = None,
) -> None:
    """Serve an ASGI application on a listening socket until `stopped` returns, then close the socket.

    With `tls` it speaks HTTPS: for each connection that returns the settings, with the present certificate.

    Then idle connections are closed, and running requests have `limits.flush` seconds to end.
    """
    limits = ConnectionLimits() if limits is None else limits
    config = _config()
    wrapped = ASGIWrapper(app)
    lifespan = Lifespan(wrapped, config, asyncio.get_running_loop(), {})
    living = asyncio.create_task(lifespan.handle_lifespan())
    await lifespan.wait_for_startup()
    if living.done():
        living.result()
    server = Listener(wrapped, config, limits, tls)
    accepting = asyncio.create_task(server.accept(listener))
    waiting = asyncio.ensure_future(stopped())
    try:
        await asyncio.wait([accepting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if accepting.done():
            accepting.result()
    finally:
        accepting.cancel()
        waiting.cancel()
        await asyncio.wait([accepting, waiting])
        listener.close()
        await server.close()
        await lifespan.wait_for_shutdown()
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


@define(eq=False)
class Listener:
    """The connections of one application."""

    app: AppWrapper
    config: Config
    limits: ConnectionLimits
    tls: Callable[[], ssl.SSLContext] | None = None
    context: WorkerContext = field(factory=lambda: WorkerContext(None))
    failures: Seldom = field(factory=lambda: Seldom(LOG))
    _tasks: set[asyncio.Task[None]] = field(factory=set)
    _connections: set[Connection] = field(factory=set)
    _handshakes: dict[asyncio.Task[None], float] = field(factory=dict)
    """Connections without a protocol yet, and when they began."""
    _changed: asyncio.Event = field(factory=asyncio.Event)
    _sweeper: asyncio.TimerHandle | None = None

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections, forever."""
        listener.setblocking(False)  # noqa: FBT003  # a method of the standard library
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            try:
                client, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # the client left before its turn
            except OSError as error:
                await self._free_descriptor(error, listener)
                continue
            task = loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._forget)
            if self._sweeper is None:
                self._sweeper = loop.call_later(self.limits.sweep, self._sweep)
            while len(self._tasks) >= self.limits.connections:
                self._changed.clear()
                self._make_room()
                await self._changed.wait()

    async def close(self) -> None:
        """End all connections: idle ones at once, the others when their answer is sent or their time is up."""
        await self.context.terminated.set()
        for connection in self._connections:
            connection.stop()
        await self._wait(self.limits.flush)
        for connection in self._connections:
            connection.abort()
        await self._wait(self.limits.flush)
        for task in self._tasks:
            task.cancel()
        await self._wait(self.limits.flush)
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _serve(self, client: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in one
        self._handshakes[task] = asyncio.get_running_loop().time()
        try:
            transport, wire = await self._greet(client)
        except OSError:  # also a failed handshake, and one that took too long
            client.close()
            return
        finally:
            del self._handshakes[task]
        connection = Connection(
            self.app, self.config, self.context, self.limits, self._changed.set, transport, wire,
        )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _greet(self, client: socket.socket) -> tuple[asyncio.Transport, ConnectionReader]:
        """Return the transport of a new connection, after its TLS handshake. Raises `OSError`."""
        if client.family != getattr(socket, "AF_UNIX", None):
            # asyncio does so only if a socket knows its protocol; without it an answer in two parts takes 40 ms.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = None if self.tls is None else self.tls()
        times = (None, None) if tls is None else (self.limits.headers, self.limits.linger)
        return await asyncio.get_running_loop().connect_accepted_socket(
            ConnectionReader, client, ssl=tls, ssl_handshake_timeout=times[0], ssl_shutdown_timeout=times[1],
        )

    async def _wait(self, seconds: float) -> None:
        """Wait for all connections to end, for at most this many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._changed.set()

    def _make_room(self) -> None:
        """Close the first connection in the order of `Connection.yields`, if any, else an unfinished handshake."""
        now = asyncio.get_running_loop().time()
        ranks = [(rank, one) for one in self._connections if (rank := one.yields(now)) is not None]
        if ranks:
            min(ranks, key=lambda found: found[0])[1].abort()
        elif self._handshakes:
            task, since = min(self._handshakes.items(), key=lambda one: one[1])
            if now - since >= SILENT:
                task.cancel()

    async def _free_descriptor(self, error: OSError, listener: socket.socket) -> None:
        """If a client waits, which the error does not say, make room; then wait until there may be some."""
        if select.select([listener], [], [], 0)[0]:
            self.failures.warning(
                "could not accept a connection while %d are open: %s; raise the limit on open files (ulimit -n)",
                len(self._tasks), error.strerror,
            )
            self._make_room()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(ACCEPT_PAUSE, self._changed.set)
        await self._changed.wait()
        timer.cancel()

    def _sweep(self) -> None:
        """End the connections whose time is up, and repeat while there are any."""
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            if connection.late(loop.time()):
                connection.abort()
        self._changed.set()  # a connection whose incomplete request has been silent for a while makes room, too
        self._sweeper = loop.call_later(self.limits.sweep, self._sweep) if self._tasks else None


def _config() -> Config:
    config = Config()
    config.include_server_header = False
    config.errorlog = logging.getLogger("lllms.http")
    # Not needed: bodies are bounded elsewhere. But one stream's full queue would block all others.
    config.max_app_queue_size = 0
    # After this many requests Hypercorn drops the answers that HTTP/2 clients still wait for.
    config.keep_alive_max_requests = 2**62
    return config
