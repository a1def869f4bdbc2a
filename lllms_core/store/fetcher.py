"""The store for an event loop: all waiters for a source share one download, and a failure is followed by a pause."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from copy import copy
from typing import TypeVar

from attrs import define, evolve, frozen

from lllms_core.downloads import shown
from lllms_core.errors import DownloadCancelled, DownloadError, LllmsError, SourceUnavailable
from lllms_core.status import DownloadStatus
from lllms_core.store.download import Download
from lllms_core.store.shelf import StoredModel
from lllms_core.store.store import Store
from lllms_core.tracebacks import described

LOG = logging.getLogger("lllms.store")

AT_ONCE = 4
"""At most this many models are fetched at the same time; more wait."""
MOST_FAILURES = 256
"""Failed sources that are remembered; clients may name any number. The one whose pause ends first makes room."""
CLOSE_SECONDS = 3.0
"""How long a cancelled download gets to record which bytes it has."""

T = TypeVar("T")
Key = tuple[str, str | None]


@frozen
class Cooldown:
    """Seconds for which a failed source is not tried again; requests in the meantime get the same error at once."""

    first: float = 5.0
    longest: float = 60.0
    """Each further failure doubles the pause, up to this."""


@define
class _Failure:
    error: DownloadError
    status: DownloadStatus
    until: float
    count: int = 1


@define
class _Job:
    download: Download
    task: "asyncio.Task[StoredModel]"
    waiters: int = 0


class Fetcher:
    """Gets models from the store without blocking. Use it from one event loop."""

    def __init__(
        self, store: Store, cooldown: Cooldown | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._cooldown = cooldown or Cooldown()
        self._clock = clock
        self._jobs: dict[Key, _Job] = {}
        self._failures: dict[Key, _Failure] = {}
        self.chosen: dict[str, str] = {}
        """By source, the choice made for fetched sources that left one."""
        self._room = asyncio.Semaphore(AT_ONCE)

    @property
    def statuses(self) -> tuple[DownloadStatus, ...]:
        """The running downloads, then the failed ones, each in the order in which they started."""
        running = tuple(job.download.status for job in self._jobs.values())
        return (*running, *(failure.status for key, failure in self._failures.items() if key not in self._jobs))

    def status(self, source: str) -> DownloadStatus | None:
        """The progress of a source's download; None if none is running."""
        return next((job.download.status for key, job in self._jobs.items() if key[0] == source), None)

    async def get(self, source: str, sha256: str | None = None, *, watched: bool = False) -> StoredModel:
        """Return the model once all its files are here and verified; a waiter that is cancelled does not stop the rest.

        If the waiter has `watched` it, and is cancelled while nobody else waits, the download is cancelled; the bytes
        received are kept. Raises `DownloadError`; during the pause after a failure the same error, with the seconds
        left.
        """
        key = source, sha256
        if key not in self._jobs:
            self._check_cooldown(key)
            self._jobs[key] = self._start(key)
        job = self._jobs[key]
        job.waiters += 1
        try:
            return await asyncio.shield(job.task)
        except asyncio.CancelledError:
            if watched and job.waiters == 1:
                job.download.cancel()
            raise
        finally:
            job.waiters -= 1

    def cancel(self, download_id: str) -> bool:
        """Cancel the downloads with this id, and allow a failed one to be retried at once; return whether any existed.

        Waiters get `DownloadCancelled`; the bytes received are kept, and the next request resumes from them.
        """
        jobs = [job.download for job in self._jobs.values() if job.download.id == download_id]
        failed = [key for key, failure in self._failures.items() if failure.status.id == download_id]
        for job in jobs:
            job.cancel()
        for key in failed:
            del self._failures[key]
        return bool(jobs or failed)

    async def close(self) -> None:
        """Cancel everything; the bytes received are kept."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.download.cancel()
        if jobs:
            await asyncio.wait([job.task for job in jobs], timeout=CLOSE_SECONDS)

    def _check_cooldown(self, key: Key) -> None:
        failure = self._failures.get(key)
        left = 0.0 if failure is None else failure.until - self._clock()
        if failure is not None and left > 0:
            error = copy(failure.error)
            error.retry_after = math.ceil(left)
            raise error

    def _start(self, key: Key) -> _Job:
        download = Download(key[0])
        task = asyncio.create_task(self._run(key, download))
        task.add_done_callback(lambda task: self._end(key, download, task))
        return _Job(download, task)

    async def _run(self, key: Key, download: Download) -> StoredModel:
        loop = asyncio.get_running_loop()
        room = asyncio.ensure_future(self._room.acquire())

        def leave() -> None:
            loop.call_soon_threadsafe(room.cancel)

        download.on_cancel(leave)
        try:
            await room
        except asyncio.CancelledError:
            download.check()
            raise
        try:
            return await _in_thread(lambda: self.store.ensure(*key, download))
        finally:
            self._room.release()

    def _end(self, key: Key, download: Download, task: "asyncio.Task[StoredModel]") -> None:
        del self._jobs[key]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, DownloadError) and not isinstance(error, DownloadCancelled):
            count = self._failures[key].count + 1 if key in self._failures else 1
            pause = min(self._cooldown.first * 2 ** (count - 1), self._cooldown.longest)
            pause = pause if error.retry_after is None else error.retry_after
            error.retry_after = math.ceil(pause)
            status = evolve(download.status, state="failed", note=error.message)
            # A copy has no traceback, which would hold all that the download had in its hands.
            self._failures[key] = _Failure(copy(error), status, self._clock() + pause, count)
            if len(self._failures) > MOST_FAILURES:
                others = (one for one in self._failures if one != key)
                del self._failures[min(others, key=lambda one: self._failures[one].until)]
            return
        self._failures.pop(key, None)
        if error is None and not task.cancelled():
            source, note = download.status.source, download.status.note
            LOG.info("%s is now on this disk%s", source, f": {note}" if note else "")
            if note:
                self.chosen[source] = note


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a function in its own daemon thread, which does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # without an error there is a result
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except LllmsError as caught:
            error = caught
        except Exception as caught:  # downloaders are plugins, and may raise anything
            LOG.exception("a downloader failed")
            error = SourceUnavailable(f"the downloader failed: {shown(described(caught))}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="lllms download", daemon=True).start()
    return await future
