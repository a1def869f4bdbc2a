"""The store's records: small JSON files, each replaced as a whole; an unreadable one counts as missing."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from lllms_core.downloads import shown
from lllms_core.machine import read_regular
from lllms_core.values.structure import structure
from lllms_core.values.violations import StructureError

T = TypeVar("T")


def key(text: str) -> str:
    """Return the file name for a text: part of its SHA-256."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def read_record(file: Path, into: type[T]) -> T | None:
    """Read a record; None if it is missing, broken, not a regular file, or from another version."""
    try:
        return structure(json.loads(read_regular(file)), into)
    except (OSError, ValueError, RecursionError, StructureError):
        return None


def read_records(folder: Path, into: type[T]) -> Iterator[tuple[Path, T]]:
    """Yield all readable records of a folder, sorted by file name."""
    for file in sorted(folder.glob("*.json")):
        record = read_record(file, into)
        if record is not None:
            yield file, record


def write_record(file: Path, record: Mapping[str, object]) -> None:
    """Write a record atomically: a reader sees either the old one or the new one.

    Only the owner can read one that holds a secret address.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{uuid4().hex}")
    secret = any(isinstance(value, str) and shown(value) != value for value in record.values())
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o666), "w") as written:  # noqa: PTH123  # Path.open has no mode for the new file
            json.dump(record, written)
            written.flush()
            # After a power failure, a model without its record would look like a leftover and be deleted.
            os.fsync(written.fileno())
        os.replace(fresh, file)  # noqa: PTH105  # clearer than Path.replace
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
