"""How much memory there is for instances and sessions, and how much an instance needs, by its engine's estimate."""

import logging
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from attrs import evolve, frozen

from lllms_core.config import ServerConfig, SessionsConfig
from lllms_core.gguf import reading_once
from lllms_core.machine import free_memory, usable_memory
from lllms_core.pool.budget import Need
from lllms_core.pool.models import PoolModel
from lllms_core.pool.session_rules import SessionLimits
from lllms_core.pool.state import MemoryLimit
from lllms_core.tracebacks import kind
from lllms_core.types import Memory, ModelSpec

LOG = logging.getLogger("lllms.pool")

NO_DEVICES: Mapping[str, int] = MappingProxyType({})

WORKER = 34 * 2**20
"""Bytes of a worker process beside its model and its engine's libraries, of which `Memory.overhead` tells."""
SPARE = 50 * 2**20
"""Bytes of a spare worker with llama.cpp's libraries, pages of which it shares with no other process."""
SERVER = 50 * 2**20
"""Bytes of the server's own process, without sessions."""
RESERVE = 10
"""A fraction of the memory: one part in this many is left to other programs, but at least `LEAST_RESERVE`."""
LEAST_RESERVE = 2**30
SPARES = 16
"""A fraction of the limit: spare workers take at most one part in this many."""
ALONE, AMONG_OTHERS = 2, 4
"""Fractions of what the weights of a model leave of the memory for instances: automatic sizes take one part in this
many if it is the only configured model, or one of several."""
STEPS = 7
"""The sizes to try after that, at most: each has half the memory of the one before, and the last the least."""
SESSIONS, WAITING = 4, 16
"""Fractions of the limit: sessions in memory take at most one part in the first many, and as much as the models leave;
those that wait for the store, in the server and in each worker, one part in the second many."""
MARGIN = 4
"""A fraction of the reserve: one part in this many must stay free at the moment of a load. The programs for which the
reserve is left are counted by then."""


def need_of(
    model: PoolModel, spec: ModelSpec, room: int | None = None, *, alone: bool = False,
    devices: Mapping[str, int] = NO_DEVICES, free: Mapping[str, int] | None = None, memory: int | None = None,
) -> Need:
    """Return what an instance takes; may read the file's header, from any thread.

    `room` are the bytes for all instances together, of which automatic sizes take a share, a larger one if the model is
    `alone`; None: as the engine sees fit. `devices` are the bytes for them on each GPU, and `free` is what other
    programs leave of these. With `memory` it is an instance whose automatic sizes are chosen for this much. Where
    nothing is known it is only what a worker takes: whatever is wrong, the load will tell.
    """
    worker = WORKER if model.isolation == "process" else 0
    given = None if model.memory is None else max(0, model.memory - worker)
    if model.memory is not None and not devices:
        return Need(model.memory, memory=given)
    sizes = Sizes(model, spec, worker, devices, free or devices or None)
    try:
        if model.memory is not None:
            return evolve(sizes.need(given), private=model.memory, shared=0, file=None)
        if memory is not None:
            return sizes.need(memory)
        with reading_once():
            return sizes.need() if room is None else sizes.automatic(room, ALONE if alone else AMONG_OTHERS)
    except Exception as error:  # noqa: BLE001  # of a plugin; a load reports its faults
        LOG.warning("the memory of %s cannot be estimated: %s", spec.name, kind(error))
        return Need(worker if model.memory is None else model.memory, memory=given)


def planned(
    model: PoolModel, spec: ModelSpec, limit: MemoryLimit | None, *, alone: bool,
    devices: Mapping[str, int] = NO_DEVICES, free: Mapping[str, int] | None = None,
) -> ModelSpec:
    """Return the spec with the memory that an instance gets for its automatic sizes, if there is room for it."""
    if limit is None:
        return spec
    need = need_of(model, spec, limit.instances, alone=alone, devices=devices, free=free)
    return evolve(spec, memory=need.memory, device_memory=need.device_memory)


@frozen
class Sizes:
    """The needs of one model, by how much memory it may take."""

    model: PoolModel
    spec: ModelSpec
    worker: int
    devices: Mapping[str, int] = NO_DEVICES
    """Bytes for all instances, by GPU."""
    free: Mapping[str, int] | None = None
    """What other programs leave of these; None: unknown."""

    def need(self, given: int | None = None) -> Need:
        """Return the need of an instance that may take this much."""
        return self._of(self.model.engine.estimate(self._spec(given)), given)

    def automatic(self, room: int, share: int) -> Need:
        """Return the need of an instance that takes one part in `share` of the room beside its weights."""
        smallest = self.model.engine.estimate(self._spec(0))
        if smallest.offloaded and not self.devices:
            return self.need()  # how much memory the GPUs have is not known
        least = self._of(smallest, 0)
        if not self._fits(least, room):
            ways = self.model.engine.smaller(
                self._spec(0), lambda memory: self._fits(self._of(memory, 0), room),
            )
            return evolve(least, way_out=tuple(ways))
        if smallest.offloaded:
            # The context grows where its layers are; the rest of the memory for it is checked below.
            fixed = smallest.total
            free = self.free or self.devices
            more = sum(max(0, free.get(name, 0) - size) for name, size in smallest.devices.items()) // share
        else:
            fixed = smallest.weights + smallest.overhead
            more = max(0, room - self.worker - fixed) // share
        needs = [self.need(fixed + more)]
        for step in range(1, STEPS + 1):
            smaller = least if step == STEPS else self.need(fixed + (more >> step))
            if _whole(smaller) < _whole(needs[-1]):
                needs.append(smaller)
            if _whole(smaller) <= _whole(least):
                break
        if smallest.offloaded:
            needs = [need for need in needs if self._fits(need, room)] or [least]
        return evolve(needs[0], smaller=tuple(needs[1:]))

    def _fits(self, need: Need, room: int) -> bool:
        """Whether an instance fits if there are no others."""
        limits = self.devices
        return need.total <= room and all(size <= limits.get(name, size) for name, size in need.devices.items())

    def _spec(self, given: int | None) -> ModelSpec:
        return evolve(self.spec, memory=given, device_memory=self.free)

    def _of(self, memory: Memory, given: int | None) -> Need:
        file = _identity(self.spec.file) if memory.shared else None
        shared = 0 if file is None else memory.shared
        private = self.worker + memory.main - shared
        return Need(private, shared, file, given, self.free, devices=memory.devices)


def _whole(need: Need) -> int:
    return need.total + sum(need.devices.values())


def memory_limit(server: ServerConfig, spares: int = 0) -> MemoryLimit | None:
    """Return the limit for a server with this many spare workers.

    None if none is configured and the system does not tell how much memory there is.
    """
    total, usable = server.memory_limit, usable_memory()
    if total is None:
        if usable is None:
            return None
        total = usable - _reserve(usable)
    return MemoryLimit(total, SERVER + spares * SPARE, usable)


def spare_workers(server: ServerConfig, models: Iterable[PoolModel]) -> int:
    """Return how many spare workers a server keeps: none if no model's instances are processes.

    They take little of the memory, so a small server keeps fewer.
    """
    if all(model.isolation == "thread" for model in models):
        return 0
    limit = memory_limit(server)
    return server.spare_workers if limit is None else min(server.spare_workers, limit.total // (SPARES * SPARE))


def memory_available() -> int | None:
    """Return the bytes that the machine can give to instances at this moment; None if it does not tell."""
    free, usable = free_memory(), usable_memory()
    return None if free is None or usable is None else max(0, free - _reserve(usable) // MARGIN)


def session_limits(server: ServerConfig, sessions: SessionsConfig, *, in_memory: bool) -> SessionLimits:
    """Return the limits of the sessions of a store, which keeps them `in_memory` or elsewhere."""
    limits = SessionLimits(sessions.max_size, sessions.ttl, sessions.min_tokens)
    limit = memory_limit(server)
    if limit is None:
        return limits
    size = min(limits.max_size, limit.total // SESSIONS) if in_memory else limits.max_size
    return evolve(limits, max_size=size, waiting=min(limits.waiting, limit.total // WAITING))


def _reserve(usable: int) -> int:
    """Return what is left to other programs; a small machine, or container, is not left without memory for models."""
    return min(max(usable // RESERVE, LEAST_RESERVE), usable // 2)


def _identity(file: Path | None) -> Hashable | None:
    """Identify the pages of a file, whatever its path."""
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
