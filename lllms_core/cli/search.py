"""`lllms search`: models to get, and those that are here already, by a word."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import printable
from lllms_core.cli.ls import table
from lllms_core.cli.setup import config_option, examples, read_config
from lllms_core.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lllms_core.cli.inventory import Inventory
    from lllms_core.cli.suggestions import Suggestion
    from lllms_core.curated import Space

MOST = 10
"""Results of the hub, by default."""


@click.command(epilog=examples(
    "lllms search llama3.2",
    "lllms search small code",
    "lllms search embedding --offline",
))
@click.argument("words", nargs=-1, required=True)
@click.option(
    "--limit", type=click.IntRange(0, 100), default=MOST, show_default=True,
    help="At most this many results of the hub; 0: do not ask it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def search(words: tuple[str, ...], limit: int, as_json: bool, config_file: Path | None) -> None:
    """Find models by WORDS: a name, a family, a size, or what they are good at.

    First those of the catalogue (lllms models --catalog lists it), then what is on this machine, also of other
    programs, then, with a network, those of the Hugging Face Hub. Of each kind, what fits this machine comes first.
    """
    from lllms_core.cli.inventory import Inventory
    from lllms_core.cli.suggestions import COLUMNS, machine_space

    inventory = Inventory.open(read_config(config_file))
    word = " ".join(words)
    found = _here(word, inventory, space := machine_space(inventory.config, inventory.plugins))
    if limit:
        found += _elsewhere(word, inventory, space, limit, found)
    if as_json:
        click.echo(json.dumps([one.table() for one in found], indent=2, ensure_ascii=False))
    elif found:
        table(COLUMNS, [one.row() for one in found])
    else:
        click.echo(f"nothing found: '{printable(word)}'; lllms models --catalog lists models to begin with", err=True)


def _here(word: str, inventory: "Inventory", space: "Space") -> "list[Suggestion]":
    """Return the fitting models of the catalogue, and those on this machine."""
    from lllms_core.cli.suggestions import search_catalog, search_listed, search_programs, without_known
    from lllms_core.store.other_programs import find_models

    found = search_catalog(word, space, inventory.store)
    found += without_known(search_listed(word, inventory.models(), space), found)
    return found + without_known(search_programs(word, find_models().models, space), found)


def _elsewhere(
    word: str, inventory: "Inventory", space: "Space", most: int, known: "list[Suggestion]",
) -> "Iterator[Suggestion]":
    """Yield what the downloaders find; one that fails is told, and the rest is shown."""
    from lllms_core.cli.suggestions import of_hits, without_known

    if inventory.store.offline:
        click.echo("the hub was not asked: offline mode is on", err=True)
        return
    for downloader in inventory.store.downloaders:
        where = "hub" if downloader.name == "hf" else downloader.name
        try:
            hits = downloader.search(word, most)
        except DownloadError as error:
            click.echo(f"Warning: could not search the {where}: {printable(error.message)}", err=True)
            continue
        yield from without_known(of_hits(hits, where, space), known)
