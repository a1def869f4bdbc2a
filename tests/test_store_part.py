"""What a partial file claims to contain, when its server changes its mind at the worst of times."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lllms_core.downloads import RemoteFile
from lllms_core.store import Download
from lllms_core.store.part import NOTE, PartialFile


@pytest.fixture
def part(tmp_path: Path) -> Iterator[PartialFile]:
    """A file of which 600 of 1000 bytes are there."""
    made = PartialFile(tmp_path / "x.bin", RemoteFile("x.bin", "u"), None, Download("u"))
    made.begin(1000, "1")
    made.write(0, b"a" * 600)
    yield made
    made.close()


def test_a_note_is_about_the_bytes_that_are_there(
    part: PartialFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the file starts anew while a note on earlier bytes waits for the disk, that note is never written."""
    sync = part._sync

    def start_anew() -> None:
        sync()
        part.begin(1000, "2")

    monkeypatch.setattr(part, "_sync", start_anew)
    part.note()
    assert not (tmp_path / f"x.bin{NOTE}").exists()
    assert list(part.missing) == [(0, 1000)]


def test_bytes_are_on_the_disk_before_the_note_tells_of_them(
    part: PartialFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A note is not written before the bytes that it describes are safely on disk."""
    noted: list[bool] = []
    monkeypatch.setattr(part, "_sync", lambda: noted.append((tmp_path / f"x.bin{NOTE}").exists()))
    part.note()
    assert noted == [False]
    assert (tmp_path / f"x.bin{NOTE}").exists()


@pytest.mark.parametrize(("size", "version", "left"), [
    (1000, "1", 400), (1001, "1", 1001), (1000, "2", 1000), (1000, None, 1000), (None, "1", 400),
])
def test_what_is_there_stays_only_if_it_is_of_the_same_file(
    part: PartialFile, size: int | None, version: str | None, left: int,
) -> None:
    """Another size or version, or none, means another file: its bytes are not mixed with the existing ones."""
    part.begin(size, version)
    assert sum(stop - start for start, stop in part.missing) == left
