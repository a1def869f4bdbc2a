"""Parts of the store that others use at the same time, or own: other processes, other programs, administrators."""

import os
import threading
from pathlib import Path

import pytest
from stores_for_tests import TINY, Shelf, sha256
from waits_for_tests import GUARD

from lllms_core.builtin.downloaders.file import FileDownloader
from lllms_core.downloads import Part, RemoteFile
from lllms_core.errors import DownloadCancelled, InvalidSource, SourceUnavailable
from lllms_core.store import Download, Store

DATA = b"0123456789" * 1000


def test_parts_that_have_come_are_not_left_behind(tmp_path: Path) -> None:
    """While a model in parts is downloaded, its complete parts cannot be discarded: the rest still arrives."""
    refused: list[str] = []

    class Watched(Shelf):
        def fetch(self, file: RemoteFile, part: Part) -> None:
            others = Store(tmp_path, [])  # as in another process
            for left in others.leftovers():
                try:
                    others.discard(left.path)
                except DownloadCancelled:
                    refused.append(left.path.name)
            super().fetch(file, part)

    model = Store(tmp_path, [Watched(x=DATA, y=DATA)]).ensure("shelf:x+y")
    assert "x" in refused
    assert [file.path.read_bytes() for file in model.files] == [DATA, DATA]


def test_models_that_share_files_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Two models with the same files in another order, downloaded at once: each file comes once, and both models do."""
    shelf = Shelf(x=DATA, y=DATA)
    start = threading.Barrier(2)
    downloads = [Download("shelf:x+y"), Download("shelf:y+x")]

    def ensure(download: Download) -> None:
        start.wait(GUARD)
        Store(tmp_path, [shelf]).ensure(download.source, download=download)

    threads = [threading.Thread(target=ensure, args=(one,), daemon=True) for one in downloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert [one.status.state for one in downloads] == ["done", "done"]
    assert len(shelf.given) == 20


def test_a_file_that_changes_while_it_is_read_is_not_verified(tmp_path: Path) -> None:
    """A file that is written to while it is hashed is unverified, not verified as it was before."""
    file = tmp_path / "x.gguf"
    file.write_bytes(TINY.read_bytes())
    digest = sha256(file.read_bytes())
    kept = Store(tmp_path / "s", [FileDownloader()])

    class Meddling(Download):
        def checked(self, count: int) -> None:
            with file.open("r+b") as written:  # once everything was read
                written.seek(-1, os.SEEK_END)
                written.write(b"!")
            super().checked(count)

    with pytest.raises(SourceUnavailable, match="was changed while it was read"):
        kept.ensure(str(file), digest, Meddling(str(file)))
    assert kept.find(str(file), digest) is None


def test_use_is_noted_where_there_is_a_record(tmp_path: Path) -> None:
    """A model's use is noted in its record; without one none is created, and a read-only one stays."""
    kept = Store(tmp_path, [Shelf(x=DATA)])
    kept.ensure("shelf:x")
    record = kept.source_record("shelf:x")
    os.utime(record, (1, 1))
    kept.touch("shelf:x")
    found = kept.find("shelf:x")
    assert found is not None
    assert found.used > 1
    kept.touch("shelf:y")
    assert list(record.parent.iterdir()) == [record]


def test_use_of_what_others_own_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that this user may only read still serves."""
    kept = Store(tmp_path, [Shelf(x=DATA)])
    kept.ensure("shelf:x")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    opened = os.open

    def read(path: Path, flags: int, *mode: int) -> int:
        return refuse() if flags & (os.O_WRONLY | os.O_RDWR) else opened(path, flags, *mode)  # type: ignore[return-value]

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "open", read)
    kept.touch("shelf:x")
    assert kept.find("shelf:x") is not None


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x.gguf", "x\0.gguf"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    """A path that is impossible, on this machine or any, is a file that does not exist."""
    kept = Store(tmp_path, [])
    assert kept.find(name) is None
    with pytest.raises(InvalidSource, match="there is no file"):
        kept.ensure(name)
