"""How much memory of each GPU there is for instances: a limit, and what other programs leave of it."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from time import monotonic

from attrs import evolve

from lllms_core.config import ServerConfig
from lllms_core.engines import Engine
from lllms_core.pool.budget import DeviceRoom
from lllms_core.tracebacks import kind
from lllms_core.types import Device

LOG = logging.getLogger("lllms.pool")

RESERVE = 10
"""A fraction of a GPU's memory: one part in this many is left to other programs, and to what estimates do not know
(drivers take some for each process), but at least `LEAST_RESERVE`."""
LEAST_RESERVE = 2**29
MARGIN = 4
"""A fraction of the reserve: one part in this many must stay free at the moment of a load."""
LOOK_SECONDS = 10.0
"""How long other programs are assumed to hold what they held: a look takes up to a second of another process."""


def device_rooms(server: ServerConfig, engines: Iterable[Engine]) -> dict[str, DeviceRoom]:
    """Return the memory of the GPUs of these engines, if no program held any; takes a second if there are any."""
    return {
        one.name: evolve(_room(one, server.gpu_memory_limit, 0), usable=None) for one in find_devices(engines)
    }


def rooms_of(devices: Iterable[Device], limit: int | None) -> dict[str, DeviceRoom]:
    """Return the memory of some GPUs, of which instances hold nothing yet; `limit` is `server.gpu_memory_limit`."""
    return {one.name: _room(one, limit, 0) for one in devices}


def limits_of(rooms: Mapping[str, DeviceRoom]) -> dict[str, int]:
    """Return what instances may take of the memory of each GPU."""
    return {name: one.limit for name, one in rooms.items()}


def free_of(rooms: Mapping[str, DeviceRoom]) -> dict[str, int]:
    """Return what instances may take of the memory of each GPU at this moment, which other programs may hold, too."""
    return {name: one.limit if one.usable is None else min(one.limit, one.usable) for name, one in rooms.items()}


def find_devices(engines: Iterable[Engine]) -> list[Device]:
    """Return the GPUs of these engines, each once; those of an engine that fails are unknown."""
    found: dict[str, Device] = {}
    for engine in {engine.name: engine for engine in engines}.values():
        try:
            found.update((one.name, one) for one in engine.devices())
        except Exception as error:  # noqa: BLE001  # of a plugin; its models do without the limit
            told = "the GPUs of the engine %s cannot be told: %s; their memory has no limit"
            LOG.warning(told, engine.name, kind(error))
    return list(found.values())


class DeviceWatch:
    """Knows the GPUs of some engines. Without any, it does nothing after the first look."""

    def __init__(self, engines: Callable[[], Iterable[Engine]] = tuple, limit: int | None = None) -> None:
        self.rooms: Mapping[str, DeviceRoom] = {}
        self.held: Callable[[], Mapping[str, int] | None] = dict
        """Tells what our own instances hold on each GPU; None while that changes."""
        self._engines = engines
        self._limit = limit
        self._asked: set[str] = set()
        """The names of the engines that were asked."""
        self._looked = monotonic()
        self._lock = Lock()
        self._looking: asyncio.Future[None] | None = None

    def reconfigure(self, limit: int | None) -> None:
        """Take another `server.gpu_memory_limit`."""
        with self._lock:
            self._limit = limit
            self.rooms = {name: evolve(one, limit=_limit(one.total, limit)) for name, one in self.rooms.items()}

    def find(self) -> Mapping[str, int]:
        """Return the limit of each GPU; asks engines that are new. Blocking; in any thread."""
        with self._lock:
            new = [engine for engine in self._engines() if engine.name not in self._asked]
            if new:
                self._asked.update(engine.name for engine in new)
                # Models whose engine has not been asked have no instances yet.
                self._take(find_devices(new), {}, self.rooms)
            return limits_of(self.rooms)

    def renew(self) -> None:
        """Look again for what other programs hold, in a thread, if the last look is old; call it from the event loop.

        While instances come and go nobody knows who holds what, so it waits for them.
        """
        if not self.rooms or self._looking is not None or monotonic() < self._looked + LOOK_SECONDS:
            return
        held = self.held()
        if held is None:
            return
        self._looking = asyncio.get_running_loop().run_in_executor(None, self._look, held)
        self._looking.add_done_callback(self._seen)

    def _look(self, held: Mapping[str, int]) -> None:
        found = find_devices(self._engines())
        if held == self.held():  # else instances have come or gone meanwhile
            with self._lock:
                self._take(found, held, self.rooms)

    def _seen(self, look: asyncio.Future[None]) -> None:
        self._looking = None
        if not look.cancelled() and (error := look.exception()) is not None:
            LOG.warning("the memory of GPUs could not be looked at: %s", kind(error))

    def _take(self, devices: Sequence[Device], held: Mapping[str, int], known: Mapping[str, DeviceRoom]) -> None:
        seen = {one.name: _room(one, self._limit, held.get(one.name, 0)) for one in devices}
        self.rooms = {**known, **seen}
        self._looked = monotonic()


def _room(device: Device, limit: int | None, held: int) -> DeviceRoom:
    others = max(0, device.total - device.free - held)
    usable = max(0, device.total - others - _reserve(device.total) // MARGIN)
    return DeviceRoom(device.total, _limit(device.total, limit), usable)


def _reserve(total: int) -> int:
    return min(max(total // RESERVE, LEAST_RESERVE), total // 2)


def _limit(total: int, limit: int | None) -> int:
    return total - _reserve(total) if limit is None else min(limit, total)
