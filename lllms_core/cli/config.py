"""`lllms config`: what is configured, from where, and what can be."""

import json
import os
from pathlib import Path
from typing import Any, cast

import click

from lllms_core.cli.setup import config_option, connect, examples, read_config, server_options


@click.group()
def config() -> None:
    """Show the configuration, or describe it for an editor; `lllms check` checks it."""


@config.command(epilog=examples(
    "lllms config show --set",
    "lllms config show --config lllms.toml --json",
    "lllms config show --url http://127.0.0.1:3000",
))
@click.option("--set", "only_set", is_flag=True, help="Leave out the defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of name, value and origin.")
@server_options
@config_option
def show(only_set: bool, as_json: bool, url: str | None, config_file: Path | None) -> None:
    """Show each setting with its value and its origin: the line of a file, a variable, a flag, or `default`.

    With --url, those that are in force in a running server. Secrets are never shown.
    """
    from attrs import asdict

    from lllms_core.config.setting_list import DEFAULT, list_settings

    if url is not None:
        told = cast("dict[str, Any]", connect(url, config_file, timeout=60).get("/api/v1/config"))
        found = list(told["data"])
    else:
        found = [asdict(one) for one in list_settings(read_config(config_file))]
    if only_set:
        found = [one for one in found if one["origin"] != DEFAULT]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    here = f"{Path.cwd()}{os.sep}" if url is None else ""
    lines = [(f"{one['name']} = {_written(one['value'])}", str(one["origin"]).removeprefix(here)) for one in found]
    width = max((len(text) for text, _ in lines if len(text) <= _WIDEST), default=0)
    for text, origin in lines:
        click.echo(f"{text:<{width}}  # {origin}")


_WIDEST = 60
"""Longer lines do not move the column of the origins."""


def _written(value: object) -> str:
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)


@config.command(epilog=examples(
    "lllms config schema > lllms.schema.json",
))
def schema() -> None:
    """Print the JSON schema of the configuration, with the engines of the installed plugins.

    Editors that know TOML complete and check with it: the first line of the file is then
    `#:schema ./lllms.schema.json` (Taplo, Even Better TOML).
    """
    from lllms_core.config.editor_schema import describe_config
    from lllms_core.plugins import Plugins

    plugins = Plugins.discover()
    engines = {name: provided.object.Options for name, provided in plugins.engines.items()}
    stores = {name: provided.object.Options for name, provided in plugins.session_stores.items()}
    placements = {name: provided.object.Options for name, provided in plugins.placements.items()}
    click.echo(json.dumps(describe_config(engines, stores, placements), indent=2, ensure_ascii=False))
