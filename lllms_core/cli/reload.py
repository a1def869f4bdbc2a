"""`lllms reload`: let a running server load its configuration again."""

from pathlib import Path
from typing import Any, cast

import click

from lllms_core.cli.setup import config_option, connect, examples, server_options


@click.command(epilog=examples(
    "lllms reload",
    "lllms reload --url http://127.0.0.1:8080",
))
@server_options
@config_option
def reload(url: str | None, config_file: Path | None) -> None:
    """Let a running server load its configuration again, and print what has changed.

    Only what has changed is touched: running requests finish, and models that stay the same keep their instances. A
    configuration with a fault changes nothing; the faults are printed, and the exit code is 1.
    """
    from lllms_core.client import ServerError

    client = connect(url, config_file, timeout=60)
    try:
        told = cast("dict[str, Any]", client.post("/api/v1/reload", {}))
    except ServerError as error:
        if url is None and error.code == "unreachable":
            error.text += "; if the new configuration has another address, name the present one by --url"
        raise
    for line in told["text"].split("; "):
        click.echo(line)
