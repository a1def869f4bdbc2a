import errno
import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from stores_for_tests import TINY, Shelf, sha256
from waits_for_tests import GUARD

from lllms_core.builtin.downloaders.file import FileDownloader
from lllms_core.downloads import RemoteFile, RemoteModel
from lllms_core.errors import (
    ChecksumMismatch,
    DiskFull,
    DownloadCancelled,
    InvalidSource,
    Offline,
    SourceUnavailable,
    WrongFile,
)
from lllms_core.store import Download, Leftover, Store, hashing, part, shelf

DATA = random.Random(1).randbytes(100_000)


def store(tmp_path: Path, *downloaders: Shelf, offline: bool = False) -> Store:
    return Store(tmp_path, downloaders, offline=offline)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_fetched_once(tmp_path: Path) -> None:
    """The first `ensure` downloads and verifies, the next finds; the file has its own name, and no other is left."""
    shelf = Shelf(x=DATA)
    kept = store(tmp_path, shelf)
    assert kept.find("shelf:x") is None
    model = kept.ensure("shelf:x", sha256(DATA))
    assert model.path == tmp_path / "models/shelf/x"
    assert model.path.read_bytes() == DATA
    assert (model.size, model.files[0].sha256, model.files[0].owned) == (100_000, sha256(DATA), True)
    given = list(shelf.given)
    assert kept.ensure("shelf:x") == kept.find("shelf:x") == model
    assert store(tmp_path, shelf).ensure("shelf:x") == model
    assert shelf.given == given
    assert files_in(tmp_path / "models") == {"shelf/x"}


def test_a_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """What had arrived before a failure is kept, and the next attempt fetches only the rest."""
    shelf = Shelf(x=DATA)
    shelf.stops_at = 60_000
    kept = store(tmp_path, shelf)
    with pytest.raises(SourceUnavailable, match="fell over"):
        kept.ensure("shelf:x")
    assert kept.find("shelf:x") is None
    [left] = kept.leftovers()
    assert left == Leftover(tmp_path / "models/shelf/x.lllms-part", 60_000, partial=True)
    shelf.stops_at, shelf.given = None, []
    assert kept.ensure("shelf:x").path.read_bytes() == DATA
    assert shelf.given[0] == ("x", 60_000, 61_000)


def test_a_changed_file_starts_anew(tmp_path: Path) -> None:
    """Bytes of another version, or of an unknown one without other protection, are never mixed with new ones."""
    for before, after in [("1", "2"), (None, None), ("1", None), (None, "1")]:
        shelf = Shelf(x=DATA)
        shelf.stops_at, shelf.version = 60_000, before
        kept = store(tmp_path / f"{before}-{after}", shelf)
        with pytest.raises(SourceUnavailable):
            kept.ensure("shelf:x")
        shelf.files["x"] = other = DATA[::-1]
        shelf.stops_at, shelf.version, shelf.given = None, after, []
        assert kept.ensure("shelf:x").path.read_bytes() == other
        assert shelf.given[0] == ("x", 0, 1000)


def test_a_known_hash_protects_what_has_no_version(tmp_path: Path) -> None:
    """With a final hash to check, a download is resumed even from a server without versions."""
    shelf = Shelf(x=DATA)
    shelf.stops_at, shelf.version, shelf.hashes = 60_000, None, {"x": sha256(DATA)}
    kept = store(tmp_path, shelf)
    with pytest.raises(SourceUnavailable):
        kept.ensure("shelf:x")
    shelf.stops_at, shelf.given = None, []
    assert kept.ensure("shelf:x").path.read_bytes() == DATA
    assert shelf.given[0] == ("x", 60_000, 61_000)


def test_a_wrong_hash_is_never_committed(tmp_path: Path) -> None:
    """A file whose hash is not that of the configuration or the hub is discarded; the error names both hashes."""
    shelf = Shelf(x=DATA)
    kept = store(tmp_path, shelf)
    with pytest.raises(ChecksumMismatch, match=f"{sha256(DATA)}, but {'0' * 64} was expected"):
        kept.ensure("shelf:x", "0" * 64)
    assert files_in(tmp_path / "models") == set()
    shelf.hashes = {"x": "1" * 64}
    with pytest.raises(ChecksumMismatch, match="as its server says, but the configuration wants"):
        kept.ensure("shelf:x", "0" * 64)
    with pytest.raises(ChecksumMismatch):
        kept.ensure("shelf:x")
    assert files_in(tmp_path / "models") == set()


def test_another_hash_in_the_configuration_fetches_anew(tmp_path: Path) -> None:
    """A file that matched its old hash is replaced when the configuration has another one, and not before."""
    shelf = Shelf(x=DATA)
    kept = store(tmp_path, shelf)
    kept.ensure("shelf:x", sha256(DATA))
    shelf.files["x"] = other = DATA[::-1]
    with pytest.raises(ChecksumMismatch):
        kept.ensure("shelf:x", "0" * 64)
    assert kept.ensure("shelf:x", sha256(DATA)).path.read_bytes() == DATA
    assert kept.ensure("shelf:x", sha256(other)).path.read_bytes() == other


def test_a_changed_file_on_disk_is_noticed(tmp_path: Path) -> None:
    """A file whose size or time changed is verified again: kept if it is right, otherwise downloaded again."""
    shelf = Shelf(x=DATA)
    kept = store(tmp_path, shelf)
    path = kept.ensure("shelf:x", sha256(DATA)).path
    os.utime(path, ns=(1, 1))
    assert kept.find("shelf:x") is None
    shelf.given = []
    assert kept.ensure("shelf:x", sha256(DATA)).path == path
    assert shelf.given == []
    path.write_bytes(b"y" + DATA[1:])
    assert kept.ensure("shelf:x", sha256(DATA)).path.read_bytes() == DATA
    assert shelf.given != []


def test_verify_reads_again(tmp_path: Path) -> None:
    """`verify` finds changes on disk that size and time do not show."""
    kept = store(tmp_path, Shelf(x=DATA))
    model = kept.ensure("shelf:x")
    assert kept.verify(model) == model
    status = model.path.stat()
    model.path.write_bytes(b"y" + DATA[1:])
    os.utime(model.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.find("shelf:x") is not None
    with pytest.raises(ChecksumMismatch, match="models/shelf/x has the SHA-256"):
        kept.verify(model)


def test_a_gguf_file_is_looked_at(tmp_path: Path) -> None:
    """A truncated GGUF file, or a web page under its name, is never committed, whatever its hash."""
    whole = TINY.read_bytes()
    shelf = Shelf(**{"a.gguf": whole, "b.gguf": whole[:-1], "c.gguf": b"<!DOCTYPE html>" * 1000, "d.gguf": b"PK" * 999})
    kept = store(tmp_path, shelf)
    assert kept.ensure("shelf:a.gguf").size == len(whole)
    for name, message in [("b", "truncated"), ("c", "a web page, not a model"), ("d", "that is not GGUF")]:
        with pytest.raises(WrongFile, match=message):
            kept.ensure(f"shelf:{name}.gguf")
    assert files_in(tmp_path / "models") == {"shelf/a.gguf"}


def test_an_empty_file_is_no_model(tmp_path: Path) -> None:
    """An empty file is never committed."""
    with pytest.raises(WrongFile, match="gives an empty file"):
        store(tmp_path, Shelf(x=b"")).ensure("shelf:x")


def test_many_ask_one_fetches(tmp_path: Path) -> None:
    """However many requests for a file come at once, it is downloaded once."""
    shelf = Shelf(x=DATA)
    kept = store(tmp_path, shelf)
    models = []
    threads = [threading.Thread(target=lambda: models.append(kept.ensure("shelf:x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert len(models) == 8
    assert len(shelf.given) == 100


def test_cancel_ends_a_download(tmp_path: Path) -> None:
    """A cancelled download ends at its next byte, and keeps what it has."""
    shelf = Shelf(x=DATA)
    kept = store(tmp_path, shelf)
    download = Download("shelf:x")

    class Cancelling(Shelf):
        def fetch(self, file, part):
            part.begin(len(DATA), "1")
            part.write(0, DATA[:50_000])
            download.cancel()
            part.write(50_000, DATA[50_000:])

    with pytest.raises(DownloadCancelled, match="the bytes received are kept"):
        store(tmp_path, Cancelling(x=DATA)).ensure("shelf:x", None, download)
    assert download.status.state == "failed"
    assert kept.ensure("shelf:x").path.read_bytes() == DATA
    assert shelf.given[0] == ("x", 50_000, 51_000)


def test_the_status_tells_how_far_it_is(tmp_path: Path) -> None:
    """Progress counts the bytes of all files of the model, up to all of them."""
    kept = store(tmp_path, Shelf(x=DATA, y=DATA[:500]))
    download = Download("shelf:x+y")
    kept.ensure("shelf:x+y", None, download)
    status = download.status
    assert (status.state, status.done, status.total, status.source) == ("done", 100_500, 100_500, "shelf:x+y")


def test_speed_and_time_left() -> None:
    """The speed is that of the last seconds, and the remaining time follows from it."""
    now = 0.0
    download = Download("x", lambda: now)
    download.plan({"f": 2000}, "")
    download.enter("downloading", "f")
    for now in range(21):
        download.here("f", now * 50, None)
    assert download.status.speed == pytest.approx(50)
    assert download.status.seconds_left == pytest.approx(20)


def test_no_room_is_said_before(tmp_path: Path) -> None:
    """A file that exceeds the free space of the disk is refused before anything of it is written."""

    class Huge(Shelf):
        def resolve(self, source):
            return RemoteModel([RemoteFile("shelf/x", "x", 10**18)])

        def fetch(self, file, part):
            part.begin(10**18, "1")

    with pytest.raises(DiskFull, match=r"1000000\.0 TB more are needed, the disk of .* has .* free; delete something"):
        store(tmp_path, Huge()).ensure("shelf:x")
    assert files_in(tmp_path / "models") == set()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", "a/../../x", ""])
def test_no_downloader_writes_outside(tmp_path: Path, name: str) -> None:
    """A name that leads out of the store is refused, wherever it comes from."""

    class Sly(Shelf):
        def resolve(self, source):
            return RemoteModel([RemoteFile(name, "x")])

    with pytest.raises(InvalidSource, match="outside"):
        store(tmp_path / "s", Sly(x=DATA)).ensure("shelf:x")
    assert files_in(tmp_path) == {path for path in files_in(tmp_path) if path.startswith("s/locks")}


def test_offline_serves_what_is_there(tmp_path: Path) -> None:
    """In offline mode a downloaded model is found, and any other is an error at once that says so."""
    shelf = Shelf(x=DATA, y=DATA)
    model = store(tmp_path, shelf).ensure("shelf:x")
    kept = store(tmp_path, shelf, offline=True)
    assert kept.ensure("shelf:x") == model
    with pytest.raises(Offline, match="shelf:y is not on this disk, and offline mode is on"):
        kept.ensure("shelf:y")


def test_files_of_this_machine_are_used_in_place(tmp_path: Path) -> None:
    """Plain paths and `file:` sources are used in place, verified once if a hash is given, and never deleted."""
    file = tmp_path / "x.gguf"
    file.write_bytes(TINY.read_bytes())
    kept = Store(tmp_path / "s", [FileDownloader()])
    digest = sha256(file.read_bytes())
    for source in (str(file), f"file://{file}"):
        model = kept.ensure(source, digest)
        assert (model.path, model.files[0].owned, model.files[0].sha256) == (file, False, digest)
        assert kept.find(source, digest) == model
        assert kept.delete(source) == []
        with pytest.raises(ChecksumMismatch):
            kept.ensure(source, "0" * 64)
    assert file.exists()
    with pytest.raises(InvalidSource, match="there is no file"):
        kept.ensure(str(tmp_path / "nothing"))


def test_a_relative_path_starts_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain name is relative to the caller's working directory, as for any program."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/x").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "here")
    assert store(tmp_path).ensure("x").path == tmp_path / "here/x"


def test_a_plain_path_stands_for_all_parts(tmp_path: Path) -> None:
    """A model in parts has the bytes of all existing parts; a later part is like any other file."""
    parts = [tmp_path / f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for one in parts[:2]:
        one.write_bytes(b"12345")
    kept = store(tmp_path)
    found = [kept.find(str(part)) for part in parts]
    assert [model and [file.path for file in model.files] for model in found] == [parts[:2], parts[1:2], None]
    assert found[0] is not None
    assert found[0].size == 10


def test_delete_keeps_what_others_need(tmp_path: Path) -> None:
    """A file is deleted with the last source that needs it; so are empty folders."""
    kept = store(tmp_path, Shelf(x=DATA, y=DATA))
    kept.ensure("shelf:x")
    kept.ensure("shelf:x+y")
    assert [model.source for model in kept.models()] == ["shelf:x", "shelf:x+y"]
    assert [file.path.name for file in kept.delete("shelf:x+y")] == ["y"]
    assert [file.path.name for file in kept.delete("shelf:x")] == ["x"]
    assert kept.models() == []
    assert list((tmp_path / "models").iterdir()) == []
    assert kept.delete("shelf:x") == []


def test_leftovers_can_be_discarded(tmp_path: Path) -> None:
    """Partial files and files without a source are found and discarded; files outside the store never are."""
    shelf = Shelf(x=DATA)
    shelf.stops_at = 60_000
    kept = store(tmp_path, shelf)
    with pytest.raises(SourceUnavailable):
        kept.ensure("shelf:x")
    stray = tmp_path / "models/shelf/stray"
    stray.write_bytes(b"?")
    left = kept.leftovers()
    assert [(one.path.name, one.partial) for one in left] == [("stray", False), ("x.lllms-part", True)]
    for one in left:
        kept.discard(one.path)
    assert kept.leftovers() == []
    assert files_in(tmp_path / "models") == set()
    with pytest.raises(ValueError, match="is not in the store"):
        kept.discard(tmp_path / "other")


def test_one_hash_is_of_one_file(tmp_path: Path) -> None:
    """A hash for a model of several files is refused, not guessed at."""
    with pytest.raises(InvalidSource, match="has 2 files, but sha256 is for one"):
        store(tmp_path, Shelf(x=DATA, y=DATA)).ensure("shelf:x+y", sha256(DATA))


def test_unknown_schemes_are_named(tmp_path: Path) -> None:
    """A source that no downloader handles is an error that lists the downloaders."""
    with pytest.raises(InvalidSource, match=r"no downloader for 'ftp:' of ftp://x \(there are: shelf:\)"):
        store(tmp_path, Shelf()).find("ftp://x")


def test_a_broken_note_is_no_note(tmp_path: Path) -> None:
    """A partial file whose note is broken, or about another file, is downloaded from the start."""
    for text in ["", "{", "[]", '{"url": "x", "size": 100000, "version": "1", "spans": [[0]]}', "[" * 100_000]:
        shelf = Shelf(x=DATA)
        shelf.stops_at = 60_000
        kept = store(tmp_path, shelf)
        with pytest.raises(SourceUnavailable):
            kept.ensure("shelf:x")
        (tmp_path / "models/shelf/x.lllms-part.json").write_text(text)
        shelf.stops_at, shelf.given = None, []
        assert kept.ensure("shelf:x").path.read_bytes() == DATA
        assert shelf.given[0] == ("x", 0, 1000)
        kept.delete("shelf:x")


def test_what_lies_behind_a_gap_is_noted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one part of a file stalls, the progress of the others is recorded: a kill costs no more because of it."""
    monkeypatch.setattr(part, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr(hashing, "IDLE_SECONDS", 0.01)
    note = tmp_path / "models/shelf/x.lllms-part.json"

    def noted(spans: str) -> bool:
        deadline = time.monotonic() + GUARD
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                if spans in note.read_text():
                    return True
        return False

    class Gapped(Shelf):
        def fetch(self, file, part):
            part.begin(len(DATA), "1")
            part.write(0, DATA[:1000])
            assert noted("[[0, 1000]]")
            part.write(50_000, DATA[50_000:60_000])
            assert noted("[[0, 1000], [50000, 60000]]")

    with pytest.raises(SourceUnavailable, match="ended before it was complete"):
        store(tmp_path, Gapped(x=DATA)).ensure("shelf:x")


def test_a_full_disk_is_said_wherever_it_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full when a download is recorded, the error says so; the next time it is recorded."""
    kept = store(tmp_path, Shelf(x=DATA))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shelf, "write_record", full)
        with pytest.raises(DiskFull, match=r"the disk is full: .*delete something"):
            kept.ensure("shelf:x")
    assert kept.find("shelf:x") is None
    assert kept.ensure("shelf:x").files[0].sha256 == sha256(DATA)


def test_where_files_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A models_dir that is a file is an error that names it."""
    (tmp_path / "s").write_bytes(b"")
    with pytest.raises(SourceUnavailable, match=r"s/locks cannot be created: Not a directory"):
        store(tmp_path / "s", Shelf(x=DATA)).ensure("shelf:x")
