"""The models of a pool: how to load each, and where its files come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from attrs import Factory, frozen

from lllms_core.catalog import CatalogEntry
from lllms_core.engines import Engine
from lllms_core.footprint import Footprint, option_paths
from lllms_core.pool.state import ModelLimits
from lllms_core.types import Isolation, ModelSpec


class ModelFiles(Protocol):
    """The weights of a model, which may have to be fetched."""

    def find(self) -> Path | None:
        """Return the file to load, if the model is complete; called before each load."""

    async def get(self) -> Path:
        """Fetch missing files, and return the file to load. Raises `LllmsError`."""

    @property
    def remote(self) -> str:
        """The source from which other machines can fetch them, too; "" if there is none."""


Look = Callable[[Path | None], Footprint]
"""Returns the current footprint of a model with these weights."""


Recorded = Callable[[Path], str]
"""Returns the recorded hash of a file that has not changed since, in hexadecimal; "" if there is none."""


def unrecorded(_file: Path) -> str:
    """Know no hashes."""
    return ""


def _look_at_nothing(_file: Path | None) -> Footprint:
    return Footprint()


@frozen
class PoolModel:
    """A model as the pool knows it."""

    engine: Engine
    spec: ModelSpec
    limits: ModelLimits = Factory(ModelLimits)
    isolation: Isolation = "process"
    sessions: bool = True
    """Whether its sessions are stored, if there is a store."""
    files: ModelFiles | None = None
    """The source of the file of `spec`; None if it has no file, or if the file is certainly here."""
    prepare: bool = False
    """Whether to fetch the files at the start, rather than at the first request."""
    memory: int | None = None
    """Bytes that an instance takes, in place of its engine's estimate."""
    blocking: bool = False
    """Whether the pool's start waits for the files."""
    look: Look = _look_at_nothing
    """Looks at the model's files before each load."""
    source: str = ""
    """From which other places can fetch its weights; "" if there is none."""
    recorded: Recorded = unrecorded
    """Knows the hashes of its files."""

    @classmethod
    def of(
        cls, entry: CatalogEntry, files: ModelFiles | None = None, look: Look = _look_at_nothing,
        recorded: Recorded = unrecorded,
    ) -> Self:
        """Return a model of the catalog, with its `files` if they may have to be fetched."""
        config = entry.config
        return cls(
            entry.engine,
            entry.spec,
            ModelLimits(
                config.min_instances, config.max_instances, config.ttl, config.load_timeout,
                entry.engine.watchdog if config.watchdog is None else config.watchdog, config.priority,
            ),
            entry.isolation,
            sessions=config.sessions != "none",
            files=files,
            memory=config.memory,
            prepare=config.prepare != "on-demand",
            blocking=config.blocking,
            look=look,
            source="" if files is None else files.remote,
            recorded=recorded,
        )

    @property
    def has_files(self) -> bool:
        """Whether a load reads files."""
        return self.spec.file is not None or self.files is not None or any(option_paths(self.spec.options))
