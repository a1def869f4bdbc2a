"""A partly downloaded file: its bytes, and next to them a note that records which bytes are there."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen

from lllms_core.downloads import RemoteFile, Span, shown
from lllms_core.errors import DiskFull, DownloadError, SourceUnavailable, WrongFile
from lllms_core.store.download import Download
from lllms_core.store.file_checks import check_beginning, check_hash, check_header, disk_fault
from lllms_core.store.hashing import Hasher
from lllms_core.store.records import read_record, write_record
from lllms_core.store.spans import Spans
from lllms_core.values.sizes import human_size

PART = ".lllms-part"
NOTE = ".lllms-part.json"
RESERVE = 64 * 2**20
"""Bytes that must stay free on the disk."""
NOTE_SECONDS = 2.0
"""The note is written this often; a killed process loses no more work than that."""
NOTE_ROOM = 2**20
"""Bytes dropped on a full disk, to make room for the note about the rest."""


@frozen
class _Note:
    """Which bytes of a partial file are certainly on the disk, and which file they belong to."""

    url: str
    sha256: str | None
    size: int | None
    version: str | None
    spans: tuple[tuple[int, ...], ...]


class PartialFile:
    """The `Part` that downloaders write into; renamed to the target only when it is complete and correct."""

    def __init__(self, target: Path, remote: RemoteFile, sha256: str | None, download: Download) -> None:
        """Resume an earlier download of the same file, if there is one. The caller holds the file's lock."""
        self._target = target
        self._remote = remote
        self._what = shown(remote.url)
        self._sha256 = sha256
        self._download = download
        self._path = target.with_name(target.name + PART)
        self._note = target.with_name(target.name + NOTE)
        self._lock = threading.RLock()
        self._size = remote.size
        self._version: str | None = None
        self._spans = Spans()
        self._turn = 0
        self._noted = time.monotonic()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "r+b" if self._path.exists() else "w+b", buffering=0)  # noqa: SIM115, PTH123  # closed in close()
        self._hasher = Hasher(self._path, self._hashed)
        self._take_up()
        self._hasher.advance(self._spans.prefix)
        self._tell()

    # -- for downloaders ----------------------------------------------------------------------------------------------

    @property
    def missing(self) -> Sequence[Span]:
        """The missing bytes; one span that ends at `sys.maxsize` while the size is unknown."""
        with self._lock:
            return self._spans.missing(self._size)

    @property
    def version(self) -> str | None:
        """The version that the bytes on the disk belong to."""
        return self._version

    @property
    def hash_known(self) -> bool:
        """Whether the finished file is checked against a hash."""
        return self._sha256 is not None

    def begin(self, size: int | None, version: str | None, *, whole: bool = False) -> None:
        """Compare the server's answer with the bytes on the disk; see `Part.begin`."""
        self._download.check()
        if size is not None and self._remote.size not in (None, size):
            raise WrongFile(
                f"{self._what} is {size} bytes long, but {self._remote.size} were announced: the file was changed"
                " or the server is wrong; try again later, or choose another source",
            )
        with self._lock:
            # The final check of a hash prevents a mix of two files, whatever their versions.
            same = self.hash_known or (version is not None and version == self._version)
            if whole or size not in (None, self._size) or not same:
                self._reset()
            self._size = self._size if size is None else size
            self._version = version
            self._check_room()
            self._tell()

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at their offset; see `Part.write`."""
        self._download.check()
        if not data:
            return
        stop = offset + len(data)
        with self._lock:
            if self._size is not None and stop > self._size:
                raise WrongFile(f"{self._what} is longer than the {self._size} bytes that it announced")
            if offset == 0:
                check_beginning(self._target.name, data, self._what)
            try:
                self._file.seek(offset)
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as error:
                raise disk_fault(self._path, error) from error
            self._spans = self._spans.add(offset, stop)
            self._hasher.advance(self._spans.prefix)
            self._tell()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the download is cancelled."""
        self._download.on_cancel(callback)

    # -- for the store ------------------------------------------------------------------------------------------------

    def commit(self) -> str:
        """Check the file, give it its name, and return its SHA-256.

        Raises `WrongFile` if it is wrong, `SourceUnavailable` if it is incomplete.
        """
        with self._lock:
            if self._size is None and self._spans.prefix == self._spans.count:
                self._size = self._spans.prefix  # only the end of the stream tells the file's length
            size, missing = self._size, self._spans.missing(self._size)
        if missing or size is None:
            raise SourceUnavailable(f"{self._what} ended before it was complete; try again")
        self._download.enter("verifying", self._remote.name)
        try:
            sha256 = self._hasher.result(size, self._download.check)
        except OSError as error:
            raise SourceUnavailable(f"{self._path} cannot be read: {error}") from error
        if not size:
            raise WrongFile(f"{self._what} gives an empty file")
        check_hash(self._what, sha256, self._sha256)
        check_header(self._path, self._target.name, self._what)
        self._file.truncate(size)
        self._sync()
        self._close_files()
        try:
            os.replace(self._path, self._target)  # noqa: PTH105  # clearer than Path.replace
        except OSError as error:
            raise disk_fault(self._target, error) from error
        self._note.unlink(missing_ok=True)
        _sync_folder(self._target.parent)
        return sha256

    def note(self) -> None:
        """Sync the bytes to the disk, then record them, so that the next download can resume from them."""
        with self._lock:
            self._noted = time.monotonic()
            turn = self._turn
            record = {
                "url": self._remote.url, "sha256": self._sha256, "size": self._size, "version": self._version,
                "spans": self._spans.spans,
            }
        self._sync()
        with self._lock:
            if turn == self._turn:  # else these bytes have been replaced by others
                write_record(self._note, record)

    def discard(self) -> None:
        """Delete the bytes."""
        self.close(keep=False)

    def close(self, *, keep: bool = True) -> None:
        """Close the file and keep its bytes for the next time. Safe to call again."""
        if self._file.closed:
            return
        kept = False
        try:
            kept = keep and self._keep()
        finally:
            self._close_files()
            if not kept:
                self._path.unlink(missing_ok=True)
                self._note.unlink(missing_ok=True)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _hashed(self, count: int) -> None:
        """The hasher's callback; its thread also writes the note, because that waits for the disk."""
        self._download.checked(count)
        if self._spans.count and time.monotonic() - self._noted >= NOTE_SECONDS:
            with contextlib.suppress(OSError, DownloadError):  # `write` and `close` report a full disk
                self.note()

    def _keep(self) -> bool:
        """Record which bytes there are, fewer on a full disk. Returns whether anything is kept."""
        for _ in range(2):
            if not self._spans.count:
                return False
            try:
                self.note()
            except (OSError, DownloadError):
                limit = max(0, self._file.seek(0, os.SEEK_END) - NOTE_ROOM)
                self._spans = Spans.of(self._spans.spans, limit)
                self._file.truncate(limit)
            else:
                return True
        return self._note.exists()  # an older note is still correct, for fewer bytes

    def _take_up(self) -> None:
        note = read_record(self._note, _Note)
        there = self._file.seek(0, os.SEEK_END)
        if note is None or not self._is_ours(note) or self._remote.size not in (None, note.size):
            self._reset()
            return
        self._size, self._version = note.size, note.version
        limit = there if note.size is None else min(there, note.size)
        self._spans = Spans.of(((span[0], span[1]) for span in note.spans if len(span) == 2), limit)

    def _is_ours(self, note: _Note) -> bool:
        """Whether a note is about this file: same hash, wherever it came from, or, without hashes, same URL."""
        if self._sha256 is not None and note.sha256 is not None:
            return self._sha256 == note.sha256
        return note.url == self._remote.url

    def _reset(self) -> None:
        self._turn += 1
        self._spans = Spans()
        self._size = self._remote.size
        self._hasher.restart()  # before the file is truncated
        self._file.truncate(0)
        self._note.unlink(missing_ok=True)

    def _tell(self) -> None:
        self._download.here(self._remote.name, self._spans.count, self._size)

    def _check_room(self) -> None:
        needed = 0 if self._size is None else self._size - self._spans.count
        free = shutil.disk_usage(self._target.parent).free
        if needed + RESERVE > free:
            raise DiskFull(
                f"no room for {self._remote.name}: {human_size(needed)} more are needed, the disk of"
                f" {self._target.parent} has {human_size(free)} free; delete something (lllms rm, lllms gc), or set"
                " server.models_dir to another disk",
            )

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_fault(self._path, error) from error

    def _close_files(self) -> None:
        self._hasher.close()
        self._file.close()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can; nothing more can be done for the name there
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
