"""`lllms check`: check the whole setup without loading a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import memory_text
from lllms_core.cli.setup import config_option, examples, read_config
from lllms_core.downloads import shown
from lllms_core.errors import ConfigError, LllmsError

if TYPE_CHECKING:
    from lllms_core.catalog import CatalogEntry
    from lllms_core.config import Config
    from lllms_core.plugins import Plugins


@click.command(epilog=examples(
    "lllms check",
    "lllms check --config lllms.toml",
))
@config_option
def check(config_file: Path | None) -> None:
    """Check the configuration, the plugins and the model files; load nothing.

    Exits with code 1 if anything is wrong, and names every fault.
    """
    from lllms_core.catalog import Catalog
    from lllms_core.config import Config
    from lllms_core.plugins import Plugins
    from lllms_core.store.weights import finder, open_store

    problems: list[str] = []
    readable = False
    config = Config()
    try:
        config = read_config(config_file)
    except ConfigError as error:
        problems += error.message.splitlines()
    else:
        readable = True
        click.echo(f"configuration: {config.path or 'none, the defaults'}")
    plugins = Plugins.discover(disable=config.disabled_plugins)
    for report in plugins.reports:
        if report.error:
            problems.append(f"plugin {report.name}: {report.error}")
        else:
            click.echo(f"plugin {report.name}: {'disabled' if report.disabled else ', '.join(report.provides)}")
    # Without a readable configuration, the models are unknown.
    find = finder(open_store(config, plugins))
    catalog = Catalog.examine(config, plugins, find) if readable else Catalog()
    for problem in catalog.problems:
        problems += problem.text.splitlines()
    for entry in catalog.entries:
        try:
            for line in _about(entry):
                click.echo(f"model {entry.name}: {line}")
        except LllmsError as error:
            problems.append(f"models.{entry.name}: {error}")
    problems += _about_sessions(config, plugins)
    for text in problems:
        click.echo(f"Error: {text}", err=True)
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("everything is fine")


def _about_sessions(config: "Config", plugins: "Plugins") -> list[str]:
    """Return the faults of the session store."""
    from lllms_core.host import choose_session_store

    try:
        choose_session_store(config.sessions, plugins)
    except ConfigError as error:
        return error.message.splitlines()
    return []


def _about(entry: "CatalogEntry") -> Iterator[str]:
    if not entry.here:
        yield f"engine {entry.engine.name}; to be fetched or verified: {shown(entry.source or '')}"
        return
    details = entry.engine.inspect(entry.spec)
    memory = entry.engine.estimate(entry.spec)
    about = ", ".join(f"{key} {value}" for key, value in details.items())
    yield f"engine {entry.engine.name}{f' ({about})' if about else ''}"
    if memory.total:
        yield f"an instance takes about {memory_text(memory)}"
