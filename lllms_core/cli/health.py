"""`lllms health`: whether a server takes requests, for the health checks of containers and monitors."""

from pathlib import Path

import click

from lllms_core.cli.setup import config_option, connect, examples, server_options

SECONDS = 5.0
"""A healthy server answers in milliseconds; one that needs longer than this is none."""


@click.command(epilog=examples(
    "lllms health",
    "lllms health --ready --url http://127.0.0.1:8080",
))
@click.option("--ready", is_flag=True, help="Also that the instances of min_instances are loaded.")
@server_options
@config_option
def health(ready: bool, url: str | None, config_file: Path | None) -> None:
    """Ask a running server whether it takes requests: exit with 0 if it does, with 1 and the reason if not.

    It needs no API key.
    """
    connect(url, config_file, timeout=SECONDS).get("/health?ready=true" if ready else "/health")
    click.echo("ok")
