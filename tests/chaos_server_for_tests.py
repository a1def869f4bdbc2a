"""The real server in its own process, with the tests' scripted engine and a disk that fills up."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, Self
from urllib.parse import SplitResult, urlsplit

import psutil
from engines_for_tests import ScriptedEngine
from held_memory_for_tests import tell_held
from programs_for_tests import environment

from lllms_core import log as log_module
from lllms_core.builtin.sessions import disk_store
from lllms_core.config import parse_config
from lllms_core.engines import Engine
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.log import configure_logging
from lllms_core.plugins import Plugins
from lllms_core.pool import setbacks
from lllms_core.serve import serve

_PLUGIN = find_spec("lllms_llamacpp")
TINY_FILE = Path(_PLUGIN.origin).parent / "models" / "tiny-chat.gguf" if _PLUGIN and _PLUGIN.origin else None
"""The trained model, if its plugin is installed."""
FULL, HELD, SCRATCH = "disk-is-full", "held", "scratch"
"""In the server's folder: a file during whose existence its disk takes no sessions, and its temporary files."""


@hookimpl
def lllms_engines() -> list[Engine]:
    """Provide the engine."""
    return [ScriptedEngine()]


class FillingFile:
    """A file on a disk that has room for half of what is written at once, while the disk is full."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        """Write all of the data, or half of them. Raises `OSError` as the kernel's does."""
        if not Path(FULL).exists():
            return self._file.write(data)
        self._file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk() -> None:
    """From now on, the disk below the session store can be full."""
    def filling(descriptor: int, mode: str) -> FillingFile:
        return FillingFile(os.fdopen(descriptor, mode))  # type: ignore[arg-type]  # the store opens it to write bytes

    disk_store.open = filling  # type: ignore[attr-defined]  # in place of the built-in function


def main() -> None:
    """Serve the configuration read as JSON from standard input; print the address when ready."""
    setbacks.FIRST_COOLDOWN = 0.1  # loading workers are killed, too; their models are to be tried again soon
    setbacks.LONGEST_PAUSE = 1.0
    fill_disk()
    log_module.REPEAT_SECONDS = 1.0  # a thread waits that long for each repeated exception
    tell_held(Path(HELD))
    config = parse_config(json.load(sys.stdin))
    configure_logging(config.server.log_level, config.server.log_format)
    plugins = Plugins.discover(extra={"scripted": SimpleNamespace(lllms_engines=lllms_engines)})
    asyncio.run(serve(Host(config, plugins), on_ready=lambda url: print(url, flush=True)))


@contextmanager
def running(
    config: Mapping[str, object], folder: Path,
) -> Iterator[tuple[subprocess.Popen[str], SplitResult, Path]]:
    """Run the server in its own process; yields the process, its address and its log file. It is killed at the end.

    Its temporary files, and those of its workers, lie in `SCRATCH`, its caches in the folder.
    """
    log, scratch = folder / "server.log", folder / SCRATCH
    scratch.mkdir()
    folders = {"TMPDIR": str(scratch), "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
            cwd=folder, env={**environment(folder), **folders},
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(config))
        process.stdin.close()
        url = urlsplit(process.stdout.readline().strip())
        assert url.hostname, log.read_text()
        yield process, url, log
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main()
