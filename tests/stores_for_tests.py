"""A downloader that reads from a dictionary, for tests of the store."""

import hashlib
from pathlib import Path

from lllms_core.downloads import Downloader, Part, RemoteFile, RemoteModel, store_name
from lllms_core.errors import InvalidSource, SourceUnavailable

TINY = Path(__file__).parent.parent / "plugins/lllms-llamacpp/lllms_llamacpp/models/tiny-chat.gguf"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Shelf(Downloader):
    """`shelf:a+b` is a model of the files a and b; delivers them in small blocks, and gives up at byte `stops_at`."""

    name = "shelf"
    schemes = frozenset({"shelf"})

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.hashes: dict[str, str] = {}
        self.version: str | None = "1"
        self.stops_at: int | None = None
        self.reachable = True
        self.given: list[tuple[str, int, int]] = []
        """All fetches: file, start, stop."""

    def resolve(self, source: str) -> RemoteModel:
        if not self.reachable:
            raise SourceUnavailable("the shelf is out of reach", 1)
        names = source.removeprefix("shelf:").split("+")
        if not set(names) <= self.files.keys():
            raise InvalidSource(f"{source} is not on the shelf")
        return RemoteModel([
            RemoteFile(store_name("shelf", name), name, len(self.files[name]), self.hashes.get(name)) for name in names
        ])

    def fetch(self, file: RemoteFile, part: Part) -> None:
        data = self.files[file.url]
        part.begin(len(data), self.version)
        for start, stop in part.missing:
            for at in range(start, stop, 1000):
                end = min(at + 1000, stop)
                if self.stops_at is not None and end > self.stops_at:
                    raise SourceUnavailable("the shelf fell over", 1)
                part.write(at, data[at:end])
                self.given.append((file.url, at, end))
