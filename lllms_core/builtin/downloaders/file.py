"""Files of this machine by their URL, used in place."""

from urllib.parse import unquote, urlsplit

from lllms_core.downloads import Downloader, Part, RemoteFile, RemoteModel
from lllms_core.errors import InvalidSource
from lllms_core.machine import at_home


class FileDownloader(Downloader):
    """`file:///models/phi3.gguf`, `file:~/phi3.gguf`."""

    name = "file"
    schemes = frozenset({"file"})

    def find(self, source: str) -> RemoteModel:
        """Return the file."""
        return self.resolve(source)

    def resolve(self, source: str) -> RemoteModel:
        """Return the file. Raises `InvalidSource` if there is none."""
        parts = urlsplit(source)
        if parts.netloc not in {"", "localhost"}:
            raise InvalidSource(f"{source} is on another machine, '{parts.netloc}'; file: is only for this one")
        path = at_home(unquote(parts.path))
        if not path.is_absolute():
            raise InvalidSource(f"{source} does not start at / or ~; write file:///..., or a plain path")
        if not path.is_file():
            raise InvalidSource(f"{source}: there is no file {path}")
        return RemoteModel([RemoteFile(path.name, source, path.stat().st_size, path=path)])

    def fetch(self, file: RemoteFile, part: Part) -> None:  # noqa: ARG002  # a local file is never fetched
        """Never called: the file is already here."""
        raise InvalidSource(f"{file.url} is already on this machine")
