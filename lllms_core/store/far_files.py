"""A program that a placement runs on another machine: it finds or fetches model files there.

    echo '{"path": "/models/tiny.gguf", "size": 1000, "sha256": ""}' | python -m lllms_core.store.far_files find
    echo '{"source": "hf:org/repo", "size": 1000, "sha256": ""}' | python -m lllms_core.store.far_files fetch

It writes JSON objects, one a line: `share` while it fetches, and last `path` (null: not found), or an `error` for
people (`full`: the disk has no room), with `disk`, the free bytes where it fetches. The machine's own configuration
says where its store is: `LLLMS_MODELS_DIR`.
"""

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from threading import Event, Thread

from lllms_core.config import Config, load_config
from lllms_core.errors import DiskFull, DownloadError, LllmsError, WrongFile
from lllms_core.machine import die_with
from lllms_core.rendezvous import Tell, answers
from lllms_core.store.download import Download
from lllms_core.store.store import Store
from lllms_core.values.sizes import human_size

PAUSE = 0.5
"""Seconds between two reports of progress."""


def find(store: Store, path: Path, size: int, sha256: str) -> Path | None:
    """Return where a model file is on this machine: at the same path, on a shared disk, or in its own store.

    A file at the same path that no store has verified is read once, to be sure of its hash.
    """
    if _fits(store, path, size, sha256):
        return path
    same = (file for model in store.models() for file in model.files if sha256 and file.sha256 == sha256)
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


def room(config: Config) -> int | None:
    """Return the free bytes of the disk to which this machine fetches; None if unknown."""
    folder = config.server.models_dir.absolute()
    try:
        return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
    except OSError:
        return None


def main(question: str) -> None:
    """Answer one question."""
    die_with(os.getppid())  # nobody waits for the answer any more
    tell = answers()
    logging.disable(logging.INFO)
    config = None
    try:
        config = load_config()
        about = json.load(sys.stdin)
        size, sha256 = int(about["size"]), str(about["sha256"]).lower()
        if question == "find":
            found = find(Store(config.server.models_dir), Path(about["path"]), size, sha256)
            tell({"path": None if found is None else str(found), "disk": room(config)})
            return
        # Only to fetch are plugins needed, whose imports take a second.
        from lllms_core.plugins import Plugins
        from lllms_core.store.weights import open_store

        store = open_store(config, Plugins.discover(disable=config.disabled_plugins))
        tell({"path": str(fetch(store, str(about["source"]), size, sha256, tell)), "disk": room(config)})
    except LllmsError as error:
        disk = None if config is None else room(config)
        tell({"error": error.message, "full": isinstance(error, DiskFull), "disk": disk})


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
    main(sys.argv[1])
