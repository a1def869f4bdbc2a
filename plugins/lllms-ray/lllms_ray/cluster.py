"""What the placement needs of a cluster, and how it gets that from Ray: by a process of its own (`driver.py`).

Ray's driver ends its process when the head of the cluster is gone, holds Python's lock while it starts, and writes to
the log as it likes. In a process of its own none of that touches the server.
"""

import asyncio
import itertools
import json
import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from attrs import frozen

from lllms_core.placements import PlacementFailed

LOG = logging.getLogger("lllms.ray")

OPEN_SECONDS = 90.0
"""How long Ray may take to connect."""
CLOSE_SECONDS = 3.0
LONGEST = 1 << 22
"""Bytes of a line: a list of all nodes."""
LAST_LINES = 5
LAST_WORDS_SECONDS = 1.0


@frozen
class ClusterNode:
    """A node of a cluster."""

    id: str
    name: str
    """For people."""


class Cluster(Protocol):
    """A cluster, as the placement needs it; its methods do not block."""

    async def open(
        self, address: str, seen: Callable[[Sequence[ClusterNode]], None], ended: Callable[[str], None],
    ) -> ClusterNode:
        """Join a cluster; return this machine's node, whose `name` is its address here.

        `seen` is called with the nodes that are alive, now and when they change; `ended` with the reason, if the
        connection ends: open it again. Raises `PlacementFailed`.
        """

    async def connect(self, node: str, environment: Mapping[str, str]) -> None:
        """Let a node's agent connect to this server with these variables. Raises `PlacementFailed`."""

    async def close(self) -> None:
        """Leave the cluster."""


class RayCluster:
    """A cluster of Ray, by the process `driver.py`."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "lllms_ray.driver")) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._asked: dict[int, asyncio.Future[str]] = {}
        """By number: why an agent could not connect, or ""."""
        self._numbers = itertools.count(1)
        self._words: deque[str] = deque(maxlen=LAST_LINES)
        self._silent = False
        """Whether the process has closed its end, which its exit status tells only later."""

    async def open(
        self, address: str, seen: Callable[[Sequence[ClusterNode]], None], ended: Callable[[str], None],
    ) -> ClusterNode:
        """Start the process, which joins the cluster."""
        await self.close()
        try:
            return await self._join(address, seen, ended)
        except BaseException:
            await self.close()
            raise

    async def _join(
        self, address: str, seen: Callable[[Sequence[ClusterNode]], None], ended: Callable[[str], None],
    ) -> ClusterNode:
        pipe = asyncio.subprocess.PIPE
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=pipe, limit=LONGEST, start_new_session=True,
        )
        self._silent = False
        self._tasks = [asyncio.create_task(self._relay(process))]
        self._send({"address": address})
        told: Mapping[str, object] = {}
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                told = await self._next(process)
        except TimeoutError:
            told = {"failed": f"Ray did not connect to the cluster at '{address}' within {OPEN_SECONDS:g} s"}
        if "node" not in told:
            raise PlacementFailed(str(told.get("failed") or await self._last_words()))
        self._see(told, seen)
        self._tasks.append(asyncio.create_task(self._listen(process, seen, ended)))
        return ClusterNode(str(told["node"]), str(told["host"]))

    async def connect(self, node: str, environment: Mapping[str, str]) -> None:
        """Start the agent, unless it runs, and let it connect."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send({"id": number, "connect": node, "environment": dict(environment)})
            if failed := await answer:
                raise PlacementFailed(failed)
        finally:
            self._asked.pop(number, None)

    async def close(self) -> None:
        """End the process; then Ray ends the agents."""
        process, self._process = self._process, None
        if process is None:
            return
        for task in self._tasks:  # first: this end is no news
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._answer_all("the connection to Ray was closed")
        assert process.stdin is not None  # noqa: S101  # it is a pipe
        process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _send(self, order: Mapping[str, object]) -> None:
        if self._process is None or self._process.stdin is None or self._silent:
            raise PlacementFailed("there is no connection to Ray now")
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _next(self, process: asyncio.subprocess.Process) -> Mapping[str, object]:
        """Return what the process tells next; nothing at its end."""
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        line = await process.stdout.readline()
        return json.loads(line) if line else {}

    async def _listen(
        self, process: asyncio.subprocess.Process, seen: Callable[[Sequence[ClusterNode]], None],
        ended: Callable[[str], None],
    ) -> None:
        while told := await self._next(process):
            self._see(told, seen)
            match told:
                case {"id": int(number), "failed": str(reason)} if number in self._asked:
                    self._answer(number, reason)
        self._silent = True
        reason = await self._last_words()
        self._answer_all(reason)
        ended(reason)

    def _see(self, told: Mapping[str, object], seen: Callable[[Sequence[ClusterNode]], None]) -> None:
        if isinstance(nodes := told.get("nodes"), dict):
            seen([ClusterNode(node, str(name)) for node, name in nodes.items()])

    async def _relay(self, process: asyncio.subprocess.Process) -> None:
        """Keep what Ray says out of the log, except for a debugger; its last words explain an end."""
        assert process.stderr is not None  # noqa: S101  # it is a pipe
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").strip()
            self._words.append(text)
            LOG.debug("Ray: %s", text)

    async def _last_words(self) -> str:
        """Return why the process has ended, as far as it has said so."""
        await asyncio.wait(self._tasks[:1], timeout=LAST_WORDS_SECONDS)
        return f"Ray's process has ended: {' / '.join(self._words) or 'without a word'}"

    def _answer_all(self, reason: str) -> None:
        for number in self._asked:
            self._answer(number, reason)

    def _answer(self, number: int, reason: str) -> None:
        if not self._asked[number].done():  # else nobody waits any more
            self._asked[number].set_result(reason)
