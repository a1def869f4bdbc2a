"""Turn plain tables into a checked configuration; pure. All violations are reported at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from attrs import AttrsInstance, asdict, evolve

from lllms_core.config import rules
from lllms_core.config.settings import (
    UNIX,
    Config,
    ModelConfig,
    PlacementConfig,
    PluginsConfig,
    ServerConfig,
    SessionsConfig,
)
from lllms_core.downloads import scheme
from lllms_core.errors import ConfigError
from lllms_core.machine import at_home
from lllms_core.values.structure import structure, with_folder
from lllms_core.values.violations import Key, Keys, StructureError, Violation, did_you_mean

T = TypeVar("T")
TABLES = ("server", "sessions", "placement", "plugins", "models")
"""The tables of a configuration."""


def parse_config(data: Mapping[str, object]) -> Config:
    """Check a configuration given as Python mappings in the file's shape; attrs values may stand for tables.

    Relative paths start in the working directory. Raises `ConfigError` with all violations, one per line, each with its
    path.
    """
    return parse_tables(data, {}, None)


def with_model(config: Config, name: str, model: ModelConfig) -> Config:
    """Return this configuration with one more model, whose relative paths start in the configuration's folder.

    Raises `ConfigError` if the result is invalid.
    """
    tables = {table: getattr(config, table) for table in TABLES} | {"models": {**config.models, name: model}}
    return evolve(parse_tables(tables, {}, None, config.folder), path=config.path)


def check_config(config: Config) -> None:
    """Check the rules between the values of a configuration that was put together. Raises `ConfigError`."""
    tables = {table: getattr(config, table) for table in TABLES}
    parse_tables(tables, {}, None, config.folder)


def parse_tables(
    data: Mapping[str, object], origins: Mapping[Keys, str | None], file: str | None, folder: Path | None = None,
) -> Config:
    """Check a merged configuration: `origins` tells where a key was set if not in `file`.

    The keys of `origins` are paths of two keys, like `("server", "port")`; None means that no origin is shown.
    Relative paths start in `folder` (None: the working directory); those with an origin, in the working directory.
    """
    here = Path.cwd()
    folder = folder or here
    violations: list[Violation] = []
    server = _table(data.get("server", {}), ServerConfig, ("server",), violations)
    plugins = _table(data.get("plugins", {}), PluginsConfig, ("plugins",), violations)
    sessions = _table(data.get("sessions", {}), SessionsConfig, ("sessions",), violations)
    placement = _table(data.get("placement", {}), PlacementConfig, ("placement",), violations)
    tables = data.get("models", {})
    models: dict[str, ModelConfig] = {}
    if isinstance(tables, Mapping):
        for name, table in tables.items():
            model = _table(table, ModelConfig, ("models", str(name)), violations)
            if model is not None:
                models[str(name)] = model
            violations += rules.check_defaults(table, ("models", str(name), "defaults"))
    else:
        violations.append(Violation(("models",), f"expected a table, got {tables!r}"))
    violations += [
        Violation((str(key),), "unknown key" + did_you_mean(str(key), TABLES)) for key in data if key not in TABLES
    ]
    if server is not None:
        violations += rules.check_server(server)
    violations += rules.check_models(models)
    if server is not None:
        violations += rules.check_room(server, models)
    if sessions is not None:
        violations += rules.check_sessions(sessions)
    if violations or server is None or sessions is None or placement is None or plugins is None:
        raise ConfigError("\n".join(_line(one, origins.get(one.path[:2], file)) for one in violations))
    server = _server_placed(server, {key: here for table, key in origins if table == "server"}, folder)
    models = {name: evolve(model, file=_placed(model.file, folder)) for name, model in models.items()}
    return Config(server, models, sessions, placement, plugins, folder=folder)


def _server_placed(server: ServerConfig, folders: Mapping[Key, Path], folder: Path) -> ServerConfig:
    """Return `[server]` with absolute paths; each starts in the folder of its key, else in `folder`."""
    paths = {key: path for key, path in asdict(server, recurse=False).items() if isinstance(path, Path)}
    changes: dict[str, Any] = {key: with_folder(path, folders.get(key, folder)) for key, path in paths.items()}
    if server.socket_path is not None:
        changes["host"] = f"{UNIX}{with_folder(at_home(server.socket_path), folders.get('host', folder))}"
    return evolve(server, **changes)


def _placed(file: str | None, folder: Path) -> str | None:
    """Return the absolute path of a model's file; a source in its place is left unchanged, to be refused later."""
    if not file:
        return file
    path = (folder / at_home(file)).absolute()
    return file if scheme(file) and not path.exists() else str(path)


def _line(violation: Violation, origin: str | None) -> str:
    return f"{violation} ({origin})" if origin else str(violation)


def _table(value: object, into: type[T], path: Keys, violations: list[Violation]) -> T | None:
    """Build one table's value; on failure, extend `violations` and return None."""
    if isinstance(value, into):
        value = asdict(cast("AttrsInstance", value), recurse=False)
    try:
        return structure(value, into, path)
    except StructureError as error:
        violations += error.violations
        return None
