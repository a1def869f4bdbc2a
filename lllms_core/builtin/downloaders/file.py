"""Files of this machine by their URL, used in place."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lllms_core.downloads import Downloader, Part, RemoteFile, RemoteModel
from lllms_core.errors import InvalidSource
from lllms_core.machine import at_home


class FileDownloader(Downloader):
    """`file:///models/phi3.gguf`, `file:~/phi3.gguf`."""

    name = "file"
    schemes = frozenset({"file"})
    local = True

    def find(self, source: str) -> RemoteModel | None:
        """Return the file; None if there is none."""
        path = _path(source)
        return RemoteModel([RemoteFile(path.name, source, path.stat().st_size, path=path)]) if path.is_file() else None

    def resolve(self, source: str) -> RemoteModel:
        """Return the file. Raises `InvalidSource` if there is none."""
        found = self.find(source)
        if found is None:
            raise InvalidSource(f"{source}: there is no file {_path(source)}")
        return found

    def fetch(self, file: RemoteFile, part: Part) -> None:  # noqa: ARG002  # a local file is never fetched
        """Never called: the file is already here."""
        raise InvalidSource(f"{file.url} is already on this machine")


def _path(source: str) -> Path:
    parts = urlsplit(source)
    if parts.netloc not in {"", "localhost"}:
        raise InvalidSource(f"{source} is on another machine, '{parts.netloc}'; file: is only for this one")
    path = at_home(unquote(parts.path))
    if not path.is_absolute():
        raise InvalidSource(f"{source} does not start at / or ~; write file:///..., or a plain path")
    return path
