"""Model files on disk: fetched once, verified, shared by all processes that use them."""

from lllms_core.store.download import Download, download_id
from lllms_core.store.fetcher import Cooldown, Fetcher
from lllms_core.store.shelf import Leftover, StoredFile, StoredModel
from lllms_core.store.store import Store

__all__ = [
    "Cooldown",
    "Download",
    "Fetcher",
    "Leftover",
    "Store",
    "StoredFile",
    "StoredModel",
    "download_id",
]
