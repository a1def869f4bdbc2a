"""A placement with two places on this machine: real child processes, connected by TCP on the loopback device."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePath
from socket import socket

from attrs import define, field, frozen

from lllms_core.engines import Engine, Progress, SerialModel
from lllms_core.placements import (
    Ending,
    FileKey,
    Launch,
    Launched,
    NoPlacementOptions,
    Place,
    PlaceEvents,
    PlaceLost,
    Placement,
    PlacementFailed,
)
from lllms_core.rendezvous import Rendezvous, command
from lllms_core.types import ModelSpec, Request

CONNECT_SECONDS = 60.0
NAMES = ("one", "two")


@frozen
class TwoPlacesOptions:
    """The options of `TwoPlaces`."""

    memory: int | None = None
    cores: int = 2


@define(eq=False)
class Child(Launched):
    """A process of a place."""

    pid: int
    sockets: Sequence[socket]
    process: asyncio.subprocess.Process
    lost: asyncio.Future[str] = field(factory=lambda: asyncio.get_running_loop().create_future())
    output: asyncio.Task[None] | None = None

    def kill(self) -> None:
        """Kill it, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def ended(self) -> Ending:
        """Return its exit status, or that its place is lost."""
        over = asyncio.ensure_future(self.process.wait())
        try:
            await asyncio.wait([over, self.lost], return_when=asyncio.FIRST_COMPLETED)
            if self.lost.done():
                return Ending(None, self.lost.result())
            if self.output is not None:
                await asyncio.wait([self.output], timeout=1)
            return Ending(over.result())
        finally:
            over.cancel()


class TwoPlaces(Placement):
    """Starts processes on this machine as if it were two others."""

    name = "two"
    Options = TwoPlacesOptions

    def __init__(self, names: Sequence[str] = NAMES) -> None:
        self.names = list(names)
        self.children: dict[str, list[Child]] = {name: [] for name in names}
        self.rendezvous = Rendezvous()
        self.events: PlaceEvents | None = None
        self.environment: dict[str, str] = {}
        """More variables of the processes."""
        self.files: dict[tuple[str, FileKey], Path] = {}
        self.sought: list[tuple[str, FileKey]] = []
        self.fetched: list[tuple[str, str]] = []
        self.halfway: asyncio.Event | None = None
        """If given, a fetch waits for it after half of the bytes."""
        self.faults: dict[str, Exception] = {}
        """By place: what the next fetch raises."""
        self.disks: dict[str, int] = {}
        self.options = TwoPlacesOptions()

    def place(self, name: str) -> Place:
        """Describe a place."""
        options = self.options
        return Place(name, f"place {name}", options.cores, options.memory, disk=self.disks.get(name))

    async def open(self, options: object, events: PlaceEvents) -> None:
        """Tell of both places."""
        assert isinstance(options, TwoPlacesOptions | NoPlacementOptions)
        self.options = options if isinstance(options, TwoPlacesOptions) else self.options
        self.events = events
        await self.rendezvous.open("127.0.0.1")
        for name in self.names:
            events.there(self.place(name))

    async def launch(self, place: str, launch: Launch) -> Child:
        """Start a process, and wait for its connections."""
        if place not in self.names:
            raise PlaceLost(f"there is no place {place} any more")
        expected = self.rendezvous.expect(launch.sockets)
        variables: Mapping[str, str] = {
            **launch.environment, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LLLMS_TEST_PLACE": place,
            **expected.environment, **self.environment,
        }
        process = await asyncio.create_subprocess_exec(
            *command(launch.label, launch.sockets), env=variables, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )
        output = asyncio.create_task(self._relay(process, launch.output))
        arrived = asyncio.ensure_future(expected.arrived(CONNECT_SECONDS))
        over = asyncio.ensure_future(process.wait())
        await asyncio.wait([arrived, over], return_when=asyncio.FIRST_COMPLETED)
        if not arrived.done():
            arrived.cancel()
            raise PlacementFailed(f"the worker ended with status {over.result()} before it connected")
        over.cancel()
        try:
            arrival = arrived.result()
        except PlacementFailed:
            with suppress(ProcessLookupError):  # it has seen that it is not wanted
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        child = Child(arrival.pid, arrival.sockets, process, output=output)
        self.children[place].append(child)
        return child

    async def find(self, place: str, file: FileKey) -> PurePath | None:
        """Return the path of a file that was fetched to the place."""
        self.sought.append((place, file))
        return self.files.get((place, file))

    async def fetch(self, place: str, source: str, file: FileKey, progress: Callable[[float], None]) -> PurePath:
        """Let a place have a file that is on this machine."""
        self.fetched.append((place, source))
        if self.halfway is not None:
            progress(0.5)
            await self.halfway.wait()
        if place in self.faults:
            raise self.faults.pop(place)
        progress(1.0)
        self.files[place, file] = Path(source)
        return self.files[place, file]

    async def close(self) -> None:
        """End what is left."""
        for child in [child for children in self.children.values() for child in children]:
            child.kill()
            await child.process.wait()
            if child.output is not None:
                await child.output
        await self.rendezvous.close()

    def lose(self, name: str, reason: str = "its link is cut", *, told: bool = True) -> None:
        """Let a place and its processes be gone; if it is not `told`, only their connections say so."""
        self.names.remove(name)
        for child in self.children[name]:
            child.lost.set_result(reason)
            child.kill()
        if told:
            assert self.events is not None
            self.events.gone(name, reason)

    async def _relay(self, process: asyncio.subprocess.Process, output: Callable[[bytes], object]) -> None:
        assert process.stderr is not None
        while data := await process.stderr.read(1 << 16):
            output(data)


class Places:
    """Remembers which places are there."""

    def __init__(self) -> None:
        self.known: dict[str, Place] = {}

    def there(self, place: Place) -> None:
        """Note a place."""
        self.known[place.id] = place

    def gone(self, place: str, reason: str) -> None:
        """Forget a place."""
        assert reason
        del self.known[place]


@asynccontextmanager
async def two_places() -> AsyncIterator[TwoPlaces]:
    """Open the placement, and close it."""
    placement = TwoPlaces()
    await placement.open(TwoPlacesOptions(), Places())
    try:
        yield placement
    finally:
        await placement.close()


class PlaceModel(SerialModel):
    """Answers "where" with its place, "wait FILE" with that once the file is there, and "count" endlessly."""

    context_length = 1000
    slots = 4
    files = ""

    def details(self) -> Mapping[str, str]:
        """Tell the files."""
        return {"files": self.files}

    def complete(self, prompt: str, request: Request) -> Iterator[str]:
        """Answer."""
        word, _, rest = prompt.partition(" ")
        while word == "wait" and not Path(rest).exists():
            self.interrupt.wait(0.01)
        yield os.environ.get("LLLMS_TEST_PLACE", "here")
        while word == "count":
            yield " more"
            self.interrupt.wait(0.01)


class PlaceEngine(Engine):
    """Loads `PlaceModel`."""

    name = "placed"
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> PlaceModel:
        """Load it at once."""
        if spec.file is not None:
            logging.getLogger("lllms.placed").warning("loaded from %s", spec.file)
        return PlaceModel()


@frozen
class Adapter:
    """A file in a list of options."""

    path: Path
    scale: float = 1.0


@frozen
class FileOptions:
    """Options with files at any depth."""

    adapters: tuple[Adapter, ...] = ()
    template: str | Path = "none"
    more: dict[str, Path] = field(factory=dict)


class FileEngine(PlaceEngine):
    """Tells the files that it was asked to load."""

    name = "filed"
    Options = FileOptions

    def load(self, spec: ModelSpec, progress: Progress) -> PlaceModel:
        """Load a model that answers with its place."""
        model, options = super().load(spec, progress), spec.options
        assert isinstance(options, FileOptions)
        paths = [spec.file, *(one.path for one in options.adapters), options.template, *options.more.values()]
        model.files = " ".join(map(str, paths))
        return model
