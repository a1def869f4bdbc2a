"""The places of a placement: which are there, where they have model files, and workers that are started at them."""

import logging
import time
from collections.abc import Callable, Mapping

from attrs import define, field

from lllms_core.errors import PlaceLost
from lllms_core.placements import Place, Placement
from lllms_core.pool.attendance import Attendance
from lllms_core.pool.budget import DeviceRoom
from lllms_core.pool.devices import rooms_of
from lllms_core.pool.fetches import Fetches
from lllms_core.pool.load_files import LoadFiles, PlacedFiles
from lllms_core.rendezvous import different, versions
from lllms_core.types import ModelSpec
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.socket_worker import SocketWorker
from lllms_core.worker.wire import Load

LOG = logging.getLogger("lllms.pool")


def _ignore(*_: object) -> None:
    """Nobody wants to know."""


@define(eq=False)
class FarPlaces:
    """The places that a placement tells of, as far as workers of this server can run there."""

    placement: Placement
    options: object
    """The placement's own."""
    gpu_memory: int | None = None
    """`server.gpu_memory_limit`, on each GPU of each place."""
    arrived: Callable[[Place, Mapping[str, DeviceRoom]], None] = _ignore
    """Called when a place is there."""
    departed: Callable[[str, str], None] = _ignore
    """Called with the reason when a place is gone."""
    known: dict[str, Place] = field(factory=dict)
    attendance: Attendance = field(factory=Attendance)
    fetches: Fetches = field(init=False)
    _placed: dict[tuple[str, str], PlacedFiles] = field(factory=dict, init=False)
    """By place and model."""

    def __attrs_post_init__(self) -> None:
        self.fetches = Fetches(self.placement)

    async def open(self) -> None:
        """Learn of the places that are there. Raises `PlacementFailed`."""
        await self.placement.open(self.options, self)

    async def close(self) -> None:
        """End what runs at the places."""
        await self.placement.close()

    def there(self, place: Place) -> None:
        """Use a place, unless a worker there would not understand this server."""
        if place.versions and (told := different(place.versions, versions())):
            reason = f"the versions must be equal, but {told}; install the same ones"
            LOG.warning("%s is not used: %s", place.name, reason)
            if place.id in self.known:  # it was installed anew
                self.gone(place.id, reason)
            self.attendance.refused(place, reason, time.monotonic())
            return
        if place.id not in self.known:
            LOG.info("%s is there", place.name)
        self.attendance.there(place, time.monotonic())
        self.known[place.id] = place
        self.arrived(place, rooms_of(place.devices, self.gpu_memory))

    def gone(self, place: str, reason: str) -> None:
        """Use a place no more."""
        if (known := self.known.pop(place, None)) is not None:
            LOG.error("%s is lost: %s", known.name, reason)
            self.attendance.lost(known, reason, time.monotonic())
            for key in [key for key in self._placed if key[0] == place]:
                del self._placed[key]
            self.departed(place, f"{known.name} was lost: {reason}")
        else:
            self.attendance.left(place)

    # -- files --------------------------------------------------------------------------------------------------------

    async def prepare(self, model: str, place: str, files: LoadFiles, begun: Callable[[], object]) -> None:
        """Find the files of a model at a place, or fetch them there; `begun` is called before a fetch.

        Raises `PlacementFailed`, or `DownloadCancelled`.
        """
        self._placed[place, model] = await self.fetches.get(self._known(place), files, begun)

    def moved(self, spec: ModelSpec, place: str, files: LoadFiles) -> ModelSpec | None:
        """Return the spec of a load with the paths that its files have at a place; None if these were not prepared."""
        if not files.all:
            return spec
        placed = self._placed.get((place, spec.name))
        return placed.moved(spec) if placed is not None and placed.files == files else None

    def forget(self, model: str) -> None:
        """Forget where the files of a model are."""
        for key in [key for key in self._placed if key[1] == model]:
            del self._placed[key]

    # -- workers ------------------------------------------------------------------------------------------------------

    async def start(self, load: Load, place: str, events: WorkerEvents) -> Worker:
        """Start a worker at a place, with a spec that was `moved` there. Raises `ModelLoadFailed`."""
        return await SocketWorker.start(load, events, self.placement, self._known(place))

    def _known(self, place: str) -> Place:
        if (known := self.known.get(place)) is None:
            raise PlaceLost("its place was lost before it began")
        return known
