"""SHA-256 of a file while it is written, in its own thread."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from lllms_core.errors import LllmsError

BLOCK = 4 * 2**20
"""Bytes read at once: large enough that nearly all the time goes into hashing, which releases the GIL."""
IDLE_SECONDS = 1.0
"""How often `hashed` is called with 0 while a gap in the file blocks the hash."""


class Hasher:
    """Reads and hashes a file as far as it is written without a gap."""

    def __init__(self, file: Path, hashed: Callable[[int], None]) -> None:
        """Start; its thread calls `hashed` with the bytes of each block, and with 0 while it waits.

        An error that `hashed` raises is raised by `result`.
        """
        self._file = file
        self._hashed = hashed
        self._changed = threading.Condition()
        self._end = 0
        self._round = 0
        self._stopped = False
        self._at = 0
        self._digest = hashlib.sha256()
        self._error: OSError | LllmsError | None = None
        self._thread = threading.Thread(target=self._run, name=f"hash {file.name}", daemon=True)
        self._thread.start()

    def advance(self, end: int) -> None:
        """Report that the file is written up to `end`."""
        with self._changed:
            if end > self._end:
                self._end = end
                self._changed.notify_all()

    def restart(self) -> None:
        """Start over: the file is written from the beginning."""
        with self._changed:
            self._end = self._at = 0
            self._round += 1
            self._digest = hashlib.sha256()
            self._changed.notify_all()

    def result(self, size: int, check: Callable[[], None]) -> str:
        """Wait until `size` bytes are hashed and return their hash. `check` may raise to end the wait."""
        while True:
            check()
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._at >= size:
                    return self._digest.hexdigest()
                self._changed.wait(0.2)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._file.open("rb", buffering=0) as file:
                self._follow(file.seek, file.readinto)
        except (OSError, LllmsError) as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _follow(self, seek: Callable[[int], object], read: Callable[[memoryview], int | None]) -> None:
        block = memoryview(bytearray(BLOCK))
        while True:
            with self._changed:
                if self._at >= self._end and not self._stopped:
                    self._changed.wait(IDLE_SECONDS)
                if self._stopped:
                    return
                at, turn, digest = self._at, self._round, self._digest
                count = min(BLOCK, self._end - at)
            if count <= 0:
                self._hashed(0)
                continue
            seek(at)
            count = read(block[:count]) or 0
            digest.update(block[:count])
            with self._changed:
                if turn != self._round:
                    continue
                if count == 0:
                    raise OSError(f"{self._file} shrank while it was read")
                self._at += count
                self._changed.notify_all()
            self._hashed(count)
