"""The settings of a configuration, each with its value and its origin; secrets are left out. Pure."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from attrs import AttrsInstance, asdict, fields, has

from lllms_core.config.keyring import ApiKey
from lllms_core.config.settings import Config
from lllms_core.downloads import shown
from lllms_core.status import Setting
from lllms_core.types import Preload
from lllms_core.values.violations import Keys, dotted

DEFAULT = "default"
GIVEN = "given at the start"
"""The origin of what a program or the command line has given, like the models of `--model`."""
HIDDEN = "(hidden)"
SECRETS = frozenset({"key", "token", "secret", "password", "passphrase", "credential", "credentials"})
"""The last words of the names of options whose texts are not shown."""


def list_settings(config: Config) -> list[Setting]:
    """Return all settings, those of the models last."""
    found: list[Setting] = []
    tables = ((("server",), config.server), (("sessions",), config.sessions), (("plugins",), config.plugins))
    models = ((("models", name), model) for name, model in config.models.items())
    for path, table in (*tables, *models):
        usual = dict(_values(type(table)(*["?"] * (path[0] == "models")), path))
        for place, value in _values(table, path):
            otherwise = DEFAULT if usual.get(place, GIVEN) == value else GIVEN
            found.append(Setting(dotted(place), value, _origin(place, config.origins) or otherwise))
    return found


def _origin(place: Keys, origins: Mapping[Keys, str]) -> str | None:
    """Return the origin of a key, or of the table or array that holds it as a whole; that of its own table is none."""
    for length in range(len(place), 2 if place[0] == "models" else 1, -1):
        if place[:length] in origins:
            return origins[place[:length]]
    return None


def _values(table: object, path: Keys) -> Iterator[tuple[Keys, object]]:
    """Yield the keys of a table, with those of its free tables (`options`, `defaults`)."""
    for attribute in fields(type(table)):  # type: ignore[arg-type]  # all tables are attrs classes
        value = getattr(table, attribute.name)
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield (*path, attribute.name, key), _plain(inner, key)
        else:
            yield (*path, attribute.name), _plain(value, attribute.name if path[0] != "server" else "")


def _plain(value: object, name: str = "") -> object:
    """Return a value in JSON's types, without secrets; `name` is its key."""
    if isinstance(value, Preload):
        return f"a prefix of {len(value.prefix)} characters" if value.prefix else f"{len(value.messages)} messages"
    if isinstance(value, str | Path):
        return HIDDEN if name.rpartition("_")[2].lower() in SECRETS and value else shown(str(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    if not has(type(value)):
        return value
    table = asdict(cast("AttrsInstance", value), recurse=False, filter=lambda _, one: one is not None)
    return _plain({key: one for key, one in table.items() if not (isinstance(value, ApiKey) and key == "digest")})
