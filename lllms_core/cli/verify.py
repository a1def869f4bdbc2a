"""`lllms verify`: check that model files are unchanged since they were fetched."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.setup import config_option, examples, read_config
from lllms_core.downloads import shown
from lllms_core.errors import ChecksumMismatch, ConfigError

if TYPE_CHECKING:
    from lllms_core.store import Download, Store, StoredModel


@click.command(epilog=examples(
    "lllms verify",
    "lllms verify phi3 hf:org/repo:Q4_K_M",
))
@click.argument("models", nargs=-1)
@config_option
def verify(models: tuple[str, ...], config_file: Path | None) -> None:
    """Verify the files of MODELS by their SHA-256; without a name, all files on this disk.

    Exits with code 1 if any is broken. For files that were never verified, the SHA-256 is recorded.
    """
    from lllms_core.cli.inventory import Inventory
    from lllms_core.cli.transfers import Transfer, carry_out

    inventory = Inventory.open(read_config(config_file))
    transfers: dict[str, Transfer] = {}
    for name in models or [*inventory.known, *(model.source for model in inventory.store.models())]:
        source, sha256 = inventory.source(name)
        model = None if source is None else inventory.stored(source)
        if model is not None:
            work = partial(_verified, inventory.store, model, sha256)
            transfers.setdefault(model.source, Transfer(shown(name), work, partial(_told, shown(name))))
        elif models:
            raise ConfigError(f"{name} needs no file" if source is None else
                              f"{shown(name)} is not on this disk; lllms pull {shown(name)} fetches it")
    carry_out(list(transfers.values()))


def _verified(store: "Store", model: "StoredModel", sha256: str | None, download: "Download") -> "StoredModel":
    verified = store.verify(model, download)
    if sha256 is not None and verified.files[0].sha256 != sha256.lower():
        raise ChecksumMismatch(
            f"{verified.path} has the SHA-256 {verified.files[0].sha256}, but the configuration wants {sha256}",
        )
    return verified


def _told(name: str, model: "StoredModel") -> str:
    return "\n".join(f"{name}: {file.path} is intact, SHA-256 {file.sha256}" for file in model.files)
