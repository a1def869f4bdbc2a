"""One download under way: how far it is, and the way to end it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from attrs import frozen

from lllms_core.downloads import shown
from lllms_core.errors import DownloadCancelled
from lllms_core.store.records import key

DownloadState = Literal["starting", "waiting", "downloading", "verifying", "done", "failed"]
"""`waiting`: another process fetches the same file."""

SPEED_SECONDS = 10.0
"""The speed is that of so many last seconds."""


@frozen
class DownloadStatus:
    """How far a download is."""

    id: str
    """The same for all downloads of one source, and for no others."""
    source: str
    """As it may be shown: without passwords."""
    state: DownloadState
    file: str
    """The name in the store of the file that is being fetched; empty until that is known."""
    note: str
    """What the source was taken to mean, if it left a choice, or why the download is where it is."""
    done: int
    """Bytes of all files of the model that are on the disk."""
    checked: int
    """Bytes that were read to verify them; 0 while nothing is verified."""
    total: int | None
    """Bytes of all files of the model; None while that is not known."""
    speed: float
    """Bytes per second; while it verifies, bytes read."""
    seconds_left: float | None
    """At this speed; None while that cannot be told."""


def download_id(source: str) -> str:
    """Name the downloads of a source without telling what may be secret of it."""
    return key(source)[:16]


class Download:
    """Give one to `Store.ensure`, look at its `status` and `cancel` it from any thread."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.source = source
        self.id = download_id(source)
        self._clock = clock
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []
        self._state: DownloadState = "starting"
        self._file = ""
        self._note = ""
        self._done: dict[str, int] = {}
        self._sizes: dict[str, int | None] = {}
        self._checked = 0
        self._points: deque[tuple[float, int]] = deque()

    # -- for whoever watches -----------------------------------------------------------------------------------------

    @property
    def status(self) -> DownloadStatus:
        """How far it is now."""
        with self._lock:
            done, speed = sum(self._done.values()), self._speed()
            sizes = list(self._sizes.values())
            total = sum(size or 0 for size in sizes) if sizes and None not in sizes else None
            checked = self._checked if self._state == "verifying" else 0
            left = None if total is None or speed <= 0 else max(0, total - (checked or done)) / speed
            return DownloadStatus(
                self.id, shown(self.source), self._state, self._file, self._note, done, checked, total, speed, left,
            )

    def cancel(self) -> None:
        """End the download; what has arrived is kept."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    # -- for the store and the downloaders ----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `DownloadCancelled` if it was cancelled."""
        if self._cancelled:
            raise DownloadCancelled(f"the download of {shown(self.source)} was cancelled; what has arrived is kept")

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when it is cancelled; at once if it is already."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def plan(self, sizes: dict[str, int | None], note: str) -> None:
        """Tell which files there are."""
        with self._lock:
            self._sizes, self._note = sizes, note

    def enter(self, state: DownloadState, file: str = "") -> None:
        """Begin something else."""
        with self._lock:
            if state != self._state:
                self._points.clear()
                self._checked = 0
            self._state, self._file = state, file or self._file

    def here(self, file: str, done: int, size: int | None) -> None:
        """So much of a file is on the disk."""
        with self._lock:
            self._done[file] = done
            if size is not None:
                self._sizes[file] = size
            if self._state == "downloading":
                self._move(sum(self._done.values()))

    def checked(self, count: int) -> None:
        """So many more bytes were read to verify them."""
        with self._lock:
            self._checked += count
            if self._state == "verifying":
                self._move(self._checked)

    def _move(self, at: int) -> None:
        now = self._clock()
        points = self._points
        if points and at < points[-1][1]:
            points.clear()  # the file was started anew
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
