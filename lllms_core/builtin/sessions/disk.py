"""Sessions in a folder, a file for each: they outlive the server, and several servers may share them.

A file begins with a line of JSON that tells of the session, with a checksum of what follows: the data. It is written
under another name and then renamed, so that whoever looks sees all of it or nothing. There is no other index than the
files themselves; what was read of them is remembered.

What is called like a session and is none, or cannot be read, is skipped and told once: neither a spoilt file nor a pipe
or a folder in its place may disable the store, or hold it up.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from time import time
from typing import BinaryIO

from attrs import asdict, evolve, field, frozen

from lllms_core.errors import ConfigError
from lllms_core.faults import StructureError
from lllms_core.machine import at_home, open_regular
from lllms_core.sessions import BLOCK, SessionEntry, SessionStore
from lllms_core.structure import structure

LOG = logging.getLogger("lllms.sessions")

SUFFIX, PART = ".v1.session", ".part"
"""The version is that of the files: those of another one are left alone."""
LONGEST_HEAD = 1 << 20
MOST_TOKENS = 1 << 31
OTHERS = 0o077
"""What people other than the owner may do, in the mode of a folder."""
STALE_SECONDS = 3600.0
"""A part that nobody has written to for so long is of a server that is no more."""


@frozen
class DiskOptions:
    """`[sessions.options]` of the store `disk`."""

    folder: Path = field(factory=lambda: at_home("~/.cache/lllms/sessions"))
    """Where the sessions are; made if it is missing, and readable by its owner alone."""


@frozen
class _Head:
    """The first line of a file."""

    entry: SessionEntry
    checksum: str
    """Of the data."""


class DiskStore(SessionStore):
    """Keeps sessions in one folder."""

    name = "disk"
    Options = DiskOptions

    def __init__(self) -> None:
        self._folder = Path()
        self._known: dict[str, SessionEntry] = {}
        self._foreign: set[str] = set()
        """What cannot be read, and was told."""
        self._lasting: set[str] = set()
        """What cannot be removed, and is no session any more."""

    def open(self, options: object) -> None:
        """Make the folder, and remove what servers have left that were killed while they wrote."""
        assert isinstance(options, DiskOptions)  # noqa: S101  # the configuration was read into it
        self._folder = at_home(options.folder).absolute()
        try:
            self._make_folder()
            if self._folder.stat().st_mode & OTHERS:
                if any(not file.name.endswith((SUFFIX, PART)) for file in self._folder.iterdir()):
                    raise ConfigError(
                        f"sessions.options.folder: {self._folder} holds other things, and others than its owner may "
                        "use it; name a folder for the sessions alone",
                    )
                self._folder.chmod(0o700)  # who can read the files can read the conversations
            for part in self._folder.glob(f"*{PART}"):
                with suppress(OSError):  # others' business, or gone
                    if time() - part.stat().st_mtime > STALE_SECONDS:
                        part.unlink()
        except OSError as error:
            raise ConfigError(
                f"sessions.options.folder: {self._folder} cannot hold sessions: {error.strerror}; name another folder",
            ) from error

    def put(self, entry: SessionEntry, data: bytes) -> None:
        """Write a file. Raises `OSError`, and leaves nothing, if there is no room."""
        head = asdict(_Head(entry, _checksum(data)))
        self._make_folder()  # somebody may have deleted all sessions at once
        part = self._folder / f"{entry.id}-{token_hex(4)}{PART}"
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123  # Path.open has no mode for the new file
                file.write(json.dumps(head).encode() + b"\n")
                file.write(data)
            part.replace(self._path(entry.id))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._known[entry.id] = entry

    def get(self, session_id: str) -> bytes | None:
        """Read a file, and check it; one that is damaged is removed."""
        path = self._path(session_id)
        try:
            with open_regular(path) as file:
                head = _read_head(file)
                data = b"" if head is None else file.read()
            if head is None or _checksum(data) != head.checksum:
                LOG.warning("the stored session %s is damaged, and was removed", path)
                self.delete(session_id)
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            self._known.pop(session_id, None)
            self._tell(session_id, f"cannot be read: {error.strerror}")
            return None
        with suppress(OSError):  # where that cannot be noted, the data is good all the same
            os.utime(path)
        return data

    def delete(self, session_id: str) -> bool:
        """Remove a file; one that cannot be removed is no session any more."""
        self._known.pop(session_id, None)
        try:
            self._path(session_id).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._lasting.add(session_id)
            self._tell(session_id, f"cannot be removed, and is left alone: {error.strerror}")
            return False
        return True

    def list(self) -> Sequence[SessionEntry]:
        """Look into the folder, and into the files that were not seen before."""
        return list(self._entries())

    def _entries(self) -> Iterator[SessionEntry]:
        there = set()
        for file in self._files():
            session_id = file.name.removesuffix(SUFFIX)
            there.add(session_id)
            if session_id in self._lasting:
                continue
            with suppress(OSError):  # it is gone, or was changed for something else
                entry = self._known.get(session_id) or self._look(session_id)
                if entry is not None:
                    yield evolve(entry, used=file.stat().st_mtime)
        for session_id in self._known.keys() - there:
            self._known.pop(session_id, None)

    def _files(self) -> Sequence["os.DirEntry[str]"]:
        """The files of the sessions."""
        try:
            with os.scandir(self._folder) as files:
                return [one for one in files if one.name.endswith(SUFFIX)]
        except FileNotFoundError:
            return []  # somebody has deleted all of them at once

    def _look(self, session_id: str) -> SessionEntry | None:
        """Read what a file tells of its session; None for one that is damaged, or not ours to read."""
        path = self._path(session_id)
        try:
            with open_regular(path) as file:
                head = _read_head(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(session_id, f"cannot be read: {error.strerror}")
            return None
        if head is None or head.entry.id != session_id:
            LOG.warning("%s is no session that can be read, and is removed", path)
            self.delete(session_id)
            return None
        self._known[session_id] = head.entry
        return head.entry

    def _tell(self, session_id: str, trouble: str) -> None:
        """Tell of a file once."""
        if session_id not in self._foreign:
            self._foreign.add(session_id)
            LOG.warning("%s %s", self._path(session_id), trouble)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, session_id: str) -> Path:
        return self._folder / f"{session_id}{SUFFIX}"


def _read_head(file: BinaryIO) -> _Head | None:
    """Read what a file tells of its session; None for what no server has written."""
    line = file.readline(LONGEST_HEAD)
    try:
        head = structure(json.loads(line), _Head)
        entry = head.entry
        "".join([entry.id, entry.model, entry.space, entry.digest, *entry.chain]).encode()  # all of it can be told
    except (ValueError, RecursionError, StructureError):
        return None
    sane = 0 <= entry.tokens <= MOST_TOKENS and len(entry.chain) == entry.tokens // BLOCK
    # The limits of the store are about the bytes that are there, not about those that a file claims.
    there = os.fstat(file.fileno()).st_size - len(line)
    return evolve(head, entry=evolve(entry, size=there)) if sane and re.fullmatch(r"[\w-]+", entry.id) else None


def _checksum(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
