"""`lllms unload`: unload models in a running server."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.completion import complete_models
from lllms_core.cli.setup import config_option, connect, examples, server_options

if TYPE_CHECKING:
    from lllms_core.client import Unloaded


@click.command(epilog=examples(
    "lllms unload phi3",
    "lllms unload phi3 --url http://127.0.0.1:8080",
))
@click.argument("models", nargs=-1, required=True, shell_complete=complete_models)
@server_options
@config_option
def unload(models: tuple[str, ...], url: str | None, config_file: Path | None) -> None:
    """Unload MODELS in a running server: their idle instances now, the busy ones as soon as they are idle.

    The instances that a model keeps (min_instances) stay. The next request loads a model again.
    """
    client = connect(url, config_file, timeout=60)
    for name in models:
        click.echo(f"{name}: {_described(client.unload(name))}")


def _described(told: "Unloaded") -> str:
    parts = []
    if told.unloaded:
        parts.append(f"unloaded {', '.join(told.unloaded)}")
    if told.busy:
        parts.append(f"{', '.join(told.busy)} will be unloaded once idle")
    if told.kept:
        parts.append(f"{', '.join(told.kept)} stays, as min_instances says")
    return "; ".join(parts) or "it was not loaded"
