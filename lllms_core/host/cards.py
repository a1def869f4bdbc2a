"""The facts about models: from the catalog, from their files, and from their last load."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

from attrs import field, frozen

from lllms_core.apis import Abilities, ModelCard
from lllms_core.catalog import CatalogEntry, context_length
from lllms_core.errors import LllmsError, ModelLoadFailed
from lllms_core.gguf import TEMPLATE, GGUFError, Scalar, read_gguf, reading_once, scalars
from lllms_core.machine import read_regular
from lllms_core.pool.pool import Pool
from lllms_core.queries import LABELS
from lllms_core.store import download_id
from lllms_core.tracebacks import described, kind
from lllms_core.types import Task

LOG = logging.getLogger("lllms.host")

Details = Mapping[str, str | int | float]
Identity = tuple[int, ...] | None
"""A file's identity, which changes when it is replaced; None if there is no file."""


@frozen
class Look:
    """What an engine reported about a model whose file has this identity."""

    entry: CatalogEntry
    identity: Identity
    details: Details = field(factory=dict)
    fault: str = ""
    """Why the model can never be loaded."""
    problem: str = ""
    """Why a load would fail as things are: this fault, what the engine finds, or a lack of memory."""


class Cards:
    """Reports what models can do; inspects a file only before its model's first load, and only once per file."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._looks: dict[str, Look] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def keep(self, names: Collection[str]) -> None:
        """Forget the looks at all models but these."""
        for known in (self._looks, self._locks):
            for name in known.keys() - names:
                del known[name]

    async def abilities(self, entry: CatalogEntry) -> Abilities:
        """Return what a model can do. Raises `ModelLoadFailed` for a file that can never be loaded."""
        info = self._pool.info(entry.name)
        details = await self._inspect(entry) if info is None else info.details
        tasks = tasks_of(details) if info is None else info.tasks
        return Abilities(
            tasks=tasks,
            context_length=context_length(entry.spec.options, details) if info is None else info.context_length,
            thinks=None if info is None else info.thinks,
            calls_tools="tools" in entry.engine.parameters and (tasks is None or "chat" in tasks),
            sees_images="image" in entry.engine.media,
            details=details,
        )

    async def look(self, entry: CatalogEntry) -> str:
        """Look at a model that was never loaded; return why its load would fail, "" if nothing speaks against it."""
        if self._pool.info(entry.name) is None:
            with contextlib.suppress(ModelLoadFailed):
                await self._inspect(entry)
        return self.problem(entry)

    def problem(self, entry: CatalogEntry) -> str:
        """Return what the last look at a model has found; "" if nothing, or if its file has changed since."""
        look = self._looks.get(entry.name)
        if look is None or not look.problem or look.entry is not entry or self._pool.info(entry.name) is not None:
            return ""
        try:
            return look.problem if _identity(entry.spec.file) == look.identity else ""
        except OSError:
            return look.problem

    async def metadata(self, entry: CatalogEntry) -> Mapping[str, Scalar]:
        """Return the header of a model's GGUF file, without arrays; empty if there is none, or it cannot be read."""
        file = entry.spec.file
        if file is None or not entry.here:
            return {}
        return await asyncio.to_thread(_read_header, file, getattr(entry.spec.options, "chat_template", None))

    async def _inspect(self, entry: CatalogEntry) -> Details:
        if not entry.here:
            return {}
        async with self._locks.setdefault(entry.name, asyncio.Lock()):  # many may ask before the first answer
            last = self._looks.get(entry.name)
            look = self._looks[entry.name] = await asyncio.to_thread(_look, entry, last, self._pool)
        if look.fault:
            raise ModelLoadFailed(look.fault)
        return look.details


def tasks_of(details: Details) -> frozenset[Task] | None:
    """Return the tasks that `Engine.inspect` reported; None if it reported none."""
    told = details.get("tasks")
    if not isinstance(told, str):
        return None
    return frozenset(cast(Task, task) for task in told.split(", ") if task in LABELS)


def _look(entry: CatalogEntry, last: Look | None, pool: Pool) -> Look:
    """Return the last look at a model, or a new one if the model or its file has changed."""
    try:
        identity = _identity(entry.spec.file)
        if last is not None and last.entry is entry and last.identity == identity:
            return last
        with reading_once():
            fatal = _fatal(entry)
            spec = entry.spec if fatal else pool.planned(entry.name, entry.spec)
            details = entry.engine.inspect(spec)
            return Look(entry, identity, details, problem=fatal or pool.misfit(entry.name, entry.spec))
    except OSError as error:
        return _broken(entry, None, f"'{entry.spec.file}' cannot be read: {error.strerror}")
    except LllmsError as error:
        return _broken(entry, identity, error.message)
    except Exception as error:
        LOG.exception("engine '%s' could not inspect model '%s'", entry.engine.name, entry.name)
        return _broken(entry, identity, f"engine '{entry.engine.name}' could not inspect it: {described(error)}")


def _broken(entry: CatalogEntry, identity: Identity, fault: str) -> Look:
    return Look(entry, identity, fault=fault, problem=fault)


def _fatal(entry: CatalogEntry) -> str:
    """Return the first finding of the engine that speaks against a load; "" if there is none."""
    try:
        return next((one.text for one in entry.engine.examine(entry.spec) if one.fatal), "")
    except Exception as error:  # noqa: BLE001  # of a plugin: nobody depends on this, and a load will tell
        LOG.debug("engine '%s' could not examine model '%s': %s", entry.engine.name, entry.name, kind(error))
        return ""


def _read_header(file: Path, template: object) -> Mapping[str, Scalar]:
    """Return the scalars of a GGUF file's header; `template` replaces its template: a text, or a file with one."""
    try:
        values = scalars(read_gguf(file))
        given = read_regular(template).decode(errors="replace") if isinstance(template, Path) else template
    except (GGUFError, OSError):
        return {}
    return {**values, TEMPLATE: given} if isinstance(given, str) else values


def _identity(file: Path | None) -> Identity:
    if file is None:
        return None
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def card(entry: CatalogEntry) -> ModelCard:
    """Return the facts that need no look at the model's file."""
    return ModelCard(
        name=entry.name,
        aliases=entry.aliases,
        engine=entry.engine.name,
        plugin=entry.plugin,
        description=entry.description,
        fingerprint=entry.fingerprint,
        parameters=entry.engine.parameters,
        media=entry.engine.media,
        max_tokens=entry.defaults.max_tokens,
        max_instances=entry.config.max_instances,
        here=entry.here,
        download_id=None if entry.source is None else download_id(entry.source),
        file_name="" if entry.spec.file is None else entry.spec.file.name,
        modified=max((state[1] / 1e9 for state in entry.footprint.files.values() if state is not None), default=None),
        defaults=entry.defaults,
    )
