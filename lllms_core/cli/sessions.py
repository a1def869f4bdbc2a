"""`lllms sessions`: the conversations that a running server keeps."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from lllms_core.cli.setup import config_option, connect, examples, server_options

ROUTE = "/api/v1/sessions"
ANSWERS_WITHIN, LOADS_WITHIN = 30.0, 600.0
model_option = click.option("--model", metavar="NAME", help="Only those of this model.")


@click.group(epilog=examples(
    "lllms sessions ls",
    "lllms sessions show 5d41402abc4b2a76 --text",
    "lllms sessions rm 5d41402abc4b2a76",
    "lllms sessions rm --all --model tiny-chat",
))
def sessions() -> None:
    """Show or delete the conversations that a running server keeps, in its store and in its instances."""


@sessions.command()
@model_option
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print the server's full answer as JSON.")
@config_option
def ls(model: str | None, url: str | None, as_json: bool, config_file: Path | None) -> None:
    """List the sessions, the most recently used first."""
    document = connect(url, config_file, ANSWERS_WITHIN).get(_path(model))
    data = document.get("data") if isinstance(document, Mapping) else None
    if as_json or not isinstance(data, list):
        click.echo(json.dumps(document, indent=2))
        return
    for one in data:
        click.echo(_line(one))
    click.echo(f"{len(data)} sessions, {sum(one['bytes'] or 0 for one in data) / 2**20:.1f} MiB")


@sessions.command()
@click.argument("session_id", metavar="ID")
@click.option("--text", is_flag=True, help="Also its text, as the model reads it; loads the model if necessary.")
@server_options
@config_option
def show(session_id: str, text: bool, url: str | None, config_file: Path | None) -> None:
    """Show one session."""
    path = f"{ROUTE}/{quote(session_id, safe='')}"
    client = connect(url, config_file, LOADS_WITHIN if text else ANSWERS_WITHIN)
    document = client.get(f"{path}?text=true" if text else path)
    if not isinstance(document, Mapping):
        raise click.ClickException("the server describes sessions in an unknown form; does it have this version?")
    click.echo(_line(document))
    if text:
        click.echo(document["text"])


@sessions.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@model_option
@server_options
@config_option
def rm(ids: tuple[str, ...], everything: bool, model: str | None, url: str | None, config_file: Path | None) -> None:
    """Delete sessions: their next turn is evaluated from the start.

    Each takes along the sessions that start with it, and those that it starts with.
    """
    from lllms_core.client import ServerError

    if bool(ids) == everything or (ids and model is not None):
        raise click.UsageError("give either ids, or --all (with --model NAME for those of one model)")
    client = connect(url, config_file, ANSWERS_WITHIN)
    paths = {one: f"{ROUTE}/{quote(one, safe='')}" for one in ids} or {"": _path(model)}
    deleted: set[str] = set()
    failed = False
    for session_id, path in paths.items():
        if session_id in deleted:
            continue  # deleted along with another
        try:
            document = client.delete(path)
        except ServerError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
        else:
            deleted.update(document["deleted"] if isinstance(document, Mapping) else ())
    click.echo(f"{len(deleted)} sessions forgotten")
    if failed:
        raise click.exceptions.Exit(1)


def _path(model: str | None) -> str:
    return ROUTE if model is None else f"{ROUTE}?model={quote(model, safe='')}"


def _line(one: Mapping[str, Any]) -> str:
    ago = max(0.0, time.time() - one["last_used"])
    size = "" if one["bytes"] is None else f" {one['bytes'] / 2**20:.1f} MiB,"
    return f"{one['id']}  model {one['model']}: {one['tokens']} tokens,{size} used {ago:.0f} s ago, in {one['where']}"
