"""A hub like Hugging Face's, on loopback: lists repositories and serves their files by redirect, like the real one."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from servers_for_tests import Answer, Handler, Site, served

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubHandler(Handler):
    def answer(self, path: str) -> Answer:
        if path == "/api/models":
            return self.search(parse_qs(urlsplit(self.path).query))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        if listing:
            return self.list(*listing.groups())
        wanted = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if wanted:
            name = f"/{wanted[1]}/{wanted[2]}"
            return Answer(302, {"Location": f"/cdn{name}", "Content-Length": "0"}, b"")
        return super().answer(path.removeprefix("/cdn"))

    def search(self, asked: dict[str, list[str]]) -> Answer:
        """Repositories whose names have the words, as the hub tells them; all have 1,000 million parameters."""
        names = sorted({"/".join(path.split("/")[1:3]) for path in self.site.files})
        words = asked["search"][0].casefold().split()
        fitting = [name for name in names if all(word in name.casefold() for word in words)]
        answer = [
            {
                "id": name, "downloads": 7, "gated": "manual" if "gated" in name else False,
                "tags": ["gguf", "license:apache-2.0"],
                "siblings": [
                    {"rfilename": path.removeprefix(f"/{name}/")} for path in self.site.files
                    if path.startswith(f"/{name}/")
                ],
                "gguf": {"total": 1_000_000_000, "architecture": "llama", "context_length": 4096},
            }
            for name in fitting[: int(asked["limit"][0])]
        ]
        body = json.dumps(answer).encode()
        return Answer(200, {"Content-Length": str(len(body)), "Content-Type": "application/json"}, body)

    def list(self, repository: str, revision: str | None) -> Answer:
        # Files with "-plain" in their names are stored by Git itself, without a SHA-256.
        there = {path: data for path, data in self.site.files.items() if path.startswith(f"/{repository}/")}
        if not there:
            return Answer(404, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"}, b"")
        if revision not in (None, "main", "v2", COMMIT):
            return Answer(404, {"X-Error-Code": "RevisionNotFound", "Content-Length": "0"}, b"")
        siblings = [
            {
                "rfilename": path.removeprefix(f"/{repository}/"), "size": len(data), "blobId": git_hash(data),
                **({} if "-plain" in path else {
                    "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130},
                }),
            }
            for path, data in there.items()
        ]
        body = json.dumps({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}).encode()
        return Answer(200, {"Content-Length": str(len(body)), "Content-Type": "application/json"}, body)


@contextlib.contextmanager
def hub(files: dict[str, bytes]) -> Iterator[Site]:
    """Serve repositories: `/org/repo/file` -> content."""
    with served(files, HubHandler) as site:
        yield site


def fill_cache(cache: Path, repository: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
    """Lay out files as Hugging Face's library caches them."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name, data in files.items():
        blob = folder / "blobs" / (git_hash(data) if "-plain" in name else hashlib.sha256(data).hexdigest())
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
