"""`lllms unload`: unload models in a running server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from lllms_core.cli.setup import config_option, connect, examples, server_options

ROUTE = "/api/v1/models"


@click.command(epilog=examples(
    "lllms unload phi3",
    "lllms unload phi3 --url http://127.0.0.1:8080",
))
@click.argument("models", nargs=-1, required=True)
@server_options
@config_option
def unload(models: tuple[str, ...], url: str | None, config_file: Path | None) -> None:
    """Unload MODELS in a running server: their idle instances now, the busy ones as soon as they are idle.

    The instances that a model keeps (min_instances) stay. The next request loads a model again.
    """
    from lllms_core.client import ServerError

    client = connect(url, config_file, timeout=60)
    for name in models:
        told = client.post(f"{ROUTE}/{quote(name, safe='')}/unload", {})
        if not isinstance(told, Mapping) or "unloaded" not in told:
            raise ServerError("the server answers in an unknown form; does it have this version?")
        click.echo(f"{name}: {_described(told)}")


def _described(told: Mapping[str, Any]) -> str:
    parts = []
    if told["unloaded"]:
        parts.append(f"unloaded {', '.join(told['unloaded'])}")
    if told["busy"]:
        parts.append(f"{', '.join(told['busy'])} will be unloaded once idle")
    if told["kept"]:
        parts.append(f"{', '.join(told['kept'])} stays, as min_instances says")
    return "; ".join(parts) or "it was not loaded"
