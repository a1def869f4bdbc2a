"""Watches memory: what workers take, what sessions and other programs take, and what can be learnt from it."""

import asyncio
import logging
from time import monotonic

from lllms_core.machine import private_memory
from lllms_core.pool.devices import DeviceWatch
from lllms_core.pool.instance import Instance
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.learnt import Learnt, LearntStore, key_of
from lllms_core.pool.needs import memory_available
from lllms_core.pool.state import InstanceEntry, Surroundings
from lllms_core.values.sizes import human_size

LOG = logging.getLogger("lllms.pool")

MEASURE_SECONDS = 10.0
"""Interval at which all workers are measured while any is loaded."""
LEAST_SECONDS = 0.1
"""A worker whose requests end in quick succession is measured no more often than this."""
LOOK_SECONDS = 0.25
"""How long the machine's free memory is assumed to stay as it is, unless a worker ends: a look takes up to 1 ms."""
SAVE_SECONDS = 30.0
"""What was learnt is saved no more often than this."""


class MemoryWatch:
    """Measures and learns. Use it from one event loop.

    Only private memory of processes is measured: of an instance in a thread nothing is known, nor of a GPU's memory.
    `measure` is the one place where a figure enters; all others only compare it.
    """

    def __init__(
        self, store: LearntStore | None = None, keeper: SessionKeeper | None = None,
        devices: DeviceWatch | None = None,
    ) -> None:
        self.store = store or LearntStore()
        self.devices = devices or DeviceWatch()
        self._keeper = keeper
        self._looked: tuple[float, int | None] | None = None
        self._measured: dict[str, float] = {}
        """By instance: when it was last measured."""
        self._reported: set[str] = set()
        self._making_room = False
        """Whether sessions are being given up for an instance."""
        self._saving: asyncio.Task[None] | None = None
        self._shrinking: set[asyncio.Task[bool]] = set()

    # -- what else takes memory ---------------------------------------------------------------------------------------

    def look(self) -> Surroundings:
        """Return what sessions take, and what the machine can give."""
        now = monotonic()
        if self._looked is None or self._looked[0] + LOOK_SECONDS < now:
            self._looked = now, memory_available()
        self.devices.renew()
        return Surroundings(0 if self._keeper is None else self._keeper.held, self._looked[1], self.devices.rooms)

    async def shrink_sessions(self, size: int) -> bool:
        """Give up this many bytes of sessions, which no others replace; return whether that was possible."""
        if self._keeper is None:
            return False
        self._keeper.room = max(0, self._keeper.held - size)
        self._making_room = True
        try:
            return await self._keeper.shrink(size)
        finally:
            self._making_room = False
            self._looked = None

    def leave(self, room: int | None) -> None:
        """Leave this many bytes of memory to sessions; None: no limit."""
        keeper = self._keeper
        if keeper is None or keeper.room == room:
            return
        if self._making_room and keeper.room is not None and (room is None or room > keeper.room):
            return  # what is being given up is not theirs again
        keeper.room = room
        if room is not None and (excess := keeper.held - room) > 0:
            task = asyncio.get_running_loop().create_task(keeper.shrink(excess))
            self._shrinking.add(task)
            task.add_done_callback(self._shrinking.discard)

    # -- what workers take --------------------------------------------------------------------------------------------

    def measure(self, instance: Instance) -> int | None:
        """Return the private bytes of an instance's worker; None if unknown, or if it was measured just now."""
        now = monotonic()
        if instance.pid is None or now < self._measured.get(instance.id, -LEAST_SECONDS) + LEAST_SECONDS:
            return None
        self._measured[instance.id] = now
        return private_memory(instance.pid)

    def learn(
        self, engine: str, instance: Instance, told: int, private: int, load_seconds: float | None = None,
    ) -> Learnt:
        """Remember what an instance took that was `told` to need that much; return what is known of its like now."""
        key = key_of(engine, instance.footprint.fingerprint or instance.model, told)
        known = self.store.learn(key, private, load_seconds)
        if self.store.changed:
            self._save(SAVE_SECONDS)
        return known

    def report_growth(self, entry: InstanceEntry) -> None:
        """Log once that an instance takes a fifth more than it was told to need."""
        if entry.grown and entry.id not in self._reported:
            self._reported.add(entry.id)
            counts = "it counts for that" if entry.need != entry.told else f"raise models.{entry.model}.memory"
            LOG.warning(
                "%s takes %s of memory of its own, and was told to need %s; %s",
                entry.id, human_size(entry.measured or 0), human_size(entry.told.private), counts,
            )

    def known(self, engine: str, model: str, fingerprint: str, told: int) -> Learnt:
        """Return what is known of the instances of a model that were told to need that much."""
        return self.store.get(key_of(engine, fingerprint or model, told))

    def forget(self, instance: Instance) -> None:
        """An instance is gone, and its memory is free."""
        self._looked = None
        self._measured.pop(instance.id, None)
        self._reported.discard(instance.id)

    # -- saving -------------------------------------------------------------------------------------------------------

    def save_now(self) -> None:
        """Save at once: memory is short, and this server may be the next to die."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        self._save(0.0)

    async def close(self) -> None:
        """Save what was learnt."""
        if self._saving is not None:
            self._saving.cancel()
        if self.store.changed:
            await asyncio.to_thread(self.store.write)

    def _save(self, seconds: float) -> None:
        async def save() -> None:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.store.write)
            self._saving = None

        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(save())
