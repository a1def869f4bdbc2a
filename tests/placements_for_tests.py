"""A placement with two places on this machine: real child processes, connected by TCP on the loopback device."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePath
from socket import socket

from attrs import define, field, frozen

from lllms_core import Host, hookimpl, parse_config
from lllms_core.engines import Engine, Progress, SerialModel
from lllms_core.errors import ModelLoadFailed
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
from lllms_core.plugins import Plugins
from lllms_core.rendezvous import Arrival, Rendezvous, command
from lllms_core.types import Memory, ModelSpec, Request

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
        self.loop: asyncio.AbstractEventLoop | None = None
        """In which it was opened."""
        self.environment: dict[str, str] = {}
        """More variables of the processes."""
        self.shared = False
        """Whether both places have the files of this machine, under the same paths."""
        self.files: dict[tuple[str, FileKey], Path] = {}
        self.sought: list[tuple[str, FileKey]] = []
        self.fetched: list[tuple[str, str]] = []
        self.halfway: asyncio.Event | None = None
        """If given, a fetch waits for it after half of the bytes."""
        self.faults: dict[str, Exception] = {}
        """By place: what the next fetch raises."""
        self.disks: dict[str, int] = {}
        self.facts: dict[str, Place] = {}
        """By name: the description of a place that is like no other."""
        self.options = TwoPlacesOptions()
        self.refusal: Exception | None = None
        """Why it cannot be opened."""
        self.silent = False
        """Whether it takes for ever to open."""
        self.closed = False
        self.started: list[asyncio.subprocess.Process] = []
        """All processes."""

    def place(self, name: str) -> Place:
        """Describe a place."""
        options = self.options
        if name in self.facts:
            return self.facts[name]
        return Place(name, f"place {name}", options.cores, options.memory, disk=self.disks.get(name))

    async def open(self, options: object, events: PlaceEvents) -> None:
        """Tell of both places."""
        assert isinstance(options, TwoPlacesOptions | NoPlacementOptions)
        self.options = options if isinstance(options, TwoPlacesOptions) else self.options
        self.events, self.loop = events, asyncio.get_running_loop()
        await self.rendezvous.open("127.0.0.1")
        if self.refusal is not None:
            raise self.refusal
        if self.silent:
            await asyncio.Event().wait()
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
        self.started.append(process)
        output = asyncio.create_task(self._relay(process, launch.output))
        arrived = asyncio.ensure_future(expected.arrived(CONNECT_SECONDS))
        over = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait([arrived, over], return_when=asyncio.FIRST_COMPLETED)
            arrival = _arrival(arrived, over)
        except BaseException:  # a cancelled launch leaves nothing behind, either
            arrived.cancel()
            with suppress(ProcessLookupError):  # it has seen that it is not wanted
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        finally:
            over.cancel()
        child = Child(arrival.pid, arrival.sockets, process, output=output)
        self.children[place].append(child)
        return child

    async def find(self, place: str, file: FileKey) -> PurePath | None:
        """Return the path of a file that was fetched to the place, or that both share."""
        self.sought.append((place, file))
        return file.path if self.shared else self.files.get((place, file))

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
        self.closed = True
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
            if not child.lost.done():
                child.lost.set_result(reason)
            child.kill()
        if told:
            assert self.events is not None
            self.events.gone(name, reason)

    async def _relay(self, process: asyncio.subprocess.Process, output: Callable[[bytes], object]) -> None:
        assert process.stderr is not None
        while data := await process.stderr.read(1 << 16):
            output(data)


def _arrival(arrived: asyncio.Future[Arrival], over: asyncio.Future[int]) -> Arrival:
    if not arrived.done():
        raise PlacementFailed(f"the worker ended with status {over.result()} before it connected")
    return arrived.result()


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


class SizedEngine(PlaceEngine):
    """Needs 80 MB of memory, or a quarter of it and 50 MB of a GPU where there is one."""

    name = "sized"

    def estimate(self, spec: ModelSpec) -> Memory:
        """Tell that of the machine that the spec is for."""
        if spec.devices:
            return Memory(
                overhead=20 * 10**6, offloaded=True, device=50 * 10**6, devices={spec.devices[0].name: 50 * 10**6},
            )
        return Memory(overhead=80 * 10**6)


class BrokenEngine(PlaceEngine):
    """Cannot load anything."""

    name = "broken"

    def load(self, spec: ModelSpec, progress: Progress) -> PlaceModel:
        """Refuse."""
        raise ModelLoadFailed("its library is missing")


class HangingEngine(PlaceEngine):
    """Its libraries take for ever to be imported."""

    name = "hanging"

    def warm(self) -> None:
        """Wait."""
        threading.Event().wait()


class TwoPlugin:
    """A plugin with the placement and its engines."""

    def __init__(self) -> None:
        self.placement = TwoPlaces()

    @hookimpl
    def lllms_placements(self) -> list[TwoPlaces]:
        """Offer the placement."""
        return [self.placement]

    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        """Offer the engines."""
        return [PlaceEngine(), BrokenEngine(), HangingEngine(), FileEngine()]


def configured(
    plugin: TwoPlugin, placement: Mapping[str, object], models: Mapping[str, object] | None = None,
) -> Host:
    """Return a host with a table `[placement]`, and a model `a`, or others."""
    tables = {"a": {"engine": "placed", "memory": "100MB"}} if models is None else models
    config = parse_config({
        "server": {"port": 0, "shutdown_timeout": 0}, "placement": placement, "models": tables,
    })
    return Host(config, Plugins.discover(extra={"two": plugin}, environ={"LLLMS_PLUGINS": ""}))


def host_at_places(
    plugin: TwoPlugin, *, kind: str = "two", memory: int = 10**9, cores: int = 2, broken: bool = False,
) -> Host:
    """Return a host whose models run at two places, or all on this machine if `kind` is `local`."""
    options = {} if kind == "local" else {"options": {"memory": memory, "cores": cores}}
    models = {"broken": {"engine": "broken", "memory": "100MB"}} if broken else None
    return configured(plugin, {"kind": kind, **options}, models)
