"""One download in progress: its status, and how to cancel it."""

import threading
import time
from collections import deque
from collections.abc import Callable

from lllms_core.downloads import shown
from lllms_core.errors import DownloadCancelled
from lllms_core.status import DownloadState, DownloadStatus
from lllms_core.store.records import key

SPEED_SECONDS = 10.0
"""The speed is averaged over this many last seconds."""


def download_id(source: str) -> str:
    """Return an id for the downloads of a source that reveals nothing secret in it."""
    return key(source)[:16]


class Download:
    """Pass one to `Store.ensure`; read its `status` and `cancel` it from any thread."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.source = source
        self.id = download_id(source)
        self._clock = clock
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []
        self._state: DownloadState = "starting"
        self._file = ""
        self._sha256 = ""
        self._note = ""
        self._done: dict[str, int] = {}
        self._sizes: dict[str, int | None] = {}
        self._checked = 0
        self._points: deque[tuple[float, int]] = deque()

    # -- for observers ------------------------------------------------------------------------------------------------

    @property
    def status(self) -> DownloadStatus:
        """The progress at this moment."""
        with self._lock:
            done, speed = sum(self._done.values()), self._speed()
            sizes = list(self._sizes.values())
            total = sum(size or 0 for size in sizes) if sizes and None not in sizes else None
            checked = self._checked if self._state == "verifying" else 0
            left = None if total is None or speed <= 0 else max(0, total - (checked or done)) / speed
            return DownloadStatus(
                self.id, shown(self.source), self._state, self._file, self._note, done, checked, total, speed, left,
                self._sha256,
            )

    def cancel(self) -> None:
        """Cancel the download; the bytes received are kept."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    # -- for the store and the downloaders ----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `DownloadCancelled` if it was cancelled."""
        if self._cancelled:
            raise DownloadCancelled(f"the download of {shown(self.source)} was cancelled; the bytes received are kept")

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when it is cancelled; at once if it already is."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def plan(self, sizes: dict[str, int | None], note: str) -> None:
        """Set the files to fetch, with their sizes."""
        with self._lock:
            self._sizes, self._note = sizes, note

    def enter(self, state: DownloadState, file: str = "", sha256: str | None = None) -> None:
        """Change the state; `file` is being fetched now, and is expected to have this hash."""
        with self._lock:
            if state != self._state:
                self._points.clear()
                self._checked = 0
            self._state, self._file = state, file or self._file
            self._sha256 = sha256 or self._sha256

    def here(self, file: str, done: int, size: int | None) -> None:
        """Report that `done` bytes of a file are on the disk."""
        with self._lock:
            self._done[file] = done
            if size is not None:
                self._sizes[file] = size
            if self._state == "downloading":
                self._move(sum(self._done.values()))

    def checked(self, count: int) -> None:
        """Report `count` more bytes read for verification."""
        with self._lock:
            self._checked += count
            if self._state == "verifying":
                self._move(self._checked)

    def _move(self, at: int) -> None:
        now = self._clock()
        points = self._points
        if points and at < points[-1][1]:
            points.clear()  # the file was started over
        if not points or now - points[-1][0] >= SPEED_SECONDS / 50:
            points.append((now, at))
        while len(points) > 2 and now - points[0][0] > SPEED_SECONDS:
            points.popleft()

    def _speed(self) -> float:
        if not self._points:
            return 0.0
        moved = self._checked if self._state == "verifying" else sum(self._done.values())
        since, start = self._points[0]
        seconds = self._clock() - since
        return (moved - start) / seconds if seconds > 0 else 0.0
