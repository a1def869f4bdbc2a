"""Finds the files of loads at places, and fetches the weights that are missing there: each once, whoever needs it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from attrs import define, evolve, field, frozen

from lllms_core.downloads import shown
from lllms_core.errors import DownloadCancelled, LllmsError, PlaceFull, PlaceLost, PlacementFailed
from lllms_core.gguf import part_paths
from lllms_core.placements import FileKey, Place, Placement
from lllms_core.pool.load_files import LoadFiles, PlacedFiles
from lllms_core.status import DownloadStatus
from lllms_core.store import Download
from lllms_core.tracebacks import kind
from lllms_core.values.sizes import human_size

SHARE = "share the server's folder of models with it"


@frozen
class _Key:
    place: str
    source: str
    file: FileKey


@define(eq=False)
class _Job:
    place: Place
    download: Download
    task: "asyncio.Task[Path]"
    waiters: int = 0


@define(eq=False)
class Fetches:
    """Finds and fetches at the places of a placement. Use it from one event loop."""

    _placement: Placement
    _jobs: dict[_Key, _Job] = field(factory=dict)

    @property
    def statuses(self) -> tuple[DownloadStatus, ...]:
        """The fetches that run now, in the order in which they began."""
        return tuple(_status(job) for job in self._jobs.values())

    def of(self, source: str) -> DownloadStatus | None:
        """Return the fetch from a source that is the furthest; None if none runs."""
        running = [_status(job) for key, job in self._jobs.items() if source and key.source == source]
        return max(running, key=lambda one: one.done, default=None)

    def cancel(self, download_id: str) -> bool:
        """Cancel the fetches with this id, whose waiters get `DownloadCancelled`; return whether there were any."""
        found = [job for job in self._jobs.values() if job.download.id == download_id]
        for job in found:
            job.task.cancel()
        return bool(found)

    async def get(self, place: Place, files: LoadFiles, begun: Callable[[], object]) -> PlacedFiles:
        """Return the files of a load at a place; `begun` is called if the weights have to be fetched there.

        Raises `PlaceFull` if they have no room, `PlacementFailed` for what can be neither found nor fetched, with the
        place, the file and the way out, `PlaceLost`, or `DownloadCancelled`.
        """
        weights = await self._find(place, files.weights)
        missing = [file for file, path in zip(files.weights, weights, strict=True) if path is None]
        paths = [path for path in weights if path is not None]
        if missing or (len(paths) > 1 and paths != part_paths(paths[0])):
            check_fetch(place, files, missing[0] if missing else files.weights[0])
            first = await self._fetch(place, files, begun)
            paths = part_paths(first) if len(files.weights) > 1 else [first]
        named = await self._find(place, files.named)
        for file, path in zip(files.named, named, strict=True):
            if path is None:
                raise PlacementFailed(lacks_named(place, file))
        there = dict(zip((Path(file.path) for file in files.all), [*paths, *named], strict=True))
        known = {ours: theirs for ours, theirs in there.items() if theirs is not None}
        return await asyncio.to_thread(PlacedFiles.at, files, known)

    async def _find(self, place: Place, files: tuple[FileKey, ...]) -> list[Path | None]:
        found: list[Path | None] = []
        for file in files:
            try:
                path = await self._placement.find(place.id, file)
            except PlacementFailed as error:
                raise _told(error, f"{place.name} cannot look for {file.path}: {error.message}") from error
            found.append(None if path is None else Path(path))
        return found

    async def _fetch(self, place: Place, files: LoadFiles, begun: Callable[[], object]) -> Path:
        key = _Key(place.id, files.source, files.weights[0])
        if key not in self._jobs:
            download = Download(files.source)
            task = asyncio.create_task(self._run(place, files, download))
            task.add_done_callback(lambda task: self._end(key, task))
            self._jobs[key] = _Job(place, download, task)
        begun()
        job = self._jobs[key]
        job.waiters += 1
        try:
            return await asyncio.shield(job.task)
        except asyncio.CancelledError:
            if job.task.cancelled():
                what = f"the download of {shown(files.source)} to {place.name}"
                raise DownloadCancelled(f"{what} was cancelled; a new request begins it anew") from None
            if job.waiters == 1:
                job.task.cancel()
            raise
        finally:
            job.waiters -= 1

    async def _run(self, place: Place, files: LoadFiles, download: Download) -> Path:
        first = files.weights[0]
        name, size = first.path.name, files.size
        download.plan({name: size}, "")
        download.enter("downloading", name, first.sha256)
        try:
            return Path(await self._placement.fetch(
                place.id, files.source, first, lambda share: download.here(name, int(share * size), size),
            ))
        except PlaceFull as error:
            raise PlaceFull(_no_room(place, files, error.message)) from error
        except Exception as error:
            told = error.message if isinstance(error, LllmsError) else kind(error)
            text = f"{place.name} could not fetch {first.path} from {shown(files.source)}: {told}"
            raise _told(error, f"{text}; let it reach that source, or {SHARE}") from error

    def _end(self, key: _Key, task: "asyncio.Task[Path]") -> None:
        del self._jobs[key]
        if not task.cancelled():
            task.exception()  # its waiters may have left


def lacks_named(place: Place, file: FileKey) -> str:
    """Describe a file of an option that a place lacks, and the way out."""
    return (
        f"{place.name} has no file {file.path}, which an option names; {SHARE}, or copy the file there, to the same"
        " path"
    )


def check_fetch(place: Place, files: LoadFiles, missing: FileKey) -> None:
    """Raise `PlacementFailed` if the weights need not be tried to fetch to a place."""
    if not files.source:
        raise PlacementFailed(
            f"{place.name} has no file {missing.path}; {SHARE}, or name a source from which that can fetch it"
            " (url or hf in the configuration)",
        )
    if place.disk is not None and place.disk < files.size:
        raise PlaceFull(_no_room(place, files, f"it has {human_size(place.disk)} free"))


def _no_room(place: Place, files: LoadFiles, why: str) -> str:
    needs = f"the disk of {place.name} has no room for {files.weights[0].path} ({human_size(files.size)})"
    return f"{needs}: {why}; free some of it, or {SHARE}"


def _told(error: Exception, text: str) -> PlacementFailed:
    return PlaceLost(text) if isinstance(error, PlaceLost) else PlacementFailed(text)


def _status(job: _Job) -> DownloadStatus:
    return evolve(job.download.status, place=job.place.name)
