"""The server's side of an agent: processes on its node, and questions to it."""

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from attrs import define, field

from lllms_core.placements import Ending, Launched, PlaceFull, PlaceLost, PlacementFailed
from lllms_ray.agent import LONGEST

LOG = logging.getLogger("lllms.ray")

CLOSE_SECONDS = 3.0
"""How long an agent has to kill its processes before its connection is cut."""

Answer = Mapping[str, object]


def _ignore(_: Answer) -> None:
    """Nobody wants to know."""


@define(eq=False)
class Started:
    """A process that an agent was told to start."""

    number: int
    output: Callable[[bytes], object]
    """Takes what it writes to standard error."""
    told: Callable[[Answer], object]
    """Takes what it answers."""
    over: asyncio.Future[Ending]
    failed: str = ""
    """Why it did not start."""


class Remote:
    """An agent, over the connection to it."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Only for `open`."""
        self.name = name
        self._reader, self._writer = reader, writer
        self._started: dict[int, Started] = {}
        self._numbers = itertools.count(1)
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, name: str, connection: socket.socket) -> Self:
        """Use the connection of an agent, on the node of this name."""
        return cls(name, *await asyncio.open_connection(sock=connection, limit=LONGEST))

    async def lost(self) -> str:
        """Return why the agent is lost, once it is."""
        return await asyncio.shield(self._lost)

    def cut(self, reason: str) -> None:
        """Give it up for this reason, with all its processes."""
        if not self._lost.done():
            self._lost.set_result(reason)
            for one in self._started.values():
                one.over.set_result(Ending(None, reason))
            self._started.clear()
            self._listening.cancel()
            self._writer.transport.abort()

    async def close(self) -> None:
        """Let it kill its processes, and end the connection."""
        if not self._lost.done():
            self._writer.write_eof()
            await asyncio.wait([self._lost], timeout=CLOSE_SECONDS)
        self.cut("the server closes")
        await asyncio.gather(self._listening, return_exceptions=True)

    def launch(
        self, label: str, sockets: int, engine: Mapping[str, str], own: Mapping[str, str],
        output: Callable[[bytes], object],
    ) -> Started:
        """Start a worker, in the environment of its node; these variables of its engine give way, its own do not."""
        return self._start(
            {"do": "launch", "command": [label, sockets], "engine": dict(engine), "own": dict(own)}, output,
        )

    def kill(self, process: Started) -> None:
        """Kill a process with all that it has started; nothing happens if it has ended."""
        if process.number in self._started:
            self._send({"do": "kill", "id": process.number})

    async def ask(
        self, question: str, about: Answer | None = None, progress: Callable[[Answer], object] = _ignore,
    ) -> Answer:
        """Return the last answer of a program on the node, and tell `progress` each. Raises `PlacementFailed`."""
        answers: list[Answer] = []
        words: list[bytes] = []

        def take(answer: Answer) -> None:
            answers.append(answer)
            progress(answer)

        process = self._start({"do": "ask", "question": question, "about": about}, words.append, take)
        try:
            ending = await asyncio.shield(process.over)
        except asyncio.CancelledError:
            self.kill(process)
            raise
        if ending.lost:
            raise PlaceLost(f"{self.name} was lost: {ending.lost}")
        if process.failed or ending.status or not answers:
            [*_, last] = [process.failed, *b"".join(words).decode(errors="replace").strip().splitlines()[-1:]]
            raise PlacementFailed(f"{self.name} does not answer ({question}): {last or f'status {ending.status}'}")
        if "error" in answers[-1]:
            failure = PlaceFull if answers[-1].get("full") else PlacementFailed
            raise failure(f"{self.name}: {answers[-1]['error']}")
        return answers[-1]

    def _start(
        self, order: Answer, output: Callable[[bytes], object], told: Callable[[Answer], object] = _ignore,
    ) -> Started:
        if self._lost.done():
            raise PlaceLost(f"{self.name} was lost: {self._lost.result()}")
        process = Started(next(self._numbers), output, told, asyncio.get_running_loop().create_future())
        self._started[process.number] = process
        self._send({**order, "id": process.number})
        return process

    def _send(self, order: Answer) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        reason = "the connection to its agent has ended"
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except OSError as error:
            reason = f"the connection to its agent has failed: {error.strerror or error}"
        except Exception as error:
            LOG.exception("what the agent of %s tells cannot be read", self.name)
            reason = f"what its agent tells cannot be read ({type(error).__name__})"
        self.cut(reason)

    def _take(self, told: Answer) -> None:
        if "warning" in told:
            LOG.warning("%s: %s", self.name, told["warning"])
            return
        process = self._started[int(str(told["id"]))]
        match told:
            case {"output": str(text)}:
                process.output(text.encode("latin-1"))
            case {"told": dict(answer)}:
                process.told(answer)
            case {"failed": str(reason)}:
                process.failed = reason
                self._end(process, Ending(1))
            case {"ended": int(status)}:
                self._end(process, Ending(status))

    def _end(self, process: Started, ending: Ending) -> None:
        del self._started[process.number]
        process.over.set_result(ending)


@define(eq=False)
class FarProcess(Launched):
    """A worker on a node."""

    pid: int
    sockets: Sequence[socket.socket]
    _remote: Remote
    _process: Started = field(repr=False)

    def kill(self) -> None:
        """Kill it, and what it has started."""
        self._remote.kill(self._process)

    async def ended(self) -> Ending:
        """Return its exit status, or that its node is lost."""
        return await asyncio.shield(self._process.over)
