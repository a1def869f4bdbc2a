"""`lllms pull`: fetch models."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.setup import config_option, examples, read_config
from lllms_core.cli.unknown_models import consent_option
from lllms_core.downloads import shown
from lllms_core.values.sizes import human_size

if TYPE_CHECKING:
    from lllms_core.store import StoredModel


@click.command(epilog=examples(
    "lllms pull phi3",
    "lllms pull llama3.2:3b --yes",
    "lllms pull hf:org/repo:Q4_K_M https://example.org/model.gguf",
    "lllms pull --config lllms.toml",
))
@click.argument("models", nargs=-1)
@consent_option
@config_option
def pull(models: tuple[str, ...], config_file: Path | None) -> None:
    """Fetch MODELS, several at once, and verify them; without a name, all models of the configuration.

    Each is a configured model, a source as in the examples, or a name of the catalogue (lllms models --catalog), which
    it asks about first. Ctrl-C keeps the bytes received: the next pull resumes
    from them.
    """
    from lllms_core.cli.inventory import Inventory
    from lllms_core.cli.transfers import Transfer, carry_out

    inventory = Inventory.open(read_config(config_file))
    wanted = {}
    for name in models or inventory.sources:
        source, sha256 = inventory.source(name)
        if source is not None:
            wanted[source, sha256] = Transfer(
                shown(name), partial(inventory.store.ensure, source, sha256), partial(_told, shown(name)),
            )
        elif models:
            click.echo(f"{name} needs no file")
    carry_out(list(wanted.values()))


def _told(name: str, model: "StoredModel") -> str:
    return f"{name}: {model.path}, {human_size(model.size)}"
