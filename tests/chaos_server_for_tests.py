"""The real server in a process of its own, with the tests' scripted engine beside those that are installed."""

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
from lllms_core.serve import serve


@hookimpl
def lllms_engines() -> list[Engine]:
    """Provide the engine."""
    return [ScriptedEngine()]


def main() -> None:
    """Serve the configuration that standard input gives as JSON; print the address when it is ready."""
    config = parse_config(json.load(sys.stdin))
    configure_logging(config.server.log_level, config.server.log_format)
    plugins = Plugins.discover(extra={"scripted": SimpleNamespace(lllms_engines=lllms_engines)})
    asyncio.run(serve(Host(config, plugins), on_ready=lambda url: print(url, flush=True)))


@contextmanager
def running(
    config: Mapping[str, object], folder: Path,
) -> Iterator[tuple[subprocess.Popen[str], SplitResult, Path]]:
    """Run it in a process of its own; yields that, its address and the file with its log. In the end it is gone."""
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
