"""The contract for authors of downloaders: sources of model files."""

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
"""Bytes of a file: from the first offset up to, but not including, the second."""


@frozen
class RemoteFile:
    """One file of a source, with the facts known before it is fetched."""

    name: str
    """Its name in the store, below `<models_dir>/models`; `store_name` makes a safe one."""
    url: str
    """The address from which its downloader fetches it."""
    size: int | None = None
    """Bytes; None until the server has sent it."""
    sha256: str | None = None
    """In hexadecimal; None if the server publishes none."""
    path: Path | None = None
    """Its path, if it is already on this machine: it is used in place, and never fetched, moved or deleted."""


@frozen
class RemoteModel:
    """The files that a source stands for."""

    files: Sequence[RemoteFile]
    """At least one; the engine loads the first (the first part of a split model)."""
    note: str = ""
    """The choice made and its reason, if the source left one; shown to users."""


@frozen
class SearchHit:
    """A model that a search has found, and the facts told without fetching it."""

    source: str
    size: int | None = None
    """About how many bytes its files have; None if unknown."""
    parameters: int | None = None
    context_length: int | None = None
    """Tokens that it was trained for."""
    licence: str = ""
    """Empty if unknown."""
    note: str = ""
    """What users should know before they fetch it."""


class Part(Protocol):
    """A partly downloaded file, which a downloader writes into. All methods are thread-safe."""

    @property
    def missing(self) -> Sequence[Span]:
        """The missing bytes, in order; one span that ends at `sys.maxsize` while the size is unknown."""

    @property
    def version(self) -> str | None:
        """The version of the bytes on the disk, as passed to `begin`."""

    @property
    def hash_known(self) -> bool:
        """Whether the finished file is checked against a hash: if not, only a version prevents mixing two files."""

    def begin(self, size: int | None, version: str | None, *, whole: bool = False) -> None:
        """Report the server's current size and version, before writing any bytes.

        The existing bytes are deleted if their size or version differs, if there is neither a version nor a known hash,
        or if the server sends the file as a `whole` again; read `missing` afterwards. Raises `DiskFull` if there is no
        room, and `WrongFile` if the size is not the one that the source promised.
        """

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes. Raises `DownloadCancelled` once the download is cancelled, `DiskFull`, `WrongFile`."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback`, from another thread, when the download is cancelled; at once if it already is."""


class Downloader(ABC):
    """Fetches files from one kind of place. Its methods block; each download calls them from its own thread."""

    name: ClassVar[str]
    schemes: ClassVar[frozenset[str]]
    """The prefixes of its sources, before the colon: `{"s3"}`. A scheme belongs to one downloader only."""
    local: ClassVar[bool] = False
    """Whether its sources are names for files of this machine: they are used like paths, wherever they point now, and
    may stand for one in `file`."""

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts whose `https://` and `http://` addresses it handles, instead of the downloader of web addresses."""
        return frozenset()

    def canonical(self, source: str) -> str:
        """Return the canonical form of a source that can be written in several ways, without the network.

        Sources with the same canonical form are the same model. Raises `InvalidSource` for a malformed source.
        """
        return source

    def file_name(self, source: str) -> str:
        """Return the name of the file that an engine loads, as far as the source tells; empty if it does not.

        Its ending selects the engine, the rest names the model.
        """
        return PurePosixPath(unquote(shown(source).partition(":")[2].partition("?")[0])).name

    def find(self, source: str) -> RemoteModel | None:  # noqa: ARG002  # the base has no files
        """Return the source's local files without using the network; None if there are none.

        Raises `Offline` if only some are local. Called in offline mode, and when `resolve` cannot reach its host.
        """
        return None

    def search(self, words: str, most: int) -> Sequence[SearchHit]:  # noqa: ARG002  # the base searches nothing
        """Return at most this many models of its place that fit these words, the most popular first.

        Uses the network, for a few seconds at most. Raises `SourceUnavailable`.
        """
        return ()

    @abstractmethod
    def resolve(self, source: str) -> RemoteModel:
        """Return the files that a source stands for; may use the network.

        Raises `InvalidSource` for a malformed source, `SourceUnavailable` if its place cannot be reached now.
        """

    @abstractmethod
    def fetch(self, file: RemoteFile, part: Part) -> None:
        """Fetch the missing bytes of a file. Returns when all are written.

        The store checks size, hash and header; if this raises, it keeps the bytes written for the next time.
        Raises `SourceUnavailable` when it gives up, and whatever `part` raises.
        """


def scheme(source: str) -> str:
    """Return the scheme of a source, in lower case; empty for a plain path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", source)  # at least two letters: C:\models is a path
    return match[1].lower() if match else ""


def choose_downloader(source: str, downloaders: Iterable[Downloader]) -> Downloader | None:
    """Return the downloader for a source; None for a plain path. Raises `InvalidSource` if none supports it."""
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
    """Return the canonical form of a source (`Downloader.canonical`). Raises `InvalidSource`."""
    downloader = choose_downloader(source, downloaders)
    return source if downloader is None else downloader.canonical(source)


def shown(source: str) -> str:
    """Return a source that is safe to show: a web address without user name, password and query."""
    start, colon, rest = source.partition("://")
    if not colon:
        return source
    place, question, _ = rest.partition("?")
    host, slash, path = place.partition("/")
    return f"{start}://{host.rpartition('@')[2]}{slash}{path}{'?...' if question else ''}"


def store_name(*parts: str) -> str:
    """Return the name in the store for a file that its place calls `parts`: a path below `<models_dir>/models`.

    Whatever the parts hold, the name is never outside the store, hidden, or one that the store uses itself; different
    parts give different names. The ending of the last part is kept. Raises `ValueError` without parts.
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
