"""How much memory there is for instances, and how much an instance of a model needs, by its engine's estimate."""

import logging
from collections.abc import Hashable
from pathlib import Path

from lllms_core.config import ServerConfig
from lllms_core.machine import usable_memory
from lllms_core.pool.budget import Need
from lllms_core.pool.models import PoolModel
from lllms_core.pool.state import MemoryLimit
from lllms_core.tracebacks import kind
from lllms_core.types import ModelSpec

LOG = logging.getLogger("lllms.pool")

WORKER = 34 * 2**20
"""Bytes of a worker process beside its model and its engine's libraries, of which `Memory.overhead` tells."""
SERVER = 50 * 2**20
"""Bytes of the server's own process, without sessions."""
RESERVE = 10
"""A fraction of the memory: one part in this many is left to other programs, but at least `LEAST_RESERVE`."""
LEAST_RESERVE = 2**30
SESSIONS = 4
"""A fraction of the limit: sessions in memory take at most one part in this many."""


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
        return Need(worker + memory.total - memory.shared, memory.shared, file)
    return Need(worker + memory.total)


def memory_limit(server: ServerConfig, sessions: int = 0) -> MemoryLimit | None:
    """Return the limit for a server whose sessions take up to `sessions` bytes of memory.

    None if none is configured and the system does not tell how much memory there is.
    """
    total, usable = server.memory_limit, usable_memory()
    if total is None:
        if usable is None:
            return None
        # A small machine, or container, is not left without memory for models.
        total = usable - min(max(usable // RESERVE, LEAST_RESERVE), usable // 2)
    return MemoryLimit(total, SERVER + sessions, usable)


def sessions_share(server: ServerConfig, size: int) -> int:
    """Return the bytes that sessions in memory may take, if `size` are configured."""
    limit = memory_limit(server)
    return size if limit is None else min(size, limit.total // SESSIONS)


def _identity(file: Path | None) -> Hashable | None:
    """Identify the pages of a file, whatever its path."""
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
