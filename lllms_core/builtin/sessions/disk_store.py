"""Sessions in a folder, one file each: they outlive the server, and several servers may share them.

A file starts with a line of JSON that describes the session, with a checksum of the data that follow. It is written
under another name and then renamed, so that readers see all of it or nothing. The files themselves are the only index;
their heads are cached once read.

A file that has a session's name but is not one, or cannot be read, is skipped and logged once: neither a damaged file
nor a pipe or a folder in its place may disable or block the store.
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
from lllms_core.machine import at_home, open_regular
from lllms_core.sessions import BLOCK, SessionEntry, SessionStore, TokenChain, longest_prefix
from lllms_core.values.structure import structure
from lllms_core.values.violations import StructureError

LOG = logging.getLogger("lllms.sessions")

SUFFIX, PART = ".v1.session", ".part"
"""The version of the file format; files of other versions are left alone."""
DOCUMENTS = "documents"
LONGEST_HEAD = 1 << 20
MOST_TOKENS = 1 << 31
OTHERS = 0o077
"""The bits of a folder's mode for users other than its owner."""
STALE_SECONDS = 3600.0
"""A part without a write for this long belongs to a server that is gone."""


@frozen
class DiskOptions:
    """`[sessions.options]` of the store `disk`."""

    folder: Path = field(factory=lambda: at_home("~/.cache/lllms/sessions"))
    """The folder of the sessions; created if it is missing, and readable only by its owner."""


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
        """Unreadable files that have been logged."""
        self._lasting: set[str] = set()
        """Files that could not be removed and no longer count as sessions."""

    @property
    def documents_folder(self) -> Path:
        """A folder inside that of the sessions."""
        return self._folder / DOCUMENTS

    def open(self, options: object) -> None:
        """Create the folder, and remove the parts left by servers that were killed while they wrote."""
        assert isinstance(options, DiskOptions)  # noqa: S101  # the configuration was parsed into it
        self._folder = at_home(options.folder).absolute()
        try:
            self._make_folder()
            if self._folder.stat().st_mode & OTHERS:
                if any(not _is_ours(file.name) for file in self._folder.iterdir()):
                    raise ConfigError(
                        f"sessions.options.folder: {self._folder} holds other files, and other users may access it; "
                        "name a folder only for sessions",
                    )
                self._folder.chmod(0o700)  # the files reveal the conversations
            for part in self._folder.glob(f"*{PART}"):
                with suppress(OSError):  # it belongs to another server, or is gone
                    if time() - part.stat().st_mtime > STALE_SECONDS:
                        part.unlink()
        except OSError as error:
            raise ConfigError(
                f"sessions.options.folder: {self._folder} cannot hold sessions: {error.strerror}; name another folder",
            ) from error

    def put(self, entry: SessionEntry, data: bytes) -> None:
        """Write a file. Raises `OSError`, and leaves nothing behind, if there is no room."""
        head = asdict(_Head(entry, _checksum(data)))
        self._make_folder()  # the whole folder may have been deleted
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
        """Read and check a file; a damaged one is removed."""
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
        with suppress(OSError):  # if the use cannot be recorded, the data are still good
            os.utime(path)
        known = self._known.get(session_id)
        if known is not None:
            self._known[session_id] = evolve(known, used=time())
        return data

    def delete(self, session_id: str) -> bool:
        """Remove a file; one that cannot be removed no longer counts as a session."""
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
        """Return the sessions in the folder; only the heads of new files are read."""
        return list(self._entries())

    def find(self, space: str, prompt: TokenChain, *, whole: bool) -> SessionEntry | None:
        """Return the session that shares most with a prompt; among equals, the one that this server used last."""
        best = longest_prefix(self._entries(dated=False), space, prompt, whole=whole)
        if best is not None:
            with suppress(OSError):  # it is gone, which `get` will tell
                return evolve(best, used=self._path(best.id).stat().st_mtime)
        return best

    def _entries(self, *, dated: bool = True) -> Iterator[SessionEntry]:
        """Yield the sessions; `dated` ones with their last use by any server, which takes a look at each file."""
        there = set()
        for file in self._files():
            session_id = file.name.removesuffix(SUFFIX)
            there.add(session_id)
            if session_id in self._lasting:
                continue
            with suppress(OSError):  # it is gone, or was replaced by something else
                entry = self._known.get(session_id) or self._look(session_id)
                if entry is not None:
                    yield evolve(entry, used=file.stat().st_mtime) if dated else entry
        for session_id in self._known.keys() - there:
            self._known.pop(session_id, None)
        self._foreign &= there
        self._lasting &= there

    def _files(self) -> Sequence["os.DirEntry[str]"]:
        """Return the files of the sessions."""
        try:
            with os.scandir(self._folder) as files:
                return [one for one in files if one.name.endswith(SUFFIX)]
        except FileNotFoundError:
            return []  # the whole folder has been deleted

    def _look(self, session_id: str) -> SessionEntry | None:
        """Read the head of a file; None if it is damaged or may not be read."""
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
            LOG.warning("%s is not a readable session, and is removed", path)
            self.delete(session_id)
            return None
        self._known[session_id] = head.entry
        return head.entry

    def _tell(self, session_id: str, trouble: str) -> None:
        """Log the trouble with a file, once."""
        if session_id not in self._foreign:
            self._foreign.add(session_id)
            LOG.warning("%s %s", self._path(session_id), trouble)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, session_id: str) -> Path:
        return self._folder / f"{session_id}{SUFFIX}"


def _is_ours(name: str) -> bool:
    return name == DOCUMENTS or name.endswith((SUFFIX, PART))


def _read_head(file: BinaryIO) -> _Head | None:
    """Read the head of a file; None if no server has written it."""
    line = file.readline(LONGEST_HEAD)
    try:
        head = structure(json.loads(line), _Head)
        entry = head.entry
        "".join([entry.id, entry.model, entry.space, entry.digest, *entry.chain]).encode()  # all of it is valid Unicode
    except (ValueError, RecursionError, StructureError):
        return None
    sane = 0 <= entry.tokens <= MOST_TOKENS and len(entry.chain) == entry.tokens // BLOCK
    # The limits of the store apply to the bytes on disk, not to those that a file claims.
    there = os.fstat(file.fileno()).st_size - len(line)
    return evolve(head, entry=evolve(entry, size=there)) if sane and re.fullmatch(r"[\w-]+", entry.id) else None


def _checksum(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
