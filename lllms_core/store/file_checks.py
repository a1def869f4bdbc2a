"""Checks of a file's content, and the errors for a file or disk that fails them."""

import errno
from pathlib import Path

from lllms_core.errors import ChecksumMismatch, DiskFull, DownloadError, SourceUnavailable, WrongFile
from lllms_core.gguf import GGUFError, read_gguf

MAGIC = b"GGUF"


def check_beginning(name: str, data: bytes, what: str) -> None:
    """Refuse anything that cannot be a model at its first bytes, not after 40 GB. Raises `WrongFile`."""
    start = data[:512].lstrip().lower()
    page = start.startswith((b"<!doctype html", b"<html", b"<?xml"))
    gguf = name.lower().endswith(".gguf")
    if page or (gguf and not MAGIC.startswith(data[:4]) and data[:4] != MAGIC):
        kind = "a web page" if page else "a file that is not GGUF"
        raise WrongFile(
            f"{what} gives {kind}, not a model: is the address right (it must be the one of the file itself), and does"
            " it need a login?",
        )


def disk_fault(path: Path, error: OSError) -> DownloadError:
    """Return the error to raise for a failed disk operation."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SourceUnavailable(f"{path} cannot be read or written: {error.strerror or error}")
    return DiskFull(
        f"the disk is full: {path} cannot grow; delete something (lllms rm, lllms gc), or set server.models_dir to"
        " another disk; the bytes received are kept",
    )


def check_hash(what: str, found: str, expected: str | None) -> None:
    """Raise `ChecksumMismatch` if a hash is not the expected one."""
    if expected is not None and found != expected.lower():
        raise ChecksumMismatch(
            f"{what} has the SHA-256 {found}, but {expected.lower()} was expected: the file is broken or a different"
            " one; try again, or change sha256 if a different file is intended",
        )


def check_header(file: Path, name: str, what: str) -> None:
    """Raise `WrongFile` for a file that starts like GGUF, or will be named so, but is not a complete GGUF file."""
    with file.open("rb") as start:
        gguf = start.read(len(MAGIC)) == MAGIC
    if not gguf and not name.lower().endswith(".gguf"):
        return
    try:
        read_gguf(file)
    except GGUFError as error:
        reason = error.message.removeprefix(f"'{file}' ")
        raise WrongFile(f"{what} is not a usable model: the file {reason}") from error
