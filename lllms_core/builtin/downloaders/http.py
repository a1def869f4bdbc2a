"""Model files by their web address."""

import hashlib
from urllib.parse import unquote, urlsplit, urlunsplit

from attrs import frozen

from lllms_core.builtin.downloaders.retry_policy import RETRY_POLICY, RetryPolicy
from lllms_core.downloads import Downloader, Part, RemoteFile, RemoteModel, shown, store_name
from lllms_core.errors import InvalidSource
from lllms_core.gguf import part_names


@frozen
class HttpDownloader(Downloader):
    """`https://example.org/models/phi3.gguf`, `http://...`; proxies come from the environment (`HTTPS_PROXY` ...)."""

    name = "http"
    schemes = frozenset({"http", "https"})

    policy: RetryPolicy = RETRY_POLICY

    def find(self, source: str) -> RemoteModel:
        """Return the files: their names need no network."""
        return self.resolve(source)

    def resolve(self, source: str) -> RemoteModel:
        """Return the file, or all parts of a split GGUF file. Raises `InvalidSource` for an invalid address."""
        try:
            parts = urlsplit(source)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise InvalidSource(f"{shown(source)} is not a web address: {error}") from error
        if not host or any(ord(character) <= 32 for character in source):
            raise InvalidSource(f"{shown(source)} is not a web address like https://example.org/model.gguf")
        *folders, file = parts.path.split("/")[1:] or [""]
        if not file:
            raise InvalidSource(f"{shown(source)} names no file: it ends with a host or a folder")
        place = host if port in (None, 443 if parts.scheme.lower() == "https" else 80) else f"{host}:{port}"
        where = [place, *map(unquote, folders)]
        files = []
        for name in part_names(file):
            path = "/".join(["", *folders, name])
            url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
            files.append(RemoteFile(store_name(*where, _with_query(unquote(name), parts.query)), url))
        return RemoteModel(files)

    def fetch(self, file: RemoteFile, part: Part) -> None:
        """Fetch a file."""
        from lllms_core.builtin.downloaders.transfer import fetch

        fetch(file.url, part, policy=self.policy)


def _with_query(name: str, query: str) -> str:
    """Return a name that differs for every query, because the query may select the file."""
    if not query:
        return name
    stem, dot, ending = name.rpartition(".")
    mark = hashlib.sha256(query.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{stem}-{mark}.{ending}" if dot else f"{name}-{mark}"
