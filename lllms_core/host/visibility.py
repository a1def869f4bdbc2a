"""Restricts what a caller sees of a host to the models that it may use."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TypeVar

from attrs import evolve

from lllms_core.caller import CALLER
from lllms_core.catalog import Catalog
from lllms_core.host.documents import KeptDocuments
from lllms_core.pool.session_index import SessionIndex, SessionTokens
from lllms_core.status import (
    DownloadStatus,
    FailedLoad,
    Lack,
    PoolStatus,
    Problem,
    RequestRecord,
    RequestStatus,
    SessionInfo,
)
from lllms_core.store import download_id

T = TypeVar("T", FailedLoad, Lack, RequestRecord, RequestStatus, SessionInfo, SessionTokens)


class Visibility:
    """Removes from lists what belongs to models that the current caller may not use."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def of_status(self, status: PoolStatus) -> PoolStatus:
        """Return the status with the instances of visible models."""
        names = self._names()
        if names is None:
            return status
        return evolve(status, instances=tuple(one for one in status.instances if one.model in names))

    def of_models(self, told: Iterable[T]) -> tuple[T, ...]:
        """Return the entries about visible models."""
        names = self._names()
        return tuple(one for one in told if names is None or one.model in names)

    def of_problems(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Return the problems of visible models."""
        caller = CALLER.get()
        return tuple(one for one in problems if caller.may_use(one.name))

    def of_downloads(self, downloads: Iterable[DownloadStatus]) -> tuple[DownloadStatus, ...]:
        """Return the downloads of visible models."""
        return tuple(one for one in downloads if self.shows_download(one.id))

    def shows_download(self, wanted: str) -> bool:
        """Whether a download belongs to a visible model."""
        caller = CALLER.get()
        if caller.models is None:
            return True
        return wanted in {download_id(one.source) for one in self._catalog.usable(caller) if one.source is not None}

    def _names(self) -> frozenset[str] | None:
        """Return the names of the visible models; None: no restriction, so removed models are included."""
        caller = CALLER.get()
        return None if caller.models is None else frozenset(entry.name for entry in self._catalog.usable(caller))


class VisibleSessions:
    """The sessions of visible models; the others are unknown to the caller."""

    def __init__(self, index: SessionIndex, visibility: Visibility) -> None:
        self._index = index
        self._visibility = visibility

    async def list(self, model: str | None = None) -> Sequence[SessionInfo]:
        """Return all sessions, or those of one model, most recently used first."""
        return [*self._visibility.of_models(await self._index.list(model))]

    async def forget(self, session_id: str) -> Sequence[str]:
        """Forget a session; return the ids of all sessions dropped with it, its own first; none if it is unknown."""
        if CALLER.get().models is not None and not await self.knows(session_id):
            return []
        return await self._index.forget(session_id)

    async def forget_all(self, model: str | None = None) -> Sequence[str]:
        """Forget all sessions, or those of one model; return their ids."""
        if model is not None or CALLER.get().models is None:
            return await self._index.forget_all(model)
        models = dict.fromkeys(one.model for one in await self.list())
        return [session_id for name in models for session_id in await self._index.forget_all(name)]

    async def knows(self, session_id: str) -> bool:
        """Whether the caller may know this session, and it exists."""
        return any(one.id == session_id for one in await self.list())


class OwnDocuments:
    """The documents that were kept for the caller's API key; those of other keys are unknown to it."""

    def __init__(self, documents: KeptDocuments) -> None:
        self._documents = documents

    def keep(self, name: str, value: object) -> None:
        """Keep a JSON value, which must not change any more, in place of one with the same name."""
        self._documents.keep(_own(name), value)

    async def find(self, name: str) -> object:
        """Return the value with this name; None if it is unknown, or has been dropped to make room."""
        return await self._documents.find(_own(name))

    async def drop(self, name: str) -> bool:
        """Delete the value with this name; return whether it existed."""
        return await self._documents.drop(_own(name))

    async def there(self, names: Sequence[str]) -> Sequence[str]:
        """Return those of these names that have a value; this does not count as its use."""
        own = {_own(name): name for name in names}
        return [own[name] for name in await self._documents.there([*own])]


def _own(name: str) -> str:
    key = CALLER.get().key
    return name if key is None else f"{sha256(key.encode()).hexdigest()[:12]}-{name}"
