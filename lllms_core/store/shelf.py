"""The model files on this disk and the records about them; nothing here reads, fetches or deletes a model file."""

import contextlib
import os
from pathlib import Path

from attrs import frozen

from lllms_core.machine import at_home
from lllms_core.store.part import NOTE, PART
from lllms_core.store.records import key, read_record, read_records, write_record


@frozen
class StoredFile:
    """A file of a model, on this disk."""

    path: Path
    size: int
    sha256: str | None
    """From when the file was verified; None if it never was, or has changed since."""
    owned: bool
    """Whether it is in the store; files elsewhere are used in place and never deleted."""


@frozen
class StoredModel:
    """A source whose files are all on this disk."""

    source: str
    files: tuple[StoredFile, ...]
    """The first is the one that an engine loads."""
    note: str = ""
    """The choice that was made, if the source left one."""
    used: float = 0.0
    """When it was last fetched or loaded, in seconds since 1970; 0 if unknown."""

    @property
    def path(self) -> Path:
        """The file that an engine loads."""
        return self.files[0].path

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


@frozen
class Leftover:
    """A file in the store that no complete model needs: a partial download, or a file without a source."""

    path: Path
    size: int
    partial: bool


@frozen
class SourceRecord:
    """The files that a source was resolved to, written once all of them were there."""

    source: str
    files: tuple[str, ...]
    """Names in the store, or absolute paths of files elsewhere."""
    note: str = ""


@frozen
class FileRecord:
    """A verified file, as it was at that moment."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    url: str = ""


@frozen
class Shelf:
    """The folder of the model files, and next to it the records of sources and files."""

    models_dir: Path

    @property
    def root(self) -> Path:
        """The folder that the files of the store are in."""
        return self.models_dir / "models"

    def path(self, source: str) -> Path:
        """Resolve a plain path: absolute, from `~`, or relative to the working directory."""
        return at_home(source).absolute()

    def models(self) -> list[StoredModel]:
        """Return the models whose files are all here, sorted by source; files may have changed (`sha256` is None)."""
        found = (
            self.recorded(record, file)
            for file, record in read_records(self.models_dir / "records" / "sources", SourceRecord)
        )
        return sorted((model for model in found if model is not None), key=lambda model: model.source)

    def leftovers(self) -> list[Leftover]:
        """Return the files in the store that no model of `models` needs, sorted by path."""
        needed = {file.path for model in self.models() for file in model.files}
        found: list[Leftover] = []
        for path in sorted(self.root.rglob("*")):
            if path.name.endswith(NOTE) or path in needed:
                continue
            with contextlib.suppress(OSError):  # it is gone, or in a folder that may not be looked into
                if path.is_file():
                    found.append(Leftover(path, path.stat().st_size, path.name.endswith(PART)))
        return found

    def touch(self, source: str) -> None:
        """Record that a model is used now, if it has a record and that is writable."""
        with contextlib.suppress(OSError):
            os.utime(self.source_record(source))

    def stored(self, path: Path) -> StoredFile | None:
        """Return a file; `sha256` is set only if the file is unchanged since it was verified."""
        try:
            status = path.stat()
        except (OSError, ValueError):  # a name that no file can have
            return None
        if not path.is_file():
            return None
        record = read_record(self.file_record(path), FileRecord)
        same = record is not None and (record.size, record.mtime_ns) == (status.st_size, status.st_mtime_ns)
        return StoredFile(path, status.st_size, record.sha256 if record and same else None, self.owns(path))

    def recorded(self, record: SourceRecord | None, file: Path) -> StoredModel | None:
        """Return the model of a source's record, which is in `file`; None if any of its files is missing."""
        if record is None or not record.files:
            return None
        files = [self.stored(self.root / name) for name in record.files]
        there = tuple(one for one in files if one is not None)
        if len(there) < len(files):
            return None
        try:
            used = file.stat().st_mtime
        except OSError:
            return None
        return StoredModel(record.source, there, record.note, used)

    def remember(self, path: Path, status: os.stat_result, sha256: str, url: str) -> None:
        """Record that a file was verified in this state."""
        write_record(self.file_record(path), {
            "path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256, "url": url,
        })

    def owns(self, path: Path) -> bool:
        """Whether a path is in the store."""
        root = self.root.resolve()
        return path.is_absolute() and path.parent.resolve().is_relative_to(root) and path.name not in {"", ".."}

    def source_record(self, source: str) -> Path:
        """The path of a source's record."""
        return self.models_dir / "records" / "sources" / f"{key(source)}.json"

    def file_record(self, path: Path) -> Path:
        """The path of a file's record."""
        return self.models_dir / "records" / "files" / f"{key(str(path))}.json"
