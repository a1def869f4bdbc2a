"""Where kept documents lie, within limits: in this process, or in files that outlive it.

A drawer is used by one thread. The least recently used documents make room for new ones.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Protocol

from attrs import frozen

from lllms_core.machine import open_regular

LOG = logging.getLogger("lllms.documents")

MOST = 10_000
"""Documents in one drawer."""
OVERHEAD = 512
"""Bytes that each document takes beside its data, at least."""
SUFFIX, PART = ".v1.document", ".part"
STALE_SECONDS = 3600.0
"""A part without a write for this long belongs to a server that is gone."""
SWEEP_SECONDS = 300.0
"""The time after which the next document brings a look for expired ones."""


@frozen
class DrawerLimits:
    """The limits of one drawer."""

    size: int
    """Bytes of all documents together."""
    ttl: float
    """Seconds since its last use until a document is deleted; -1: never."""
    most: int = MOST

    def expired(self, used: float, now: float) -> bool:
        """Whether a document last used at `used` is too old."""
        return self.ttl >= 0 and now - used > self.ttl


class Drawer(Protocol):
    """Keeps bytes by name."""

    def put(self, name: str, data: bytes) -> None:
        """Keep a document, in place of one with the same name. Raises `OSError`."""

    def get(self, name: str) -> bytes | None:
        """Return a document, and record its use; None if it is unknown, expired or damaged."""

    def has(self, name: str) -> bool:
        """Whether there is a document with this name that has not expired; this is no use of it."""

    def delete(self, name: str) -> bool:
        """Delete a document; return whether it existed."""


class MemoryDrawer:
    """Keeps documents in a dictionary, the least recently used first."""

    def __init__(self, limits: DrawerLimits, clock: Callable[[], float] = time) -> None:
        self._limits = limits
        self._clock = clock
        self._documents: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._size = 0

    def put(self, name: str, data: bytes) -> None:
        """Keep a document; one that is larger than the drawer is not kept."""
        self.delete(name)
        if len(data) + OVERHEAD > self._limits.size:
            return
        now = self._clock()
        self._documents[name] = data, now
        self._size += len(data) + OVERHEAD
        while True:
            oldest, (_, used) = next(iter(self._documents.items()))
            fits = self._size <= self._limits.size and len(self._documents) <= self._limits.most
            if fits and not self._limits.expired(used, now):
                return
            self.delete(oldest)

    def get(self, name: str) -> bytes | None:
        """Return a document."""
        now = self._clock()
        data, used = self._documents.get(name, (None, now))
        if data is None:
            return None
        if self._limits.expired(used, now):
            self.delete(name)
            return None
        self._documents[name] = data, now
        self._documents.move_to_end(name)
        return data

    def has(self, name: str) -> bool:
        """Whether a document is here."""
        there = self._documents.get(name)
        return there is not None and not self._limits.expired(there[1], self._clock())

    def delete(self, name: str) -> bool:
        """Forget a document."""
        data, _ = self._documents.pop(name, (None, 0.0))
        if data is None:
            return False
        self._size -= len(data) + OVERHEAD
        return True


class DiskDrawer:
    """Keeps documents in a folder that only its owner can read, one file each; several servers may share it.

    A file has a checksum in its first line, and gets its name once it is complete. Its time of modification is that of
    its last use. A damaged file is removed; one that cannot be read is left alone. The log never shows a name, since
    whoever knows it may read the document.
    """

    def __init__(self, folder: Path, limits: DrawerLimits, clock: Callable[[], float] = time) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._size, self._count = limits.size, limits.most
        """Bytes and documents, as the last sweep found them, and new ones; before the first one, as if it were full."""
        self._swept = 0.0
        self._told: set[str] = set()

    def put(self, name: str, data: bytes) -> None:
        """Write a file; a document larger than the drawer is not kept. Raises `OSError`, and leaves nothing behind."""
        if len(data) + OVERHEAD > self._limits.size:
            self.delete(name)
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._folder / f"{token_hex(8)}{PART}"
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123  # Path.open has no mode for the new file
                file.write(_checksum(data) + b"\n")
                file.write(data)
            os.utime(part, (self._clock(), self._clock()))
            part.replace(self._path(name))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._size += len(data) + OVERHEAD
        self._count += 1
        late = self._clock() - self._swept > SWEEP_SECONDS
        if late or self._size > self._limits.size or self._count > self._limits.most:
            self._sweep()

    def get(self, name: str) -> bytes | None:
        """Read and check a file."""
        path = self._path(name)
        try:
            with open_regular(path) as file:
                used = os.fstat(file.fileno()).st_mtime
                data = file.read(self._limits.size + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"a document cannot be read: {error.strerror}")
            return None
        checksum, _, rest = data.partition(b"\n")
        whole = len(data) <= self._limits.size and checksum == _checksum(rest)
        if not whole:
            self._tell("a document is damaged, and was removed")
        if not whole or self._limits.expired(used, self._clock()):
            self.delete(name)
            return None
        with suppress(OSError):  # if the use cannot be recorded, the data are still good
            os.utime(path, (self._clock(), self._clock()))
        return rest

    def has(self, name: str) -> bool:
        """Whether a file is here."""
        try:
            used = self._path(name).stat(follow_symlinks=False).st_mtime
        except OSError:
            return False
        return not self._limits.expired(used, self._clock())

    def delete(self, name: str) -> bool:
        """Remove a file."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._tell(f"a document cannot be removed: {error.strerror}")
            return False
        return True

    def _sweep(self) -> None:
        """Remove what is too old, then the least recently used ones until a tenth of the drawer is free."""
        now = self._clock()
        self._swept, self._size, self._count = now, 0, 0
        found: list[tuple[float, int, Path]] = []
        with os.scandir(self._folder) as files:
            for file in files:
                with suppress(OSError):  # another server has just removed it
                    there = file.stat(follow_symlinks=False)
                    if file.name.endswith(SUFFIX):
                        found.append((there.st_mtime, there.st_size + OVERHEAD, Path(file.path)))
                    elif file.name.endswith(PART) and now - there.st_mtime > STALE_SECONDS:
                        Path(file.path).unlink()
        self._size, self._count = sum(size for _, size, _ in found), len(found)
        full = self._size > self._limits.size or self._count > self._limits.most
        room = 0.9 if full else 1.0  # so that not every further document brings a sweep
        size_limit, most = room * self._limits.size, room * self._limits.most
        for used, size, path in sorted(found):
            # The newest one was just written: it stays.
            fits = self._count == 1 or (self._size <= size_limit and self._count <= most)
            if fits and not self._limits.expired(used, now):
                return
            with suppress(OSError):
                path.unlink()
            self._size -= size
            self._count -= 1

    def _tell(self, trouble: str) -> None:
        if trouble not in self._told:
            self._told.add(trouble)
            LOG.warning("in %s, %s", self._folder, trouble)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).hexdigest().encode()
