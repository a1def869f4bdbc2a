"""Looks at the files of a configuration, and loads it again when they have changed.

It looks once a second, in a thread: that finds files that editors replace, links that are moved, and files on network
drives, none of which the system reports reliably; and for a handful of files it costs some microseconds.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lllms_core.config import Config
from lllms_core.errors import ConfigError, LllmsError
from lllms_core.host.host import Host

LOOK_SECONDS = 1.0

FileIdentity = tuple[int, int, int, int] | None
"""What changes when a file does; None: it is missing."""


def watched_files(config: Config) -> tuple[Path, ...]:
    """Return the files that make a configuration: its own, and those of keys and certificates."""
    server = config.server
    files = (config.path, server.api_keys_file, server.tls_certificate, server.tls_key)
    return tuple(file for file in files if file is not None)


class FileWatch:
    """Watches the files of a host's configuration."""

    def __init__(self, host: Host) -> None:
        """Raises `ConfigError` if there are none."""
        self._host = host
        if not watched_files(host.config):
            raise ConfigError("there is no configuration file to watch; name one by --config, or leave out --watch")

    async def run(self) -> None:
        """Load the configuration again whenever its files have changed and come to rest; for ever.

        And once at the start: the files may have changed since they were read.
        """
        known: Mapping[Path, FileIdentity] = {}
        before: Mapping[Path, FileIdentity] = {}
        while True:
            now = await asyncio.to_thread(_look, watched_files(self._host.config))
            # A file that is still being written is left alone until the next look.
            if now == before and now != known:
                known = now
                with suppress(LllmsError):  # the log says why
                    await self._host.reload()
            before = now
            await asyncio.sleep(LOOK_SECONDS)


def _look(files: tuple[Path, ...]) -> Mapping[Path, FileIdentity]:
    return {file: _identity(file) for file in files}


def _identity(file: Path) -> FileIdentity:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
