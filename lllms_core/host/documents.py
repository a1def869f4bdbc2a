"""Documents that APIs keep for their clients, such as answers that a later request continues.

They are JSON. A document can be found as soon as it is kept; a thread writes, reads and removes them, one at a time.
"""

import asyncio
import json
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lllms_core.host.drawers import DiskDrawer, Drawer, DrawerLimits, MemoryDrawer
from lllms_core.tracebacks import kind

LOG = logging.getLogger("lllms.documents")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,120}")


class KeptDocuments:
    """Keeps documents in a drawer; call it from the event loop."""

    def __init__(self, drawer: Drawer) -> None:
        self._drawer = drawer
        self._thread = ThreadPoolExecutor(1, "lllms-documents")
        self._pending: dict[str, object] = {}
        """The documents that are not written yet."""
        self._writing: set[asyncio.Future[None]] = set()
        self._closed = False

    def keep(self, name: str, value: object) -> None:
        """Keep a JSON value, which must not change any more, in place of one with the same name."""
        if self._closed or not _NAME.fullmatch(name):
            return
        self._pending[name] = value
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, name, value)
        self._writing.add(writing)

        def written(_: object) -> None:
            self._writing.discard(writing)
            if self._pending.get(name) is value:
                del self._pending[name]

        writing.add_done_callback(written)

    async def find(self, name: str) -> object:
        """Return the value with this name; None if it is unknown, or has been dropped to make room."""
        if name in self._pending:
            return self._pending[name]
        if self._closed or not _NAME.fullmatch(name):
            return None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, name)

    async def drop(self, name: str) -> bool:
        """Delete the value with this name; return whether it existed."""
        if self._closed or not _NAME.fullmatch(name):
            return False
        there = self._pending.pop(name, None) is not None
        deleted = await asyncio.get_running_loop().run_in_executor(self._thread, self._drawer.delete, name)
        return there or deleted

    async def there(self, names: Sequence[str]) -> Sequence[str]:
        """Return those of these names that have a value; this does not count as its use."""
        asked = [] if self._closed else [name for name in names if _NAME.fullmatch(name)]

        def look() -> list[str]:
            return [name for name in asked if name in self._pending or self._drawer.has(name)]

        return await asyncio.get_running_loop().run_in_executor(self._thread, look) if asked else []

    async def close(self) -> None:
        """Finish writing. Later documents are not kept. Safe to call again."""
        self._closed = True
        if self._writing:
            await asyncio.wait(self._writing)
        self._thread.shutdown(wait=False)

    def _write(self, name: str, value: object) -> None:
        try:
            self._drawer.put(name, json.dumps(value, separators=(",", ":")).encode())
        except Exception as error:  # noqa: BLE001  # the answer has been given; only its copy is lost
            LOG.warning("a document could not be kept: %s", kind(error))

    def _read(self, name: str) -> object:
        data = self._drawer.get(name)
        return None if data is None else json.loads(data)


def open_documents(size: int, ttl: float, folder: Path | None) -> KeptDocuments:
    """Return documents within these limits, kept in a folder, or in this process without one."""
    limits = DrawerLimits(size, ttl)
    return KeptDocuments(MemoryDrawer(limits) if folder is None else DiskDrawer(folder, limits))
