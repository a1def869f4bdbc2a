"""`lllms cancel`: cancel downloads of a running server."""

from pathlib import Path

import click

from lllms_core.cli.setup import config_option, connect, examples, server_options
from lllms_core.errors import ConfigError


@click.command(epilog=examples(
    "lllms cancel phi3",
    "lllms cancel phi3 --url http://127.0.0.1:8080",
))
@click.argument("models", nargs=-1, required=True)
@server_options
@config_option
def cancel(models: tuple[str, ...], url: str | None, config_file: Path | None) -> None:
    """Cancel the downloads of MODELS in a running server, and the requests that wait for them; `lllms ps` lists them.

    The bytes received are kept: the next request resumes from them, at once even after a failed attempt.
    """
    client = connect(url, config_file, timeout=10)
    downloads = client.downloads()
    wanted = {name: [one.id for one in downloads if name in one.models] for name in models}
    for name, ids in wanted.items():
        if not ids:
            raise ConfigError(f"no download of {name} is running")
    for download_id in {one for ids in wanted.values() for one in ids}:
        client.cancel_download(download_id)
    click.echo(f"cancelled: {', '.join(wanted)}")
