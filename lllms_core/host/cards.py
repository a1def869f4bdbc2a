"""The facts about models: from the catalog, from their files, and from their last load."""

import asyncio
from collections.abc import Mapping

from lllms_core.apis import Abilities, ModelCard
from lllms_core.catalog import CatalogEntry, context_length
from lllms_core.pool.pool import Pool
from lllms_core.store import download_id

Details = Mapping[str, str | int | float]


class Cards:
    """Tells what models can do; looks at a file only before its model was first loaded, and once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._inspected: dict[str, tuple[CatalogEntry, Details]] = {}

    async def abilities(self, entry: CatalogEntry) -> Abilities:
        """Return what a model can do. Raises `ModelLoadFailed` for a file that can never be loaded."""
        info = self._pool.info(entry.name)
        details = await self._inspect(entry) if info is None else info.details
        tasks = None if info is None else info.tasks
        return Abilities(
            tasks=tasks,
            context_length=context_length(entry.spec.options, details) if info is None else info.context_length,
            thinks=None if info is None else info.thinks,
            calls_tools="tools" in entry.engine.parameters and (tasks is None or "chat" in tasks),
            sees_images="image" in entry.engine.media,
            details=details,
        )

    async def _inspect(self, entry: CatalogEntry) -> Details:
        if not entry.here:
            return {}
        seen = self._inspected.get(entry.name)
        if seen is None or seen[0] is not entry:  # its file may have come since
            seen = entry, await asyncio.to_thread(entry.engine.inspect, entry.spec)
            self._inspected[entry.name] = seen
        return seen[1]


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
    )
