"""`lllms rm`: delete models."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import printable
from lllms_core.cli.setup import ask, config_option, examples, read_config
from lllms_core.downloads import shown
from lllms_core.errors import ConfigError
from lllms_core.values.sizes import human_size

if TYPE_CHECKING:
    from lllms_core.cli.inventory import Inventory
    from lllms_core.store import StoredModel


@click.command(epilog=examples(
    "lllms rm phi3",
    "lllms rm -y hf:org/repo:Q4_K_M",
))
@click.argument("models", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
def rm(models: tuple[str, ...], yes: bool, config_file: Path | None) -> None:
    """Delete the files of MODELS, each a configured model or a source.

    Files that another model uses stay, and so do files that lllms did not fetch. A configured model is fetched again on
    the next request.
    """
    from lllms_core.cli.inventory import Inventory

    inventory = Inventory.open(read_config(config_file))
    doomed = {model.source: model for model in (_find(inventory, name) for name in models)}
    for model in doomed.values():
        size = human_size(sum(file.size for file in model.files if file.owned))
        click.echo(f"{printable(shown(model.source))}: {size}")
        for file in model.files:
            click.echo(f"  {'' if file.owned else 'stays: '}{file.path}")
    ask("Delete them?", yes=yes)
    for source, model in doomed.items():
        deleted = {file.path for file in inventory.store.delete(source)}
        freed = sum(file.size for file in model.files if file.path in deleted)
        click.echo(f"deleted {printable(shown(source))}: {human_size(freed)}")
        for file in model.files:
            if file.path not in deleted:
                click.echo(f"  stays{', another model uses it' if file.owned else ''}: {file.path}")


def _find(inventory: "Inventory", name: str) -> "StoredModel":
    """Return the model of a name. Raises `ConfigError` if it must not be deleted."""
    source, _ = inventory.source(name)
    if source is None:
        raise ConfigError(f"{name} has no file")
    downloader = inventory.store.downloader(source)
    if downloader is None or downloader.local:
        file = inventory.store.path(source) if downloader is None else shown(source)
        raise ConfigError(f"{file} was not fetched by lllms: delete it yourself")
    model = inventory.stored(source)
    if model is None:
        raise ConfigError(f"{shown(name)} is not on this disk; lllms gc deletes unfinished downloads")
    others = [one for one in inventory.users(model) if one != inventory.name(name)]
    if others:
        named = inventory.name(name) in inventory.known
        way_out = "take that out of the configuration first" if named else f"lllms rm {others[0]} deletes it"
        raise ConfigError(f"{shown(name)} is in use by models.{others[0]}; {way_out}")
    return model
