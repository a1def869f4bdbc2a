"""The files that a load reads: which they are, what identifies them, and a load with those of another machine."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Self

from attrs import evolve, frozen

from lllms_core.footprint import option_paths, weights_of, with_paths
from lllms_core.machine import file_identity
from lllms_core.placements import FileKey
from lllms_core.pool.models import PoolModel
from lllms_core.types import ModelSpec


@frozen
class LoadFiles:
    """The files of a load, as they are on this machine now."""

    weights: tuple[FileKey, ...] = ()
    """The file to load, then the other parts."""
    named: tuple[FileKey, ...] = ()
    """Those that options name, such as adapters."""
    source: str = ""
    """From which other machines can fetch the weights; "" if they cannot."""

    @classmethod
    def of(cls, model: PoolModel, spec: ModelSpec) -> Self:
        """Look at the files of a model that exist; the load tells of missing ones. Reads no content."""

        def keys(paths: Iterable[Path]) -> tuple[FileKey, ...]:
            sizes = {path: _size(path) for path in paths}
            return tuple(FileKey(path, size, model.recorded(path)) for path, size in sizes.items() if size is not None)

        return cls(keys(weights_of(spec)), keys(option_paths(spec.options)), model.source)

    @property
    def all(self) -> tuple[FileKey, ...]:
        """All of them."""
        return (*self.weights, *self.named)

    @property
    def size(self) -> int:
        """The bytes of the weights."""
        return sum(file.size for file in self.weights)


@frozen
class PlacedFiles:
    """The files of a load, where a place has them."""

    files: LoadFiles
    paths: Mapping[Path, Path]
    """By the path on this machine: that at the place."""
    identities: Mapping[Path, str]
    """By the path at the place: what identifies the file on all machines."""

    @classmethod
    def at(cls, files: LoadFiles, paths: Mapping[Path, Path]) -> Self:
        """Identify files by their recorded hashes, or else as this machine sees them. Reads samples of them."""
        return cls(files, paths, {
            paths[Path(file.path)]: file.sha256 or file_identity(Path(file.path)) for file in files.all
        })

    def moved(self, spec: ModelSpec) -> ModelSpec:
        """Return a model's spec with the paths at the place."""
        file = None if spec.file is None else self.paths.get(spec.file, spec.file)
        return evolve(
            spec, file=file, options=with_paths(spec.options, self.paths), identities=dict(self.identities),
        )


def identified(files: LoadFiles, spec: ModelSpec) -> ModelSpec:
    """Return the spec of a load on this machine, which identifies files by their recorded hashes."""
    known = {Path(file.path): file.sha256 for file in files.all if file.sha256}
    return evolve(spec, identities=known) if known else spec


def _size(path: Path) -> int | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # it is missing, or has a name that no file can have
        return None
    return status.st_size if S_ISREG(status.st_mode) else None
