"""The programs that a bench starts and compares: the raw loop, a busy neighbour, our server, other servers."""

import asyncio
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lllms_core.bench.load import first_model
from lllms_core.bench.timeline import Timeline
from lllms_core.bench.traffic import ServerSilent
from lllms_core.errors import LllmsError

STARTS_WITHIN = 120.0
ENDS_WITHIN = 20.0
LONGEST_LINE = 64 * 2**20


class ChildFailed(LllmsError):
    """A program that the bench needs did not start, or ended on its own."""


class Child:
    """A program that runs for the length of the `async with` block; its stderr explains its failures."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv

    async def __aenter__(self) -> Self:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __aexit__
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=self._said, limit=LONGEST_LINE, start_new_session=True,
        )
        try:
            await asyncio.wait_for(self.ready(), STARTS_WITHIN)
        except BaseException as error:
            await self._end()
            if isinstance(error, TimeoutError):
                raise self.failure(f"was not ready after {STARTS_WITHIN:.0f} s") from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def ready(self) -> None:
        """Return once the program is ready."""
        await self.line()

    async def line(self) -> str:
        """Return the next line that the program prints. Raises `ChildFailed` if it has ended."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        line = await self._process.stdout.readline()
        if not line:
            raise self.failure("ended")
        return line.decode()

    async def tell(self, line: str) -> None:
        """Write a line to the program."""
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def failure(self, what: str) -> ChildFailed:
        """Return an error for this program, with the last lines of its stderr."""
        self._said.seek(0)
        tail = self._said.read().decode(errors="replace").strip().splitlines()[-8:]
        return ChildFailed("\n  ".join([f"{shlex.join(self._argv)} {what}", *tail]))

    async def _end(self) -> None:
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), ENDS_WITHIN)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  # asyncio offers no other way
        self._said.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.killpg(self._process.pid, number)


class RawLoopProcess(Child):
    """The plain llama.cpp loop, in its own process."""

    def __init__(self, file: Path, sequences: int, context: int) -> None:
        super().__init__([sys.executable, "-m", "lllms_core.bench.raw_loop", str(file), str(sequences), str(context)])

    async def run(self, prompts: Sequence[str], max_tokens: int, threads: int, seconds: float) -> list[Timeline]:
        """Do the work with this many threads, for at most this many seconds."""
        await self.tell(json.dumps(
            {"prompts": prompts, "max_tokens": max_tokens, "threads": threads, "seconds": seconds},
        ))
        return [
            Timeline(one["start"], tuple((time, tokens) for time, tokens in one["arrivals"]), one["prompt_tokens"])
            for one in json.loads(await self.line())
        ]


class BusyNeighbour(Child):
    """A plain llama.cpp loop that generates all the time, with a thread for each core."""

    def __init__(self, file: Path, threads: int) -> None:
        super().__init__([sys.executable, "-m", "lllms_core.bench.raw_loop", str(file), "--busy", str(threads)])


class ServerProcess(Child):
    """A program that serves the OpenAI API; `base_url` ends in `/v1`."""

    name: str
    base_url: str
    model: str
    """The model to ask for."""


class OurServer(ServerProcess):
    """`lllms serve` with these models, `[sessions]` and `[server]`, on a free port."""

    def __init__(
        self, models: Mapping[str, Mapping[str, object]], sessions: Mapping[str, object] | None = None,
        name: str = "lllms", server: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "lllms.toml"
        tables = {"models": models, "sessions": sessions or {}, "server": server or {}}
        file.write_text("".join(f"{key} = {toml(table)}\n" for key, table in tables.items()))
        self.model = next(iter(models))
        flags = ["--config", str(file), "--host", "127.0.0.1", "--port", "0", "--log-level", "warning"]
        super().__init__([sys.executable, "-m", "lllms_core", "serve", *flags])

    async def ready(self) -> None:
        """Wait for the line with the address."""
        while True:
            words = (await self.line()).split()
            if words[:1] == ["listening"]:
                self.base_url = f"{words[-1].rstrip('/')}/v1"
                return

    async def _end(self) -> None:
        await super()._end()
        self._folder.cleanup()


class Peer(ServerProcess):
    """Another server: a command in which `{file}` and `{port}` stand for the model file and the port to listen on."""

    def __init__(self, command: str, file: Path, look_every: float = 0.2) -> None:
        """Prepare to start it; until it is ready, look every so many seconds whether it is."""
        self._look_every = look_every
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.name = command
        self.base_url = f"http://127.0.0.1:{port}/v1"
        super().__init__([word.format(file=file, port=port) for word in shlex.split(command)])

    async def ready(self) -> None:
        """Wait until it lists a model."""
        while True:
            try:
                self.model = await first_model(self.base_url)
            except ServerSilent:
                if self._process.returncode is not None:
                    raise self.failure("ended") from None
                await asyncio.sleep(self._look_every)
            else:
                return


def toml(value: object) -> str:
    """Write a value as TOML; a mapping becomes an inline table."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)
