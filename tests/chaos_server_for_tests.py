"""The real server in its own process, with the tests' scripted engine beside the installed ones."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import SplitResult, urlsplit

import psutil
from engines_for_tests import ScriptedEngine
from programs_for_tests import environment

from lllms_core.config import parse_config
from lllms_core.engines import Engine
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.log import configure_logging
from lllms_core.plugins import Plugins
from lllms_core.pool import setbacks
from lllms_core.serve import serve


@hookimpl
def lllms_engines() -> list[Engine]:
    """Provide the engine."""
    return [ScriptedEngine()]


def main() -> None:
    """Serve the configuration read as JSON from standard input; print the address when ready."""
    setbacks.FIRST_COOLDOWN = 0.1  # loading workers are killed, too; their models are to be tried again soon
    config = parse_config(json.load(sys.stdin))
    configure_logging(config.server.log_level, config.server.log_format)
    plugins = Plugins.discover(extra={"scripted": SimpleNamespace(lllms_engines=lllms_engines)})
    asyncio.run(serve(Host(config, plugins), on_ready=lambda url: print(url, flush=True)))


@contextmanager
def running(
    config: Mapping[str, object], folder: Path,
) -> Iterator[tuple[subprocess.Popen[str], SplitResult, Path]]:
    """Run the server in its own process; yields the process, its address and its log file. It is killed at the end."""
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
            cwd=folder, env=environment(folder),
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
