"""How much memory there is for instances and sessions, and how much an instance needs, by its engine's estimate."""

import logging
from collections.abc import Hashable, Iterable
from pathlib import Path

from attrs import evolve

from lllms_core.config import ServerConfig, SessionsConfig
from lllms_core.machine import free_memory, usable_memory
from lllms_core.pool.budget import Need
from lllms_core.pool.models import PoolModel
from lllms_core.pool.session_rules import SessionLimits
from lllms_core.pool.state import MemoryLimit
from lllms_core.tracebacks import kind
from lllms_core.types import ModelSpec

LOG = logging.getLogger("lllms.pool")

WORKER = 40 * 2**20
"""Bytes of a worker process beside its model: Python and the engine's libraries."""
SPARE = 50 * 2**20
"""Bytes of a spare worker with llama.cpp's libraries, pages of which it shares with no other process."""
SERVER = 50 * 2**20
"""Bytes of the server's own process, without sessions."""
RESERVE = 10
"""A fraction of the memory: one part in this many is left to other programs, but at least `LEAST_RESERVE`."""
LEAST_RESERVE = 2**30
SPARES = 16
"""A fraction of the limit: spare workers take at most one part in this many."""
SESSIONS, WAITING = 4, 16
"""Fractions of the limit: sessions in memory take at most one part in the first many, and as much as the models leave;
those that wait for the store, in the server and in each worker, one part in the second many."""
MARGIN = 4
"""A fraction of the reserve: one part in this many must stay free at the moment of a load. The programs for which the
reserve is left are counted by then."""


def need_of(model: PoolModel, spec: ModelSpec) -> Need:
    """Return what an instance takes; may read the file's header, from any thread.

    Where nothing is known it is only what a worker takes: whatever is wrong, the load will tell.
    """
    if model.memory is not None:
        return Need(model.memory)
    worker = WORKER if model.isolation == "process" else 0
    try:
        memory = model.engine.estimate(spec)
    except Exception as error:  # noqa: BLE001  # of a plugin; a load reports its faults
        LOG.warning("the memory of %s cannot be estimated: %s", spec.name, kind(error))
        return Need(worker)
    if memory.offloaded:
        return Need(worker)
    if memory.mapped and (file := _identity(spec.file)) is not None:
        return Need(worker + memory.kv + memory.compute, memory.weights, file)
    return Need(worker + memory.total)


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
