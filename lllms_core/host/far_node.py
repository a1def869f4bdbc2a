"""A program that a placement runs on a machine: what its instances may take there, and the model files of its store.

    python -m lllms_core.host.far_node facts
    echo '{"path": "/models/tiny.gguf", "size": 1000, "sha256": ""}' | python -m lllms_core.host.far_node find
    echo '{"source": "hf:org/repo", "size": 1000, "sha256": ""}' | python -m lllms_core.host.far_node fetch

It writes JSON objects, one a line: `share` while it fetches, and last the answer or an `error` for people. What it may
take, and where the store is, says the machine's own configuration: `LLLMS_MEMORY_LIMIT`, `LLLMS_MODELS_DIR`.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread

from lllms_core.config import Config, load_config
from lllms_core.errors import DownloadError, LllmsError, WrongFile
from lllms_core.gguf import part_paths
from lllms_core.machine import available_cores
from lllms_core.plugins import Plugins
from lllms_core.pool.devices import find_devices
from lllms_core.pool.needs import memory_limit
from lllms_core.rendezvous import versions
from lllms_core.store import Download, Store
from lllms_core.store.weights import open_store
from lllms_core.values.sizes import human_size

PAUSE = 0.5
"""Seconds between two reports of progress."""

Tell = Callable[[Mapping[str, object]], None]


def facts(config: Config, plugins: Plugins) -> Mapping[str, object]:
    """Return what instances may take of this machine together, and what a worker imports here."""
    limit = memory_limit(config.server)
    engines = [provided.object for provided in plugins.engines.values()]
    return {
        "cores": available_cores(), "memory": None if limit is None else limit.total, "versions": dict(versions()),
        "devices": [{"name": one.name, "total": one.total, "free": one.free} for one in find_devices(engines)],
    }


def find(store: Store, path: Path, size: int, sha256: str) -> Path | None:
    """Return where a model file is on this machine: at the same path, on a shared disk, or in its own store.

    A file at the same path that no store has verified is read once, to be sure of its hash.
    """
    if _fits(store, path, size, sha256) and all(part.is_file() for part in part_paths(path)):
        return path
    same = (model.files[0] for model in store.models() if sha256 and model.files[0].sha256 == sha256)
    return next((file.path for file in same if file.size == size), None)


def fetch(store: Store, source: str, size: int, sha256: str, tell: Tell) -> Path:
    """Fetch a model from its source into this machine's store, unless it is there, and tell the progress.

    Raises `DownloadError`, also if it is not the same file.
    """
    download, over = Download(source), Event()

    def report() -> None:
        while not over.wait(PAUSE):
            status = download.status
            if status.total:
                tell({"share": min(1.0, status.done / status.total)})

    reporter = Thread(target=report, daemon=True)
    reporter.start()
    try:
        file = store.ensure(source, sha256 or None, download).files[0]
    finally:
        over.set()
        reporter.join()
    if file.size != size:
        raise WrongFile(
            f"{file.path} has {human_size(file.size)}, and the server's file {human_size(size)}: the source has another"
            " file by now; fetch it anew where the server runs, or name a revision",
        )
    tell({"share": 1.0})
    return file.path


def main(arguments: list[str]) -> None:
    """Answer one question."""
    output = os.dup(1)
    os.dup2(2, 1)  # what plugins print is no answer
    logging.disable(logging.INFO)

    def tell(value: Mapping[str, object]) -> None:
        os.write(output, json.dumps(value).encode() + b"\n")

    try:
        config = load_config()
        plugins = Plugins.discover(disable=config.disabled_plugins)
        if arguments == ["facts"]:
            tell(facts(config, plugins))
            return
        about, store = json.load(sys.stdin), open_store(config, plugins)
        size, sha256 = int(about["size"]), str(about["sha256"]).lower()
        if arguments == ["find"]:
            found = find(store, Path(about["path"]), size, sha256)
            tell({"path": None if found is None else str(found)})
        else:
            tell({"path": str(fetch(store, str(about["source"]), size, sha256, tell))})
    except LllmsError as error:
        tell({"error": error.message})


def _fits(store: Store, path: Path, size: int, sha256: str) -> bool:
    file = store.stored(path)
    if file is None or file.size != size:
        return False
    if not sha256 or file.sha256 == sha256:
        return True
    try:
        store.ensure(str(path), sha256)  # reads it
    except DownloadError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
