"""All sessions of a server: those in its store and those in its instances."""

import asyncio
from array import array
from collections.abc import Sequence
from hashlib import sha256

from attrs import field, frozen

from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.pool import Pool
from lllms_core.status import SessionInfo
from lllms_core.worker.wire import HeldConversation

SURVEY_SECONDS = 5.0
"""The time that instances have to answer, which they do between two steps."""


@frozen
class SessionTokens:
    """The tokens of a session."""

    model: str
    tokens: tuple[int, ...] = field(repr=False)
    space: str | None
    """Only a model whose sessions are in this space can decode the tokens; None: the model as it is loaded."""


class SessionIndex:
    """Lists and forgets sessions, wherever they are. Use it from one event loop.

    Every method raises `TimeoutError` if the store or an instance does not answer in time.
    """

    def __init__(self, pool: Pool, keeper: SessionKeeper | None) -> None:
        self._pool = pool
        self._keeper = keeper

    async def list(self, model: str | None = None) -> Sequence[SessionInfo]:
        """Return all sessions, or those of `model`, the most recently used first."""
        stored = [] if self._keeper is None else [
            SessionInfo(entry.id, entry.model, entry.tokens, entry.size, entry.used, self._keeper.store.name)
            for entry in await self._keeper.list() if model in {None, entry.model}
        ]
        held = [info for info, _ in await self._held(model)]
        return sorted([*stored, *held], key=lambda info: -info.used)

    async def tokens(self, session_id: str) -> SessionTokens | None:
        """Return the tokens of a session; None if it is gone."""
        if self._keeper is not None:
            found = await self._keeper.tokens(session_id)
            if found is not None:
                entry, line = found
                return SessionTokens(entry.model, tuple(array("i", line)), entry.space)
        for info, line in await self._held(None):
            if info.id == session_id:
                return SessionTokens(info.model, tuple(array("i", line)), None)
        return None

    async def forget(self, session_id: str) -> Sequence[str]:
        """Forget a session wherever it could be resumed: in the store and in instances.

        The sessions that continue it, and those that are a prefix of it, are forgotten too. Returns the ids of the
        forgotten sessions, its own first; empty if there is no such session.
        """
        found = await self.tokens(session_id)
        if found is None:
            # A damaged session can be forgotten, too.
            return [session_id] if await self._delete(session_id) else []
        line = array("i", found.tokens).tobytes()
        # In all models: two models of one file resume the same sessions.
        await self._survey(None, [line])
        # Whatever they put before that has arrived by now.
        stored = [] if self._keeper is None else await self._keeper.forget(line)
        return [session_id, *(one for one in stored if one != session_id)]

    async def forget_all(self, model: str | None = None) -> Sequence[str]:
        """Forget all sessions, or those of one model; return their ids."""
        held = await self._held(model, everything=True)
        # Whatever they put before that has arrived by now.
        entries = [] if self._keeper is None else await self._keeper.list()
        gone = [entry.id for entry in entries if model in {None, entry.model} and await self._delete(entry.id)]
        return [*gone, *(info.id for info, _ in held)]

    async def _delete(self, session_id: str) -> bool:
        return self._keeper is not None and await self._keeper.delete(session_id)

    async def _held(
        self, model: str | None, *, everything: bool = False,
    ) -> Sequence[tuple[SessionInfo, bytes]]:
        return [
            (_info(instance, name, held), held.tokens)
            for instance, name, all_held in await self._survey(model, everything=everything) for held in all_held
        ]

    async def _survey(
        self, model: str | None, forget: Sequence[bytes] = (), *, everything: bool = False,
    ) -> Sequence[tuple[str, str, Sequence[HeldConversation]]]:
        async with asyncio.timeout(SURVEY_SECONDS):
            return await self._pool.survey(model, forget, everything=everything)


def _info(instance: str, model: str, held: HeldConversation) -> SessionInfo:
    tokens = len(held.tokens) // array("i").itemsize
    name = sha256(instance.encode() + b"\0" + held.tokens).hexdigest()[:16]
    return SessionInfo(name, model, tokens, held.size, held.used, instance)
