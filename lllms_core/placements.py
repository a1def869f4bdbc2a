"""The contract for placements: where the instances of models run. Without one that is this machine.

A placement knows places: machines that instances can run on. It starts processes there whose standard input and output
are a socket, and finds or fetches model files there. Framing, messages and sessions are the core's: a placement carries
bytes. Both ends execute what the other sends, so all places of a placement are one trust domain, and the sockets belong
into a private network.

Files: the server has each model's files itself, because it reads their headers. Before a model is first loaded at a
place, each of its files is looked for there (`find`): the weights in all their parts, and what its options name, such
as adapters and draft models. Weights that are missing are fetched from the model's source (`fetch`). Other files have
no source: they must be there, on a shared disk or as a copy. A file whose hash the server's store has recorded is
identified by that, wherever it is; any other only by its path and its size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from socket import socket
from typing import ClassVar, Protocol

from attrs import field, frozen

from lllms_core.errors import PlaceFull, PlaceLost, PlacementFailed
from lllms_core.types import Device

__all__ = [
    "LOCAL", "Ending", "FileKey", "Launch", "Launched", "NoPlacementOptions", "Place", "PlaceEvents", "PlaceFull",
    "PlaceLost", "Placement", "PlacementFailed",
]

LOCAL = "local"
"""The id of the place that is this machine."""


@frozen
class Place:
    """A machine that instances can run on, and what these may take of it together."""

    id: str
    """Names the place for as long as it is there; never that of another."""
    name: str
    """For people."""
    cores: int = 1
    memory: int | None = None
    """Bytes for all its instances; None: no limit."""
    devices: tuple[Device, ...] = ()
    """Its GPUs."""
    versions: Mapping[str, str] = field(factory=dict)
    """What a worker imports there (`lllms_core.rendezvous.versions`). Empty: compared at each launch only."""
    disk: int | None = None
    """The free bytes of its disk where `fetch` writes, when this was told; None: unknown. Nothing is fetched to a place
    with less than a file needs; tell the place again when it has changed by much."""


@frozen
class Launch:
    """A process to start."""

    label: str
    """For lists of processes."""
    environment: Mapping[str, str] = field(factory=dict)
    """Variables of its engine; those that its place has go before these."""
    sockets: int = 1
    """1: the wire; 2: also a channel for large messages, which must not delay the others."""
    output: Callable[[bytes], object] = field(default=len, eq=False)
    """Takes what it writes to standard error, in the event loop: its log comes home."""


@frozen
class Ending:
    """How a process ended."""

    status: int | None
    """Its exit status, negative for a signal; None: nobody knows."""
    lost: str = ""
    """Why nobody knows, if its place, or the way there, was lost with it; "" if not."""


@frozen
class FileKey:
    """A model file, wherever it is."""

    path: PurePath
    """Where the server has it: on a shared disk that is its path at a place, too."""
    size: int
    sha256: str = ""
    """In hexadecimal, as recorded by the server's store; "" if unknown."""


class PlaceEvents(Protocol):
    """Callbacks by which a placement tells of its places, in the event loop."""

    def there(self, place: Place) -> None:
        """There is another place, or its facts have changed."""

    def gone(self, place: str, reason: str) -> None:
        """A place is gone, with all its processes."""


class Launched(ABC):
    """A process at a place."""

    pid: int
    """Its id there."""
    sockets: Sequence[socket]
    """Connected to it, as many as were asked for; who launched it closes them."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, with what it has started; nothing happens if it has ended."""

    @abstractmethod
    async def ended(self) -> Ending:
        """Return how it ended, once it has, or once its place is known to be lost."""


@frozen
class NoPlacementOptions:
    """The options of a placement that has none."""


class Placement(ABC):
    """Where instances run. Its methods are called in one event loop, and return soon or await."""

    name: ClassVar[str]
    """As in `[placement] kind`."""
    Options: ClassVar[type] = NoPlacementOptions
    """An attrs class: the other keys of `[placement]`."""

    @abstractmethod
    async def open(self, options: object, events: PlaceEvents) -> None:
        """Begin to tell of places; those that are there now are told before this returns. Raises `PlacementFailed`."""

    @abstractmethod
    async def launch(self, place: str, launch: Launch) -> Launched:
        """Start a worker's process. Raises `PlacementFailed`, or `PlaceLost`; if it is cancelled, nothing is left."""

    @abstractmethod
    async def find(self, place: str, file: FileKey) -> PurePath | None:
        """Return the path of a model file at a place, if it is there; None if not, or if it is another file.

        With a hash, a file of that hash counts, wherever it is and whatever its name. Without one only a file at the
        same path and of the same size does. Takes no longer than to look: nothing is hashed that was hashed before.
        Raises `PlacementFailed` if it cannot look.
        """

    @abstractmethod
    async def fetch(
        self, place: str, source: str, file: FileKey, progress: Callable[[float], None],
    ) -> PurePath:
        """Fetch a model's weights from their source to a place, in all their parts; return the path of `file` there.

        `source` is in the form that the server's store knows (`Downloader.canonical`), and `file` the one to load, the
        first of the parts, which lie side by side under the names that the source gives them. `progress`, called in the
        event loop, takes the share of all parts that has arrived, 0 to 1. A source is fetched to a place once at a
        time. If the caller is cancelled the fetch ends; the next one may use the bytes it got. Raises `PlaceFull` if
        the disk there has no room, and `PlacementFailed` with the cause for any other failure.
        """

    @abstractmethod
    async def close(self) -> None:
        """End all processes, and tell of places no more."""
