"""`lllms key`: a new API key."""

import click

from lllms_core.cli.setup import examples


@click.command(epilog=examples("lllms key"))
def key() -> None:
    """Make a new API key, and print it with its hash, which may stand for it in the configuration.

    Nothing is stored: give the key to whoever uses the server, and the hash to the server.
    """
    from lllms_core.config.keyring import HASHED, digest_of, new_secret

    secret = new_secret()
    click.echo(secret)
    click.echo(f'api_keys = ["{HASHED}{digest_of(secret).hex()}"]')
