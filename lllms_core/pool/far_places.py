"""The places of a placement: which are there, and workers that are started at them."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import define, evolve, field

from lllms_core.errors import PlaceLost, PlacementFailed
from lllms_core.placements import FileKey, Place, Placement
from lllms_core.pool.attendance import Attendance
from lllms_core.pool.budget import DeviceRoom
from lllms_core.pool.devices import rooms_of
from lllms_core.pool.models import PoolModel
from lllms_core.rendezvous import different, versions
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
            self.departed(place, f"{known.name} was lost: {reason}")
        else:
            self.attendance.left(place)

    async def start(self, load: Load, model: PoolModel, place: str, events: WorkerEvents) -> Worker:
        """Start a worker at a place, once the model's file is there. Raises `ModelLoadFailed`."""
        if (known := self.known.get(place)) is None:
            raise PlaceLost("its place was lost before it began")
        if load.spec.file is not None:
            file = await self._file(load.spec.file, model, known)
            load = evolve(load, spec=evolve(load.spec, file=file))
        return await SocketWorker.start(load, events, self.placement, known)

    async def _file(self, file: Path, model: PoolModel, place: Place) -> Path:
        """Return the path of a model's file at a place."""
        key = FileKey(file, await asyncio.to_thread(lambda: file.stat().st_size), model.sha256)
        found = await self.placement.find(place.id, key)
        if found is None and not model.source:
            raise PlacementFailed(
                f"{place.name} has no file {file}; share its folder, or name a source from which that can fetch it"
                " (url or hf in the configuration)",
            )
        if found is None:
            found = await self.placement.fetch(place.id, model.source, key, lambda _: None)
        return Path(found)
