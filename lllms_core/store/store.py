"""Fetch model files that are not on the shelf; verify and delete those that are."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen
from filelock import FileLock, Timeout

from lllms_core.downloads import Downloader, RemoteFile, RemoteModel, canonical, choose_downloader, shown
from lllms_core.errors import ChecksumMismatch, DownloadCancelled, InvalidSource, Offline, SourceUnavailable, WrongFile
from lllms_core.gguf import part_paths
from lllms_core.store.download import Download
from lllms_core.store.file_checks import check_hash, check_header, disk_fault
from lllms_core.store.hashing import Hasher
from lllms_core.store.part import NOTE, PART, PartialFile
from lllms_core.store.records import key, read_record, write_record
from lllms_core.store.shelf import FileRecord, Shelf, SourceRecord, StoredFile, StoredModel

LOCK_POLL_SECONDS = 0.1


@frozen
class Store(Shelf):
    """Model files by source: `https://...`, `hf:org/repo:Q4_K_M`, any other form a downloader knows, or a plain path.

        store = Store(Path("~/.cache/lllms").expanduser(), [HttpDownloader()])
        print(store.ensure("https://example.org/tiny.gguf").path)

    Its methods block; several threads and processes may call them at once.
    """

    downloaders: Sequence[Downloader] = ()
    offline: bool = False
    """Whether the network must not be used."""

    # -- looking ------------------------------------------------------------------------------------------------------

    def downloader(self, source: str) -> Downloader | None:
        """Return the downloader for a source; None for a plain path. Raises `InvalidSource` if none supports it."""
        return choose_downloader(source, self.downloaders)

    def canonical(self, source: str) -> str:
        """Return the canonical form of a source, by which its model is known. Raises `InvalidSource`."""
        return canonical(source, self.downloaders)

    def find(self, source: str, sha256: str | None = None) -> StoredModel | None:
        """Return the model if all its files are here and unchanged since they were verified; reads none of them.

        With `sha256`, only if the (first) file was verified to have it. Raises `InvalidSource`.
        """
        source = self.canonical(source)
        downloader = self.downloader(source)
        if downloader is None:
            return self._in_place(source, self.path(source), "", sha256)
        if downloader.local:
            named = downloader.find(source)
            path = None if named is None else named.files[0].path
            return None if named is None or path is None else self._in_place(source, path, named.note, sha256)
        model = self.recorded(read_record(self.source_record(source), SourceRecord), self.source_record(source))
        if model is None or any(file.sha256 is None for file in model.files):
            return None
        return None if sha256 is not None and model.files[0].sha256 != sha256.lower() else model

    def _in_place(self, source: str, path: Path, note: str, sha256: str | None) -> StoredModel | None:
        """Return the model of a file elsewhere, which users have put there: it counts as right, whatever it holds."""
        file = self.stored(path)
        if file is None or (sha256 is not None and file.sha256 != sha256.lower()):
            return None
        first, *others = part_paths(file.path)
        parts = map(self.stored, others) if first == file.path else ()
        return StoredModel(source, (file, *(part for part in parts if part is not None)), note)

    # -- getting ------------------------------------------------------------------------------------------------------

    def ensure(self, source: str, sha256: str | None = None, download: Download | None = None) -> StoredModel:
        """Return the model, after fetching and verifying the missing files.

        A file is fetched once, however many callers ask for it: the others wait. `download` shows the progress and
        can cancel it. Raises `DownloadError`; a failed download keeps the bytes received, unless they were wrong.
        """
        watched = download or Download(source)
        try:
            source = self.canonical(source)
            model = self.find(source, sha256) or self._get(source, sha256, watched)
        except OSError as error:
            watched.enter("failed")
            raise disk_fault(Path(error.filename or self.models_dir), error) from error
        except BaseException:
            watched.enter("failed")
            raise
        watched.enter("done")
        return model

    def verify(self, model: StoredModel, download: Download | None = None) -> StoredModel:
        """Verify every file of a model again, and return the model as it is now.

        Raises `ChecksumMismatch` for a file that has changed since it was fetched, `WrongFile` for a broken one.
        """
        watched = download or Download(model.source)
        watched.plan({str(file.path): file.size for file in model.files}, model.note)
        for file in model.files:
            known = read_record(self.file_record(file.path), FileRecord)
            with self._locked(file.path, watched):
                self._verify(file.path, None if known is None else known.sha256, watched, known.url if known else "")
        watched.enter("done")
        return self.find(model.source) or model

    # -- deleting -----------------------------------------------------------------------------------------------------

    def delete(self, source: str) -> list[StoredFile]:
        """Delete a source's record and its files, except those that other sources need; returns the deleted ones.

        The caller checks whether a configured model needs it. Files outside the store stay.
        """
        record_file = self.source_record(self.canonical(source))
        model = self.recorded(read_record(record_file, SourceRecord), record_file)
        record_file.unlink(missing_ok=True)
        if model is None:
            return []
        needed = {file.path for other in self.models() for file in other.files}
        deleted = [file for file in model.files if file.owned and file.path not in needed]
        for file in deleted:
            self.discard(file.path)
        return deleted

    def discard(self, path: Path) -> None:
        """Delete a file of the store, its partial download and its record.

        Raises `ValueError` for a file that is not in the store, `DownloadCancelled` if it is being fetched.
        """
        if not self.owns(path):
            raise ValueError(f"{path} is not in the store {self.root}")
        target = path.with_name(path.name.removesuffix(PART))
        lock = self._lock(target)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DownloadCancelled(f"{target} is being fetched now; cancel that first") from None
        try:
            for name in (path.name, target.name + NOTE):
                path.with_name(name).unlink(missing_ok=True)
            if path == target:
                self.file_record(path).unlink(missing_ok=True)
        finally:
            lock.release()
        for folder in path.parents:
            if folder == self.root or not _remove_empty(folder):
                break

    # -- steps --------------------------------------------------------------------------------------------------------

    def _get(self, source: str, sha256: str | None, download: Download) -> StoredModel:
        download.check()
        downloader = self.downloader(source)
        if downloader is None:
            model = RemoteModel([RemoteFile("", str(self.path(source)), path=self.path(source))])
        else:
            model = self._resolve(downloader, source)
        if sha256 is not None and len(model.files) > 1:
            raise InvalidSource(f"{shown(source)} has {len(model.files)} files, but sha256 is for one; leave it out")
        download.plan({file.name: file.size for file in model.files}, model.note)
        with contextlib.ExitStack() as locks:
            # Hold all locks until the record of the source is written: until then its files look like leftovers.
            # Sorted, so that no two downloads deadlock.
            for path in sorted({self._place(file) for file in model.files}):
                locks.enter_context(self._locked(path, download))
            for file in model.files:
                self._get_file(file, _expected(file, sha256), downloader, download)
            if downloader is not None and not downloader.local:
                names = [file.name if file.path is None else str(file.path) for file in model.files]
                write_record(self.source_record(source), {"source": source, "files": names, "note": model.note})
            found = self.find(source, sha256)
        if found is None:
            raise SourceUnavailable(f"the files of {shown(source)} were changed while they were fetched; try again")
        return found

    def _resolve(self, downloader: Downloader, source: str) -> RemoteModel:
        offline = self.offline and not downloader.local
        here = downloader.find(source) if offline else None
        if here is not None:
            return here
        if offline:
            raise Offline(
                f"{shown(source)} is not on this disk, and offline mode is on (--offline, LLLMS_OFFLINE,"
                " HF_HUB_OFFLINE): fetch it once online, or name a file on this disk",
            )
        try:
            return downloader.resolve(source)
        except SourceUnavailable as error:
            try:
                here = downloader.find(source)
            except Offline as partial:
                raise SourceUnavailable(f"{error.message}; {partial.message}", error.retry_after) from error
            if here is None:
                raise
            return here

    def _place(self, file: RemoteFile) -> Path:
        """Return the path where a file is, or will be. Raises `InvalidSource` if that is outside the store."""
        if file.path is not None:
            return file.path
        path = self.root / file.name
        if not self.owns(path):
            raise InvalidSource(f"{shown(file.url)} would be stored at {path}, outside {self.root}")
        return path

    def _get_file(
        self, file: RemoteFile, sha256: str | None, downloader: Downloader | None, download: Download,
    ) -> None:
        """Fetch and verify one file, as far as needed. The caller holds its lock."""
        path = self._place(file)
        stored = self.stored(path)
        if stored is not None and self._fits(stored, file, sha256):
            download.here(file.name, stored.size, stored.size)
            return
        if stored is not None and (file.path is not None or stored.sha256 is None):
            # A changed file of the store must still have its old hash; files elsewhere may change.
            known = read_record(self.file_record(path), FileRecord) if file.path is None else None
            try:
                self._verify(path, sha256 or (known.sha256 if known else None), download, file.url)
            except WrongFile:
                if file.path is not None:
                    raise
            else:
                return
        if file.path is not None:
            if not path.exists():
                raise InvalidSource(f"there is no file {path}")
            return
        assert downloader is not None  # noqa: S101  # only plain paths have none
        self._fetch(file, path, sha256, downloader, download)

    def _fetch(
        self, file: RemoteFile, path: Path, sha256: str | None, downloader: Downloader, download: Download,
    ) -> None:
        if self.offline:
            raise Offline(f"{shown(file.url)} is not on this disk, and offline mode is on; fetch it once online")
        download.enter("downloading", file.name, sha256)
        try:
            part = PartialFile(path, file, sha256, download)
        except OSError as error:
            raise SourceUnavailable(f"{path} cannot be written: {error.strerror}; check its folder") from error
        try:
            downloader.fetch(file, part)
            found = part.commit()
        except WrongFile:
            part.discard()
            raise
        finally:
            part.close()
        self.remember(path, path.stat(), found, file.url)

    def _verify(self, path: Path, sha256: str | None, download: Download, url: str) -> None:
        """Hash a file and remember the result. Raises `ChecksumMismatch` or `WrongFile`."""
        download.enter("verifying", path.name, sha256)
        before = path.stat()
        hasher = Hasher(path, download.checked)
        try:
            hasher.advance(before.st_size)
            found = hasher.result(before.st_size, download.check)
        finally:
            hasher.close()
        check_hash(str(path), found, sha256)
        check_header(path, path.name, str(path))
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise SourceUnavailable(f"{path} was changed while it was read; try again when no program writes to it")
        self.remember(path, after, found, url)

    def _fits(self, stored: StoredFile, file: RemoteFile, sha256: str | None) -> bool:
        if stored.sha256 is None or (sha256 is not None and stored.sha256 != sha256.lower()):
            return False
        return file.size in (None, stored.size)

    def _lock(self, path: Path) -> FileLock:
        folder = self.models_dir / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceUnavailable(f"{folder} cannot be created: {error.strerror}; check server.models_dir") from error
        return FileLock(folder / f"{key(str(path))}.lock", thread_local=False)

    @contextlib.contextmanager
    def _locked(self, path: Path, download: Download) -> Iterator[None]:
        """Hold the lock of a file; the system releases it when the process ends, in whatever way."""
        lock = self._lock(path)
        while True:
            download.check()
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                download.enter("waiting", path.name)
                time.sleep(LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()


def _expected(file: RemoteFile, sha256: str | None) -> str | None:
    """Return the hash that a file must have. Raises `ChecksumMismatch` if two different ones are expected."""
    if sha256 is not None and file.sha256 is not None and sha256.lower() != file.sha256.lower():
        raise ChecksumMismatch(
            f"{shown(file.url)} has the SHA-256 {file.sha256}, as its server says, but the configuration wants"
            f" {sha256}: it is a different file; correct sha256, or name the intended revision",
        )
    return sha256 or file.sha256


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
