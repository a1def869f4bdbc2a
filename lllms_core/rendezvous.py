"""Where the processes that a placement starts on other machines connect to their server; for authors of placements.

The server listens at an address that they can reach. For each launch it expects as many connections as the launch has
sockets, which prove by a token that they belong to it: 16 random bytes that travel by the placement's own, trusted way.
`command` is what the placement runs there, with `environment` in its variables. A connection that has been silent for
some seconds is known to be lost at both ends, even if nobody said so.
"""

import asyncio
import json
import os
import platform
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib.metadata import entry_points, version

from attrs import define, field, frozen

from lllms_core.errors import PlacementFailed

TOKEN_SIZE = 16
TOKEN = "_LLLMS_WORKER_TOKEN"  # noqa: S105  # the name of a variable
"""The variable by which a process learns what to show, in hexadecimal."""
ADDRESS = "_LLLMS_WORKER_ADDRESS"
"""The variable by which it learns where: an address, a space, a port."""
SILENCE = 4.0
"""Seconds after which a connection counts as lost if the other machine acknowledges nothing."""
GREETING_SECONDS = 5.0
"""How long a connection may take to show its token."""
MOST_STRANGERS = 64
"""The most connections that have yet to show one; more are closed."""
LONGEST_GREETING = 1 << 16
Tell = Callable[[Mapping[str, object]], object]
"""Takes an answer of a program on another machine."""
_HEAD = struct.Struct(f"!{TOKEN_SIZE}sBI")


@cache
def versions() -> Mapping[str, str]:
    """Return what a worker imports here, with its versions: Python, the core and all distributions with plugins."""
    plugins = [point.dist for point in entry_points(group="lllms") if point.dist is not None]
    return {
        "python": platform.python_version(), "lllms-core": version("lllms-core"),
        **{distribution.name: distribution.version for distribution in plugins},
    }


def different(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Return, in words, how their versions differ from ours; "" if they do not."""
    return ", ".join(
        f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)
    )


def command(title: str, sockets: int) -> tuple[str, ...]:
    """Return what to run on the other machine, with that machine's Python, for a process with this many sockets."""
    return sys.executable, "-m", "lllms_core.worker.far_child", title, str(sockets)


def node_command(question: str) -> tuple[str, ...]:
    """Return what to run on the other machine to learn of it and its model files: `facts`, `find` or `fetch`.

    The docstrings of the programs (`pool/far_facts.py`, `store/far_files.py`) say what they read and write.
    """
    if question == "facts":
        return sys.executable, "-m", "lllms_core.pool.far_facts"
    return sys.executable, "-m", "lllms_core.store.far_files", question


def answers() -> Tell:
    """For such a program: return a function that writes an answer to standard output, and let nothing else do so."""
    output = os.dup(1)
    os.dup2(2, 1)  # what plugins print is no answer
    return lambda answer: os.write(output, json.dumps(answer).encode() + b"\n")


def tune(connection: socket.socket) -> None:
    """Send small messages at once, and notice within `SILENCE` seconds that the other machine is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", int(SILENCE)),
        ("TCP_USER_TIMEOUT", int(SILENCE * 1000)),
    ):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def greet(address: tuple[str, int], token: bytes, count: int, facts: Mapping[str, object]) -> list[socket.socket]:
    """Connect this process to its server, by this many sockets; `facts` are its id and its versions. Blocking."""
    made: list[socket.socket] = []
    for index in range(count):
        connection = socket.create_connection(address, GREETING_SECONDS)
        connection.settimeout(None)
        tune(connection)
        body = json.dumps(facts).encode()
        connection.sendall(_HEAD.pack(token, index, len(body)) + body)
        made.append(connection)
    return made


def _check(theirs: object) -> None:
    if told := different(theirs if isinstance(theirs, dict) else {}, versions()):
        raise PlacementFailed(f"the versions must be equal, but {told}; install the same ones")


@frozen
class Arrival:
    """A process that has connected."""

    pid: int
    sockets: Sequence[socket.socket]


@define(eq=False)
class Expected:
    """A process that is expected."""

    environment: Mapping[str, str]
    """Variables for it; only its own user may read them."""
    _rendezvous: "Rendezvous"
    _token: bytes
    _count: int
    _sockets: dict[int, socket.socket] = field(factory=dict)
    _facts: dict[str, object] = field(factory=dict)
    _complete: asyncio.Event = field(factory=asyncio.Event)

    async def arrived(self, seconds: float) -> Arrival:
        """Return it once all of its connections are here; cancel this if it has ended before.

        Raises `PlacementFailed` if that takes longer, or if its versions are not those of this process.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._complete.wait()
            _check(self._facts.get("versions"))
        except BaseException as error:
            self.forget()
            for connection in self._sockets.values():
                connection.close()
            if isinstance(error, TimeoutError):
                raise PlacementFailed(f"the worker did not connect to its server within {seconds:g} s") from error
            raise
        self.forget()
        return Arrival(int(str(self._facts["pid"])), [self._sockets[index] for index in range(self._count)])

    def forget(self) -> None:
        """Expect it no more."""
        self._rendezvous.expected.pop(self._token, None)

    def take(self, index: int, facts: dict[str, object], connection: socket.socket) -> bool:
        """Take one of its connections; return False if it is none of them."""
        if index in self._sockets or index >= self._count:
            return False
        self._sockets[index] = connection
        self._facts = facts
        if len(self._sockets) == self._count:
            self._complete.set()
        return True


class Rendezvous:
    """Listens for the connections of launched processes. Use it from one event loop."""

    def __init__(self) -> None:
        self.expected: dict[bytes, Expected] = {}
        """By token."""
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._strangers: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int = 0) -> None:
        """Listen at this address of this machine. Raises `PlacementFailed`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise PlacementFailed(f"workers cannot connect to {host}, port {port}: {error}") from error
        self._listener.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self._accepting = asyncio.create_task(self._accept(self._listener))

    def expect(self, sockets: int) -> Expected:
        """Expect a process that connects by this many sockets."""
        assert self._listener is not None  # noqa: S101  # it is open
        host, port = self._listener.getsockname()[:2]
        token = secrets.token_bytes(TOKEN_SIZE)
        found = Expected({TOKEN: token.hex(), ADDRESS: f"{host} {port}"}, self, token, sockets)
        self.expected[token] = found
        return found

    async def close(self) -> None:
        """Listen no more."""
        tasks = [*self._strangers, *([] if self._accepting is None else [self._accepting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # it has left again, or descriptors are short
                await asyncio.sleep(0.1)
                continue
            if len(self._strangers) >= MOST_STRANGERS:
                connection.close()
                continue
            task = asyncio.create_task(self._meet(connection))
            self._strangers.add(task)
            task.add_done_callback(self._strangers.discard)

    async def _meet(self, connection: socket.socket) -> None:
        """Read what a connection shows; close it if it is not expected."""
        with ExitStack() as left, suppress(OSError, TimeoutError, ValueError, EOFError):  # a stranger, or it has left
            left.callback(connection.close)
            connection.setblocking(False)  # noqa: FBT003  # as above
            async with asyncio.timeout(GREETING_SECONDS):
                token, index, size = _HEAD.unpack(await _receive(connection, _HEAD.size))
                if (expected := self.expected.get(token)) is None or size > LONGEST_GREETING:
                    return
                facts = json.loads(await _receive(connection, size))
            tune(connection)
            if isinstance(facts, dict) and expected.take(index, facts, connection):
                left.pop_all()


async def _receive(connection: socket.socket, size: int) -> bytes:
    """Return exactly this many bytes: what follows is for somebody else."""
    found = b""
    while len(found) < size:
        piece = await asyncio.get_running_loop().sock_recv(connection, size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found
