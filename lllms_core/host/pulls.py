"""Models that clients fetch while the server runs: they join the catalog and the pool, and those of later servers."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from lllms_core.catalog import Catalog, CatalogEntry, model_from_source
from lllms_core.config import Config, is_model_name
from lllms_core.errors import ConfigError, InvalidRequest, LllmsError
from lllms_core.parameters.wording import cut
from lllms_core.plugins import Plugins
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.store import Fetcher
from lllms_core.store.pulled import Pulled, read_pulled, remember_pulled
from lllms_core.store.weights import Weights, finder, recorded_hash

LOG = logging.getLogger("lllms.host")

MOST = 256
"""At most this many names are offered that clients have fetched."""


class Pulls:
    """Fetches models for clients, and offers them by the names that the clients used."""

    def __init__(self, config: Config, plugins: Plugins, fetcher: Fetcher, catalog: Catalog) -> None:
        self._config = config
        self._plugins = plugins
        self._fetcher = fetcher
        self._catalog = catalog
        self._names: set[str] = set()
        """The names that clients have added."""

    def restore(self) -> None:
        """Add the models of earlier servers' clients to the catalog, as far as their files are still here."""
        if self._config.server.may_pull:
            self._restore(self.recorded())

    def recorded(self) -> Sequence[Pulled]:
        """Return the models that clients of all servers have fetched."""
        return [*read_pulled(self._fetcher.store)]

    def reconfigure(self, config: Config, before: Sequence[CatalogEntry], recorded: Sequence[Pulled]) -> None:
        """Add these models to those of a new configuration, which the catalog has by now.

        The ones that were served `before` stay as they are, unless the configuration has a model of that name.
        """
        self._config = config
        names, self._names = self._names, set()
        if config.server.may_pull:
            for entry in before:
                if entry.name in names and not self._knows(entry.name):
                    self._names.add(entry.name)
                    self._catalog.keep(entry)
            self._restore(recorded)

    def _restore(self, recorded: Sequence[Pulled]) -> None:
        for pulled in recorded:
            try:
                if self._fetcher.store.find(pulled.source) is not None:
                    self._offer(pulled.name, pulled.source)
            except LllmsError as error:
                LOG.warning("model '%s', which a client has fetched, is not offered: %s", pulled.name, error)

    async def pull(self, name: str, source: str | None, pool: Pool) -> CatalogEntry:
        """Fetch the missing files of a model; one that is unknown is fetched from `source`, and served from now on.

        Raises `LllmsError`. If the caller is cancelled and nobody else waits for the download, it is cancelled.
        """
        if source is None or self._knows(name):
            entry = self._catalog.get(name)
            if entry.source is not None and not entry.here:
                found = await self._fetcher.get(entry.source, entry.config.sha256, watched=True)
                if self._catalog.get(entry.name).source == entry.source:  # else a new configuration has another
                    self._catalog.place(entry.name, found.path)
            return self._catalog.get(name)
        self._check(name)
        source = self._fetcher.store.canonical(source)
        try:
            model_from_source(source, self._plugins)  # before gigabytes are fetched that no engine loads
        except ConfigError as error:
            raise InvalidRequest(error.message, "model") from error
        await self._fetcher.get(source, watched=True)
        entry = self._offer(name, source, pool)
        await asyncio.to_thread(remember_pulled, self._fetcher.store, Pulled(name, source))
        return entry

    def _check(self, name: str) -> None:
        if not self._config.server.may_pull:
            raise InvalidRequest(
                f"no model '{cut(name)}', and this server fetches none for its clients; to allow that, set server.pull "
                "= true (without --model)", "model",
            )
        if not is_model_name(name):
            raise InvalidRequest(f"'{cut(name)}' is not a name that a model can have", "model")
        if len(self._names) >= MOST:
            raise InvalidRequest(f"clients have already added {MOST} names of models; configure this one", "model")

    def added(self, name: str) -> bool:
        """Whether clients have added this name."""
        return name in self._names

    def _knows(self, name: str) -> bool:
        return any(name == entry.name or name in entry.aliases for entry in self._catalog.entries)

    def _offer(self, name: str, source: str, pool: Pool | None = None) -> CatalogEntry:
        """Serve a model whose files are here by this name, too. Raises `ConfigError` if that is impossible."""
        if self._knows(name):
            return self._catalog.get(name)
        if not self._config.server.may_pull:
            raise InvalidRequest("a new configuration lets this server fetch no models for its clients", "model")
        self._names.add(name)
        there = next((entry for entry in self._catalog.entries if entry.source == source), None)
        if there is not None:
            return self._catalog.add_alias(there.name, name)
        _, model = model_from_source(source, self._plugins)
        find = finder(self._fetcher.store)
        entry = self._catalog.add(name, model, self._config, self._plugins, find)
        if pool is not None:
            weights = Weights(self._fetcher, self._catalog, name, source, None)
            pool.add(name, PoolModel.of(
                entry, weights, partial(self._catalog.place, name), partial(recorded_hash, self._fetcher.store),
            ))
        return entry
