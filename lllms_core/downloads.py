"""What the author of a downloader implements: where model files come from."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol
from urllib.parse import quote, unquote, urlsplit

from attrs import frozen

from lllms_core.errors import InvalidSource

_SAFE = "+=@,~()-._ "
_LONGEST_PART = 150
_LONGEST_NAME = 400

Span = tuple[int, int]
"""Bytes of a file: from the first number up to, and without, the second."""


@frozen
class RemoteFile:
    """One file of a source, as far as it is known before it is fetched."""

    name: str
    """Where the store keeps it, below `<models_dir>/models`: `store_name` makes one that is safe."""
    url: str
    """What its downloader needs to fetch it."""
    size: int | None = None
    """Bytes; None until the server has said so."""
    sha256: str | None = None
    """In hexadecimal; None if its server publishes none."""
    path: Path | None = None
    """Where it lies on this machine already: it is used in place, and never fetched, moved or deleted."""


@frozen
class RemoteModel:
    """What a source stands for."""

    files: Sequence[RemoteFile]
    """At least one; the first is what the engine loads (of a model in parts, the first part)."""
    note: str = ""
    """What was chosen and why, if the source left a choice; shown to people."""


class Part(Protocol):
    """A file on its way to the disk; a downloader writes into it. Every method may be called from any thread."""

    @property
    def missing(self) -> Sequence[Span]:
        """What is not there yet, in order; one span that ends at `sys.maxsize` while the size is not known."""

    @property
    def version(self) -> str | None:
        """The version that the bytes which are there belong to, as `begin` was told it."""

    @property
    def hash_known(self) -> bool:
        """Whether a hash is checked in the end: if not, only a version keeps bytes of two files from being mixed."""

    def begin(self, size: int | None, version: str | None, *, whole: bool = False) -> None:
        """Tell what the server says now, before anything of it is written.

        What is there is thrown away if its size or version is another one, if there is neither a version nor a known
        hash, or if the server sends the file as a `whole` again; look at `missing` afterwards. Raises `DiskFull` if
        there is no room, and `WrongFile` if the size is not what the source promised.
        """

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes. Raises `DownloadCancelled` if nobody wants the file any more, `DiskFull`, `WrongFile`."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from another thread, when the download is cancelled; at once if it is already."""


class Downloader(ABC):
    """Fetches files from one kind of place. Its methods block; each download calls them from a thread of its own."""

    name: ClassVar[str]
    schemes: ClassVar[frozenset[str]]
    """What its sources begin with, before the colon: `{"s3"}`. One scheme belongs to one downloader."""

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts whose `https://` and `http://` addresses it takes, before the downloader of web addresses is asked."""
        return frozenset()

    def canonical(self, source: str) -> str:
        """Return the one way to write a source that can be written in several, without the network.

        Sources with the same one are the same model. Raises `InvalidSource` for a source that makes no sense.
        """
        return source

    def file_name(self, source: str) -> str:
        """Return what the file that an engine loads is called, as far as the source tells; empty if it does not.

        Its ending chooses the engine, the rest names the model.
        """
        return PurePosixPath(unquote(shown(source).partition(":")[2].partition("?")[0])).name

    def find(self, source: str) -> RemoteModel | None:  # noqa: ARG002  # the base knows no such place
        """Say which files on this machine the source stands for, without the network; None if there are none.

        Asked in offline mode, and when `resolve` cannot reach its place.
        """
        return None

    @abstractmethod
    def resolve(self, source: str) -> RemoteModel:
        """Say which files a source stands for; may ask the network.

        Raises `InvalidSource` for a source that makes no sense, `SourceUnavailable` for what cannot be reached now.
        """

    @abstractmethod
    def fetch(self, file: RemoteFile, part: Part) -> None:
        """Write what is missing of a file. Returns when all of it is written.

        The store checks size, hash and header, and keeps what was written for the next time if this raises.
        Raises `SourceUnavailable` when it gives up, and whatever `part` raises.
        """


def scheme(source: str) -> str:
    """Return what stands before the first colon of a source, in lower case; empty for a plain path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", source)  # at least two letters: C:\models is a path
    return match[1].lower() if match else ""


def choose_downloader(source: str, downloaders: Iterable[Downloader]) -> Downloader | None:
    """Return the downloader for a source; None for a plain path. Raises `InvalidSource` if there is none for it."""
    name = scheme(source)
    if not name:
        return None
    there_are = list(downloaders)
    if name in {"http", "https"}:
        try:
            host = urlsplit(source).netloc.rpartition("@")[2].lower()
        except ValueError as error:
            raise InvalidSource(f"{shown(source)} is not a web address: {error}") from error
        for one in there_are:
            if host in one.hosts:
                return one
    for one in there_are:
        if name in one.schemes:
            return one
    known = ", ".join(sorted({f"{name}:" for one in there_are for name in one.schemes})) or "none"
    raise InvalidSource(f"no downloader for '{name}:' of {shown(source)} (there are: {known})")


def canonical(source: str, downloaders: Iterable[Downloader]) -> str:
    """Return the one way to write a source (`Downloader.canonical`). Raises `InvalidSource`."""
    downloader = choose_downloader(source, downloaders)
    return source if downloader is None else downloader.canonical(source)


def shown(source: str) -> str:
    """Return a source as it may be shown to anybody: without the name, the password and the query of a web address."""
    start, colon, rest = source.partition("://")
    if not colon:
        return source
    place, question, _ = rest.partition("?")
    host, slash, path = place.partition("/")
    return f"{start}://{host.rpartition('@')[2]}{slash}{path}{'?...' if question else ''}"


def store_name(*parts: str) -> str:
    """Return a name in the store for a file that its place calls `parts`, as a path below `<models_dir>/models`.

    Whatever the parts hold, the name leads to nothing outside, to nothing hidden and to nothing that the store uses
    itself; different parts give different names. The ending of the last part stays. Raises `ValueError` without parts.
    """
    if not parts:
        raise ValueError("a name in the store needs at least one part")
    name = "/".join(map(_safe_part, parts))
    if len(name) > _LONGEST_NAME:
        name = f"{_safe_part(parts[0])}/{_digest(name)}{_ending(parts[-1])}"
    return name


def _safe_part(part: str) -> str:
    safe = quote(part, safe=_SAFE, errors="surrogatepass").replace(".lllms-", "%2Elllms-") or "%"
    if safe[0] in ".~- ":
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if safe[-1] in ". ":
        safe = f"{safe[:-1]}%{ord(safe[-1]):02X}"
    return safe if len(safe) <= _LONGEST_PART else f"{safe[:60]}-{_digest(part)}{_ending(part)}"


def _ending(part: str) -> str:
    match = re.search(r"(-\d{5}-of-\d{5})?\.[A-Za-z0-9]{1,10}$", part)
    return match[0] if match else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
