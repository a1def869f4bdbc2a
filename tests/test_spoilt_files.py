"""Spoilt files in the folders of sessions and models: each is skipped, and neither disables nor delays the rest."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import asdict, evolve
from stores_for_tests import Shelf

from lllms_core.builtin.downloaders.hub import HubDownloader
from lllms_core.builtin.sessions.disk_store import DiskOptions, DiskStore
from lllms_core.config import load_config
from lllms_core.errors import ConfigError
from lllms_core.gguf import GGUFError, read_gguf
from lllms_core.machine import read_regular
from lllms_core.sessions import SessionEntry, TokenChain
from lllms_core.store.other_programs import find_models
from lllms_core.store.store import Store

pytestmark = pytest.mark.slow

Spoil = Callable[[Path], object]


def nested(path: Path) -> None:
    path.write_bytes(b'{"entry": ' + b"[" * 5000 + b"]" * 5000 + b', "checksum": ""}\nabc')


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(path.parent)  # the path of a socket has a short length limit
        listener.bind(path.name)
        os.chdir(before)


NO_FILES: dict[str, Spoil] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "full folder": lambda path: (path / "inner").mkdir(parents=True),
    "loop": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": as_socket,
}
SPOILT: dict[str, Spoil] = {
    **NO_FILES,
    "nested": nested,
    "empty": Path.touch,
    "no text": lambda path: path.write_bytes(b"\xff\xfe\n"),
    "endless line": lambda path: path.write_bytes(b"[" * (3 << 20)),
    "a number": lambda path: path.write_bytes(b"1" * 5000 + b"\n"),
}


def entry(session_id: str = "good", **fields: object) -> SessionEntry:
    chain = TokenChain(range(100))
    made = SessionEntry(session_id, "tiny", "here", 100, chain.blocks, chain.digest(100), 3, 1.0)
    return evolve(made, **fields)  # type: ignore[arg-type]


def head(session_id: str, **fields: object) -> bytes:
    line = {"entry": {**asdict(entry(session_id)), **fields}, "checksum": "x"}
    return json.dumps(line).encode() + b"\nabc"


HEADS: dict[str, dict[str, object]] = {
    "negative tokens": {"tokens": -5},
    "many tokens": {"tokens": 10**30},
    "more tokens than hashes": {"tokens": 1000},
    "more hashes than tokens": {"chain": ["x"] * 100},
    "surrogates": {"model": "\ud800"},
    "another id": {"id": "other"},
    "a path": {"id": "../../x"},
    "no number": {"tokens": "5"},
    "a key more": {"secret": 1},
}


def open_disk(folder: Path) -> DiskStore:
    store = DiskStore()
    store.open(DiskOptions(folder))
    return store


def check(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The valid session is found and read, others are added and removed; the invalid one gets at most one log line."""
    store, prompt = open_disk(folder), TokenChain(range(200))
    for _ in range(2):
        assert [one.id for one in store.list()] == ["good"]
        found = store.find("here", prompt, whole=False)
        assert found is not None
        assert store.get(found.id) == b"abc"
        assert store.size() == 3
    store.put(entry("another"), b"defg")
    assert sorted(one.id for one in store.list()) == ["another", "good"]
    assert store.get("bad") is None
    store.delete("bad")
    assert store.delete("another")
    assert len([record for record in caplog.records if "bad" in record.getMessage()]) <= 1


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_session_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Spoil) -> None:
    """A pipe, a folder, a loop, a device or nonsense that is named like a session does no harm."""
    open_disk(tmp_path).put(entry(), b"abc")
    spoil(tmp_path / "bad.v1.session")
    spoil(tmp_path / "bad.part")
    check(tmp_path, caplog)


@pytest.mark.parametrize("fields", HEADS.values(), ids=HEADS)
def test_impossible_counts_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, object],
) -> None:
    """A file whose header is impossible, like negative counts, is not a session."""
    open_disk(tmp_path).put(entry(), b"abc")
    (tmp_path / "bad.v1.session").write_bytes(head("bad", **fields))
    check(tmp_path, caplog)


@pytest.mark.parametrize("size", [-5, 10**30])
def test_a_file_has_the_size_that_it_has(tmp_path: Path, size: int) -> None:
    """The size that a header claims does not count: no claim can cause other sessions to be removed."""
    (tmp_path / "good.v1.session").write_bytes(head("good", size=size))
    [told] = open_disk(tmp_path).list()
    assert told.size == 3


def test_what_becomes_a_pipe_is_a_miss(tmp_path: Path) -> None:
    """A session whose file is replaced by something else while the server runs is a miss from then on."""
    store = open_disk(tmp_path)
    store.put(entry(), b"abc")
    file = tmp_path / "good.v1.session"
    file.unlink()
    os.mkfifo(file)
    assert store.get("good") is None
    assert list(store.list()) == []


def test_what_cannot_be_removed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """A file that may not be removed is reported once and is no session any more; the others are removed."""
    store = open_disk(tmp_path)
    store.put(entry("kept"), b"abc")
    store.put(entry(), b"abc")
    unlink = Path.unlink

    def refuse(path: Path, **options: bool) -> None:
        if path.name.startswith("kept"):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(2):
        assert not store.delete("kept")
    assert [one.id for one in store.list()] == ["good"]
    assert store.delete("good")
    assert [record.getMessage().partition("kept.v1.session ")[2] for record in caplog.records] == [
        "cannot be removed, and is left alone: Operation not permitted",
    ]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_record_is_skipped(tmp_path: Path, spoil: Spoil) -> None:
    """A record of the store that cannot be read counts as missing; the other models are unaffected."""
    store = Store(tmp_path, [Shelf(x=b"some bytes")])
    store.ensure("shelf:x")
    [record] = (tmp_path / "records" / "files").iterdir()
    record.unlink()
    spoil(record)
    spoil(tmp_path / "records" / "sources" / "bad.json")
    spoil(tmp_path / "models" / "shelf" / "bad")
    [model] = store.models()
    assert (model.source, model.files[0].sha256) == ("shelf:x", None)
    store.leftovers()


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_spoilt_files_of_other_programs_are_skipped(tmp_path: Path, spoil: Spoil) -> None:
    """Settings, manifests and references of other programs that cannot be read hide nothing else."""
    good = tmp_path / ".lmstudio" / "models" / "org" / "good.gguf"
    manifest = tmp_path / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library" / "bad" / "latest"
    reference = tmp_path / ".cache" / "huggingface" / "hub" / "models--org--bad" / "refs" / "main"
    for path in (good, manifest, reference):
        path.parent.mkdir(parents=True)
    good.write_bytes(b"GGUF")
    for path in (tmp_path / ".lmstudio" / "settings.json", manifest, reference, good.with_name("bad.gguf")):
        spoil(path)
    found = find_models({}, tmp_path, "linux")
    assert "org/good.gguf" in {model.name for model in found.models}
    hub = HubDownloader(cache=reference.parents[2])
    assert hub.find("hf:org/bad") is None


def test_one_missing_part_is_one_problem(tmp_path: Path) -> None:
    """A name that claims 99,999 parts costs one line, not 99,998."""
    folder = tmp_path / ".lmstudio" / "models"
    folder.mkdir(parents=True)
    (folder / "x-00001-of-99999.gguf").write_bytes(b"GGUF")
    found = find_models({}, tmp_path, "linux")
    assert found.models == ()
    assert len(found.problems) == 1


@pytest.mark.parametrize("spoil", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_model_file_is_told(tmp_path: Path, spoil: Spoil) -> None:
    """A model's `file` that is a pipe, a device or a folder is an error that names it, and nothing waits for it."""
    spoil(tmp_path / "x.gguf")
    with pytest.raises(GGUFError, match=r"x\.gguf"):
        read_gguf(tmp_path / "x.gguf")


def test_a_configuration_nested_too_deeply_is_told(tmp_path: Path) -> None:
    """An absurdly nested configuration is an error of the configuration, not an unexpected one."""
    file = tmp_path / "lllms.toml"
    file.write_text("x = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match=r"lllms\.toml is nested too deeply"):
        load_config(file, environ={})


def test_small_files_are_small(tmp_path: Path) -> None:
    """Of files that should be small, no more than that size is read."""
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="File too large"):
        read_regular(tmp_path / "x", 4)
