"""Setup shared by several commands: the configuration, the plugins, the chosen models, the log."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import evolve

from lllms_core.errors import ConfigError
from lllms_core.machine import at_home

if TYPE_CHECKING:
    from lllms_core.client import Client
    from lllms_core.config import Config, ModelConfig
    from lllms_core.plugins import Plugins

OFFLINE = "lllms.offline"
"""The key in a command's context for whether `--offline` was given."""


API_KEY = "lllms.api_key"
"""The key in a command's context for the API key of a running server."""


def examples(*lines: str) -> str:
    """Return the end of a command's help: examples, one per line."""
    # The first character tells click not to rewrap what follows.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def config_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--config` and `--offline`; the latter is for `read_config`."""
    function = click.option(
        "--offline", is_flag=True, expose_value=False, callback=_remember_offline,
        help="Fetch no model files: use only those on the disk.",
    )(function)
    return click.option(
        "--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
        help="The configuration; by default lllms.toml, here or in the user's configuration folder.",
    )(function)


def _remember_offline(context: click.Context, _: click.Parameter, offline: bool) -> None:
    context.meta[OFFLINE] = offline


def api_key_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--api-key`, for `connect` and `given_key`."""
    return click.option(
        "--api-key", metavar="KEY", expose_value=False, callback=_remember_key,
        envvar="LLLMS_API_KEY", show_envvar=True,
        help="The server's API key; others on this machine may see a command line, but not a variable.",
    )(function)


def server_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--url` and `--api-key`, for `connect`."""
    return click.option(
        "--url", metavar="URL", help="The server; by default the one that the configuration describes.",
    )(api_key_option(function))


def _remember_key(context: click.Context, _: click.Parameter, key: str | None) -> None:
    context.meta[API_KEY] = key


def given_key() -> str | None:
    """Return the API key that the current command was given."""
    key: str | None = click.get_current_context().meta.get(API_KEY)
    return key


def connect(url: str | None, config_file: Path | None, timeout: float) -> "Client":
    """Return a client of the server at a URL, or of the one that a configuration describes."""
    from lllms_core.client import Client

    opened = click.get_current_context().with_resource  # which closes it when the command ends
    if url is not None:
        return opened(Client(url, given_key(), timeout))
    config = read_config(config_file)
    return opened(Client(server_url(config), given_key(), timeout, certificate=config.server.tls_certificate))


def read_config(file: Path | None, server: Mapping[str, object] | None = None) -> "Config":
    """Read the configuration, overridden by flags for `[server]`; None means that a flag was not given.

    Warns of variables that nothing reads.
    """
    from lllms_core.config.environment import unknown_variables

    for text in unknown_variables(os.environ):
        click.echo(f"Warning: {text}", err=True)
    return config_reader(file, server)()


def config_reader(file: Path | None, server: Mapping[str, object] | None = None) -> "Callable[[], Config]":
    """Return what reads the configuration as `read_config` does, at any time and in any thread."""
    from lllms_core.config import load_config

    given = {key: value for key, value in (server or {}).items() if value is not None}
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(OFFLINE):
        given["offline"] = True
    return lambda: load_config(file, overrides={"server": given} if given else None)


def server_url(config: "Config") -> str:
    """Return the address where the server of a configuration listens."""
    host = config.server.host
    if config.server.socket_path is not None:
        return host
    scheme = "http" if config.server.tls_certificate is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.server.port}"


def select(config: "Config", plugins: "Plugins", wanted: Sequence[str]) -> "Config":
    """Return the configuration with only the wanted models, each a name, a file or a source, or NAME=any of these.

    If `wanted` is empty, the whole configuration. Raises `ModelUnknown` or `ConfigError`.
    """
    chosen: dict[str, ModelConfig] = {}
    for one in wanted:
        given, found = _split_name(one)
        name, model = _find(config, plugins, found)
        name, model = (name, model) if given is None else (given, _without_alias(model, given))
        if chosen.setdefault(name, model) is not model:
            raise ConfigError(f"two models are called '{name}'; give one another name: OTHER={found}")
    # Only these: no model that clients fetch, or have fetched.
    if not chosen:
        return config
    server, origins = evolve(config.server, pull=False), {**config.origins, ("server", "pull"): "--model"}
    return evolve(config, models=chosen, server=server, origins=origins)


def _split_name(wanted: str) -> tuple[str | None, str]:
    """Split NAME=FILE; without a name it is None."""
    from lllms_core.config import is_model_name

    name, _, rest = wanted.partition("=")
    return (name, rest) if rest and is_model_name(name) and not at_home(wanted).is_file() else (None, wanted)


def _without_alias(model: "ModelConfig", name: str) -> "ModelConfig":
    return evolve(model, aliases=tuple(alias for alias in model.aliases if alias != name))


def _find(config: "Config", plugins: "Plugins", wanted: str) -> "tuple[str, ModelConfig]":
    from lllms_core.catalog import model_from_file, model_from_source
    from lllms_core.cli.unknown_models import curated_source, is_repository
    from lllms_core.config import ModelConfig, is_model_name
    from lllms_core.downloads import scheme

    for name, model in config.models.items():
        if wanted == name or wanted in model.aliases:
            return name, model
    if wanted in plugins.offers:
        offer = plugins.offers[wanted].object
        return wanted, ModelConfig(offer.engine, None if offer.file is None else str(offer.file), options=offer.options)
    if scheme(wanted) in {name for one in plugins.downloaders.values() for name in one.object.schemes}:
        _note(wanted, plugins)
        return model_from_source(wanted, plugins)
    if at_home(wanted).is_file() or wanted.endswith(".gguf") or ("/" in wanted and not is_repository(wanted)):
        return model_from_file(Path(wanted), plugins)
    from lllms_core.store.weights import open_store

    aliases = (alias for model in config.models.values() for alias in model.aliases)
    names = {*config.models, *plugins.offers, *aliases}
    source = curated_source(wanted, config, plugins, open_store(config, plugins), names)
    name, model = model_from_source(source, plugins)
    if not is_model_name(wanted) or wanted == name:
        return name, model
    return wanted, evolve(model, aliases=(name, *model.aliases))


def _note(source: str, plugins: "Plugins") -> None:
    """Print the note on a model of another program: its choice, and the parts that are left out."""
    from lllms_core.downloads import choose_downloader

    downloader = choose_downloader(source, [provided.object for provided in plugins.downloaders.values()])
    found = downloader.find(source) if downloader is not None and downloader.local else None
    if found is not None and found.note:
        click.echo(f"{source}: {found.note}", err=True)


def ask(question: str, *, yes: bool) -> None:
    """Ask whether to continue, and end the program if not. Raises `ConfigError` if stdin is not a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("cannot ask for confirmation here; add -y to continue without")
    click.confirm(question, abort=True)


def start_log(config: "Config", level: str | None = None) -> None:
    """Send the log to stderr, at the configured level or at `level`."""
    from lllms_core.log import configure_logging

    configure_logging(level or config.server.log_level, config.server.log_format)
