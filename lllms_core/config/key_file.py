"""The keys of a server, those of its file included."""

import stat
from pathlib import Path

from lllms_core.config.keyring import ApiKey, Keyring, read_lines, repeated
from lllms_core.config.settings import ServerConfig
from lllms_core.errors import ConfigError
from lllms_core.machine import read_text
from lllms_core.values.violations import StructureError


def open_keyring(server: ServerConfig) -> Keyring:
    """Return the keys of a configuration. Raises `ConfigError` if their file is unreadable, wrong or without a key."""
    file = server.api_keys_file
    keys = (*server.api_keys, *(() if file is None else _read(file)))
    problems = [f"server.api_keys, with those of server.api_keys_file: {one.text}" for one in repeated(keys)]
    names = {key.name for key in keys}
    problems += [
        f"server.trusted_clients: '{name}' is neither an address, nor a network, nor the name of a key"
        for name in server.trusted_keys if name not in names
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return Keyring(keys)


def exposed(file: Path | None) -> str | None:
    """Return a warning if others on this machine can read the file of keys; None if they cannot."""
    try:
        mode = 0 if file is None else stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return None
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return f"server.api_keys_file: every user of this machine can read {file}; to prevent that: chmod 600 {file}"


def _read(file: Path) -> tuple[ApiKey, ...]:
    try:
        keys = read_lines(read_text(file))
    except OSError as error:
        raise ConfigError(f"server.api_keys_file: {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"server.api_keys_file: {file} is not UTF-8 text") from None
    except StructureError as error:
        raise ConfigError("\n".join(f"server.api_keys_file: {file}: {one.text}" for one in error.violations)) from None
    if not keys:
        raise ConfigError(f"server.api_keys_file: {file} holds no key; write one a line, or leave the file out")
    return keys
