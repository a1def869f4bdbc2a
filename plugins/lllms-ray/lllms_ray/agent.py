"""The agent: what runs on a node for a server. It starts processes there, kills them, and tells how they ended.

Server and agent exchange JSON objects, one a line, over a connection of their own; Ray only brings the agent to the
node. The server orders `{"do": "launch" | "ask" | "kill", "id": N, ...}`; the agent tells of process N what it writes
to standard error (`output`), what it answers (`told`), and how it ended (`ended`, or `failed` if it did not start). A
`warning` says what is wrong with the node. When the connection ends, all processes do.
"""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Thread

from attrs import define, field

from lllms_core.rendezvous import ADDRESS, TOKEN, command, greet, node_command, versions
from lllms_ray.pipes import Pipes
from lllms_ray.raylet import node_environment, take_priority

LONGEST = 1 << 20
"""Bytes of a line at most."""
PIECE = 1 << 14
"""Bytes of output that are told at once."""
LAST_WORDS_SECONDS = 1.0
"""How long the output of a dead process is read at most, if others keep its pipe open."""


class Agent:
    """An actor of Ray, one on each node for a server. It serves the server that it was connected to last."""

    def __init__(self, variables: Callable[[], Mapping[str, str]] = node_environment) -> None:
        """Start without a server; `variables` returns the environment of the processes."""
        self._variables = variables
        self._connection: socket.socket | None = None
        self._serving: Thread | None = None

    def connect(self, environment: Mapping[str, str]) -> None:
        """Connect to a server that expects it with these variables; processes of a former connection end first.

        Raises `OSError` if it cannot be reached.
        """
        self.disconnect()
        host, port = environment[ADDRESS].split()
        facts = {"pid": os.getpid(), "versions": dict(versions())}
        [connection] = greet((host, int(port)), bytes.fromhex(environment[TOKEN]), 1, facts)
        variables = self._variables()
        # The kernel kills the processes when the thread that has started them ends: this one starts them all.
        self._serving = Thread(
            target=lambda: asyncio.run(serve(connection, variables)), name="lllms agent", daemon=True,
        )
        self._connection = connection
        self._serving.start()

    def disconnect(self) -> None:
        """End the connection, and all processes."""
        if self._connection is not None and self._serving is not None:
            with suppress(OSError):  # it has ended already
                self._connection.shutdown(socket.SHUT_RDWR)
            self._serving.join()


async def serve(connection: socket.socket, variables: Mapping[str, str]) -> None:
    """Carry out what a server orders, until the connection ends, however it ends."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=LONGEST)
    processes = Processes(writer, variables)
    if warning := take_priority():
        processes.warn(warning)
    try:
        with suppress(OSError):
            while line := await reader.readline():
                processes.take(json.loads(line))
    finally:
        await processes.close()
        writer.close()


@define(eq=False)
class Processes:
    """The processes that a server has ordered."""

    _writer: asyncio.StreamWriter
    _variables: Mapping[str, str]
    _tasks: dict[int, asyncio.Task[None]] = field(factory=dict)
    _running: dict[int, asyncio.subprocess.Process] = field(factory=dict)
    _unwanted: set[int] = field(factory=set)
    """Those that were killed before they ran."""

    def take(self, order: Mapping[str, object]) -> None:
        """Carry out an order."""
        number = int(str(order["id"]))
        match order:
            case {"do": "launch", "command": [str(label), int(sockets)], "engine": dict(engine), "own": dict(own)}:
                variables = {**engine, **self._variables, **own}  # the node's own go before the engine's
                self._begin(number, command(label, sockets), variables, None)
            case {"do": "ask", "question": str(question), "about": about}:
                self._begin(number, node_command(question), self._variables, json.dumps(about).encode())
            case {"do": "kill"} if number in self._tasks:
                self._unwanted.add(number)
                self._kill(number)

    def warn(self, text: str) -> None:
        """Tell what should be known of this node."""
        self._tell(0, {"warning": text})

    async def close(self) -> None:
        """Kill all."""
        self._unwanted.update(self._tasks)
        for number in list(self._running):
            self._kill(number)
        await asyncio.gather(*self._tasks.values())

    def _begin(
        self, number: int, arguments: Sequence[str], variables: Mapping[str, str], question: bytes | None,
    ) -> None:
        self._tasks[number] = asyncio.create_task(self._run(number, arguments, variables, question))

    async def _run(
        self, number: int, arguments: Sequence[str], variables: Mapping[str, str], question: bytes | None,
    ) -> None:
        """Run a process to its end; with a question it reads that, and answers it on standard output."""
        # Pipes of our own: asyncio waits for the end of its pipes, which whatever the process starts may keep open.
        with Pipes() as pipes:
            stdin = asyncio.subprocess.DEVNULL if question is None else pipes.filled(question)
            stdout, answer = (asyncio.subprocess.DEVNULL, None) if question is None else await pipes.new()
            stderr, output = await pipes.new()
            try:
                process = await asyncio.create_subprocess_exec(
                    *arguments, env=variables, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True,
                )
            except OSError as error:
                self._forget(number)
                self._tell(number, {"failed": str(error)})
                return
            self._running[number] = process
            pipes.close_theirs()
            if number in self._unwanted:
                self._kill(number)
            relays = [asyncio.create_task(self._output(number, output))]
            if answer is not None:
                relays.append(asyncio.create_task(self._answers(number, answer)))
            status = await process.wait()
            self._kill(number)  # what it has started must not outlive it
            await asyncio.wait(relays, timeout=LAST_WORDS_SECONDS)
            for relay in relays:
                relay.cancel()
        self._forget(number)
        self._tell(number, {"ended": status})

    def _forget(self, number: int) -> None:
        del self._tasks[number]
        self._running.pop(number, None)
        self._unwanted.discard(number)

    def _kill(self, number: int) -> None:
        if number in self._running:
            with suppress(ProcessLookupError, PermissionError):  # all are gone already
                os.killpg(self._running[number].pid, signal.SIGKILL)

    async def _output(self, number: int, output: asyncio.StreamReader) -> None:
        while data := await output.read(PIECE):
            self._tell(number, {"output": data.decode("latin-1")})
            with suppress(OSError):  # the server is gone
                await self._writer.drain()

    async def _answers(self, number: int, answer: asyncio.StreamReader) -> None:
        while line := await answer.readline():
            self._tell(number, {"told": json.loads(line)})

    def _tell(self, number: int, what: Mapping[str, object]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"id": number, **what}).encode() + b"\n")
