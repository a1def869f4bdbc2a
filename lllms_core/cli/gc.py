"""`lllms gc`: delete files that no model needs."""

from pathlib import Path

import click

from lllms_core.cli.setup import ask, config_option, examples, read_config
from lllms_core.errors import DownloadCancelled
from lllms_core.values.sizes import human_size


@click.command(epilog=examples(
    "lllms gc",
    "lllms gc -y",
))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
def gc(yes: bool, config_file: Path | None) -> None:
    """Delete files from the store that no model needs: unfinished downloads and leftovers.

    Pulled models stay, even if no configuration names them: see `lllms ls` and `lllms rm`.
    """
    from lllms_core.cli.inventory import Inventory

    inventory = Inventory.open(read_config(config_file))
    leftovers = [one for one in inventory.store.leftovers() if not inventory.needs(one.path)]
    if not leftovers:
        click.echo("nothing to delete")
        return
    for one in leftovers:
        click.echo(f"{human_size(one.size)}  {one.path}{' (unfinished)' if one.partial else ''}")
    ask("Delete them?", yes=yes)
    freed = 0
    for one in leftovers:
        try:
            inventory.store.discard(one.path)
        except DownloadCancelled as error:
            click.echo(f"Warning: {error}", err=True)
        else:
            freed += one.size
    click.echo(f"freed {human_size(freed)}")
