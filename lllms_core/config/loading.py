"""Find and read the configuration: defaults, the file, the environment, flags."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from lllms_core.config.environment import read_environment
from lllms_core.config.parsing import parse_tables
from lllms_core.config.settings import Config, ServerConfig
from lllms_core.config.toml_lines import find_lines
from lllms_core.errors import ConfigError
from lllms_core.machine import at_home, decode_text

if TYPE_CHECKING:
    from lllms_core.values.violations import Keys

FILE_NAME = "lllms.toml"


def load_config(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read the configuration: defaults, then the file, then `LLLMS_*` variables, then `overrides` (flags).

    The file is `path`, else `lllms.toml` in the working directory or in the user's configuration folder, else none.
    Every key of `[server]` has a variable like `LLLMS_PORT`; lists take commas. `overrides` has the file's shape.
    Relative paths in the file start in its folder, those in variables and flags in the working directory.
    Raises `ConfigError` with all faults, one per line, each with its path and its origin.
    """
    file = path or _find(environ)
    text = "" if file is None else _read(file)
    data = {} if file is None else _parse(text, file)
    server = read_environment(environ, ServerConfig)
    origins: dict[Keys, str | None] = {("server", key): variable for key, (variable, _) in server.items()}
    data = _merge(data, {"server": {key: value for key, (_, value) in server.items()}})
    flags = (overrides or {}).get("server")
    if isinstance(flags, Mapping):
        origins |= {("server", key): None for key in flags}
    data = _merge(data, overrides or {})
    place = "" if file is None else file.absolute()
    told: dict[Keys, str] = {path: f"{place}:{line}" for path, line in find_lines(text).items()}
    told |= {path: variable or f"--{str(path[1]).replace('_', '-')}" for path, variable in origins.items()}
    if file is None:
        return evolve(parse_tables(data, origins, None), origins=told)
    return evolve(parse_tables(data, origins, str(file), file.absolute().parent), path=file, origins=told)


def _find(environ: Mapping[str, str]) -> Path | None:
    user = at_home(environ.get("XDG_CONFIG_HOME") or "~/.config") / "lllms"
    return next((file for file in (Path(FILE_NAME), user / FILE_NAME) if file.is_file()), None)


def _read(file: Path) -> str:
    try:
        return decode_text(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration file {file} is not valid TOML: {error}") from error


def _parse(text: str, file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration file {file} is not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"the configuration file {file} is nested too deeply") from None


def _merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Put `over` on top of `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if not isinstance(value, Mapping) or below is None:
            merged[key] = value
        elif isinstance(below, Mapping):
            merged[key] = _merge(below, value)
        # else: a value in place of a table; leave it for the checks to report
    return merged
