"""The link between a configuration's models and the store: where their files are, and how to fetch them."""

import os
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from lllms_core.catalog import Catalog, Find
from lllms_core.config import Config
from lllms_core.config.environment import is_true
from lllms_core.plugins import Plugins
from lllms_core.store import Fetcher, Store


@frozen
class Weights:
    """The weights of one model of a host (`ModelFiles`): found in the store, or fetched."""

    fetcher: Fetcher
    catalog: Catalog
    name: str
    source: str
    sha256: str | None

    def find(self) -> Path | None:
        """Return the file to load, if all files are here; then the model counts as used now."""
        found = self.fetcher.store.find(self.source, self.sha256)
        if found is None:
            return None
        self.fetcher.store.touch(self.source)
        return found.path

    @property
    def remote(self) -> str:
        """The source, unless it names a file of this machine."""
        downloader = self.fetcher.store.downloader(self.source)
        return "" if downloader is None or downloader.local else self.source

    async def get(self) -> Path:
        """Return the file to load, once all files are here. Raises `DownloadError`."""
        model = await self.fetcher.get(self.source, self.sha256)
        self.catalog.place(self.name, model.path)
        return model.path


def open_store(config: Config, plugins: Plugins, environ: Mapping[str, str] = os.environ) -> Store:
    """Return the store of a configuration, with the plugins' downloaders; `HF_HUB_OFFLINE` keeps it offline, too."""
    offline = config.server.offline or is_true(environ.get("HF_HUB_OFFLINE", ""))
    downloaders = [provided.object for _, provided in sorted(plugins.downloaders.items())]
    return Store(config.server.models_dir, downloaders, offline)


def recorded_hash(store: Store, file: Path) -> str:
    """Return the hash of a file that a store has recorded, if the file has not changed since; else ""."""
    found = store.stored(file)
    return "" if found is None or found.sha256 is None else found.sha256


def finder(store: Store) -> Find:
    """Return the function by which a catalog finds files in a store."""

    def find(source: str, sha256: str | None) -> Path | None:
        found = store.find(source, sha256)
        return None if found is None else found.path

    return find
