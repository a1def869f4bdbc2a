"""Every store keeps the same guarantees; those of the core and the example's."""

import os
import shutil
import stat
import sys
import time
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.builtin.sessions import DiskStore, MemoryStore
from lllms_core.builtin.sessions.disk_store import DiskOptions
from lllms_core.errors import ConfigError
from lllms_core.pool.session_rules import SessionLimits, pack, superseded, unpack, victims
from lllms_core.sessions import BLOCK, SessionEntry, TokenChain, longest_prefix

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import session_store as example

pytestmark = pytest.mark.slow


def entry(session_id="one", tokens=range(100), space="here", used=None, size=3):
    chain = TokenChain(list(tokens))
    now = time.time() if used is None else used
    return SessionEntry(session_id, "tiny", space, len(chain), chain.blocks, chain.digest(len(chain)), size, now)


def open_disk(folder):
    store = DiskStore()
    store.open(DiskOptions(folder))
    return store


@pytest.fixture(params=["memory", "disk", "example"])
def store(request, tmp_path):
    """An open store."""
    if request.param == "memory":
        made = MemoryStore()
        made.open(made.Options())
    elif request.param == "disk":
        made = open_disk(tmp_path / "sessions")
    else:
        made = example.SqliteStore()
        made.open(made.Options(tmp_path / "sessions.db"))
    yield made
    made.close()


def test_what_is_put_is_got(store):
    """Bytes come back unchanged, and the list has what was recorded about them."""
    one = entry()
    store.put(one, b"abc")
    assert store.get("one") == b"abc"
    [told] = store.list()
    assert evolve(told, used=0.0) == evolve(one, used=0.0)
    assert store.size() == 3
    assert store.get("two") is None


def test_what_is_deleted_is_gone(store):
    """A deleted session is neither listed nor returned; deleting it again reports that it did not exist."""
    store.put(entry(), b"abc")
    assert store.delete("one")
    assert not store.delete("one")
    assert store.get("one") is None
    assert list(store.list()) == []
    assert store.size() == 0


def test_reading_counts_as_use(store):
    """Reading a session updates its last use."""
    store.put(entry(used=time.time() - 1000), b"abc")
    store.put(entry("two", used=time.time() - 500), b"def")
    store.get("one")
    used = {told.id: told.used for told in store.list()}
    assert used["one"] > time.time() - 100


def test_longest_prefix_is_found(store):
    """Among sessions of the same space the one with the longest common prefix is found, whole or in part."""
    store.put(entry("short", range(100)), b"a")
    store.put(entry("long", range(300)), b"b")
    store.put(entry("branch", [*range(200), *range(1000, 1200)]), b"c")
    store.put(entry("elsewhere", range(400), space="there"), b"d")
    prompt = TokenChain([*range(280), *range(5000, 5020)])
    assert store.find("here", prompt, whole=False).id == "long"
    assert prompt.shared(entry(tokens=range(300))) == 4 * BLOCK
    assert store.find("here", prompt, whole=True).id == "short"
    assert store.find("here", TokenChain(list(range(9, 300))), whole=False) is None


@given(st.lists(st.integers(0, 1), max_size=200), st.lists(st.integers(0, 1), max_size=200))
def test_hashes_tell_what_tokens_share(one, other):
    """The hashes give the common prefix: exactly if one begins with the other, otherwise in whole blocks."""
    common = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shared = TokenChain(other).shared(entry(tokens=one))
    assert shared == (len(one) if common == len(one) else common // BLOCK * BLOCK)


@given(st.binary(), st.binary())
def test_packed_session_is_unpacked(tokens, state):
    """Tokens and state come out as they went in; anything else is refused."""
    assert unpack(pack(tokens, state)) == (tokens, state)
    with pytest.raises(ValueError, match="it is"):
        unpack(pack(tokens, state)[: 11 + len(tokens)])


def test_beginnings_are_superseded():
    """A longer session replaces its prefixes; if sessions cannot be cut, only exact duplicates."""
    entries = [entry("a", range(50)), entry("b", range(100)), entry("c", range(100), space="there"),
               entry("d", range(1, 60))]
    assert superseded(entries, "here", TokenChain(list(range(100))), whole=False) == ["a", "b"]
    assert superseded(entries, "here", TokenChain(list(range(100))), whole=True) == ["b"]
    assert longest_prefix(entries, "nowhere", TokenChain(list(range(100))), whole=False) is None


def test_old_and_least_recently_used_go():
    """Expired sessions go first, then the least recently used, and no more than needed."""
    entries = [entry("a", used=10.0, size=40), entry("b", used=50.0, size=40), entry("c", used=90.0, size=40)]
    assert victims(entries, 0, SessionLimits(max_size=120, ttl=-1), 100.0) == []
    assert victims(entries, 0, SessionLimits(max_size=120, ttl=60), 100.0) == ["a"]
    assert victims(entries, 30, SessionLimits(max_size=80, ttl=-1), 100.0) == ["a", "b"]


def test_files_are_their_owners_alone(tmp_path):
    """Only the owner can read the folder and the files, even if the folder already existed and was open to all."""
    folder = tmp_path / "sessions"
    folder.mkdir(mode=0o777)
    store = open_disk(folder)
    store.put(entry(), b"abc")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]


def test_index_is_rebuilt_from_the_files(tmp_path):
    """Another server, or the same one later, finds the stored sessions; each sees the changes of the other."""
    first, second = open_disk(tmp_path), open_disk(tmp_path)
    first.put(entry(), b"abc")
    assert second.get("one") == b"abc"
    second.put(entry("two"), b"def")
    assert {told.id for told in first.list()} == {"one", "two"}
    second.delete("one")
    assert [told.id for told in first.list()] == ["two"]
    assert first.get("one") is None


def test_folder_of_others_is_left_as_it_is(tmp_path):
    """A folder that others use is refused, and its permissions stay; one that only its owner can access is accepted."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "letter.txt").write_text("Dear Bob")
    with pytest.raises(ConfigError, match=r"folder: .*shared holds other files, and other users .*; name a folder"):
        open_disk(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777
    folder.chmod(0o700)
    open_disk(folder).put(entry(), b"abc")


def test_folder_that_is_deleted_is_made_again(tmp_path):
    """Deleting the whole folder while a server runs deletes all sessions, and nothing else."""
    store = open_disk(tmp_path / "sessions")
    store.put(entry(), b"abc")
    shutil.rmtree(tmp_path / "sessions")
    assert list(store.list()) == []
    assert store.get("one") is None
    store.put(entry("two"), b"def")
    assert [told.id for told in store.list()] == ["two"]
    assert stat.S_IMODE((tmp_path / "sessions").stat().st_mode) == 0o700


def test_file_that_cannot_be_read_stands_alone(tmp_path, caplog):
    """A file that is named like a session and cannot be read is reported once, and the others are found."""
    store = open_disk(tmp_path)
    store.put(entry(), b"abc")
    (tmp_path / "two.v1.session").mkdir()
    for _ in range(2):
        assert [told.id for told in store.list()] == ["one"]
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"{tmp_path}/two.v1.session cannot be read: Is a directory"]


def test_files_that_are_gone_are_forgotten(tmp_path):
    """The store remembers files that it cannot read or remove no longer than they exist."""
    store = open_disk(tmp_path)
    for number in range(20):
        (tmp_path / f"{number}.v1.session").mkdir()
        assert list(store.list()) == []
        assert not store.delete(f"{number}")
        (tmp_path / f"{number}.v1.session").rmdir()
    assert list(store.list()) == []
    assert (store._foreign, store._lasting) == (set(), set())


def test_data_is_good_where_its_use_cannot_be_noted(tmp_path, monkeypatch):
    """On a read-only disk, sessions are read."""
    store = open_disk(tmp_path)
    store.put(entry(), b"abc")
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    assert store.get("one") == b"abc"


@pytest.mark.parametrize("at", [0, 5, 100, -3, -1])
def test_flipped_byte_is_found_out(tmp_path, at):
    """A file in which a byte has changed is a miss, and is removed; in its first line or in its data."""
    open_disk(tmp_path).put(entry(), b"abcdef")
    [file] = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[at] ^= 0x20
    file.write_bytes(data)
    store = open_disk(tmp_path)
    assert store.get("one") is None
    assert list(store.list()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1, 50, -1])
def test_truncated_file_is_found_out(tmp_path, length):
    """A file cut at any place is a miss."""
    open_disk(tmp_path).put(entry(), b"abcdef")
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:length])
    assert open_disk(tmp_path).get("one") is None


def test_damaged_first_line_is_not_listed(tmp_path):
    """A file that is not a session is not listed, and is removed."""
    (tmp_path / "one.v1.session").write_bytes(b'{"id": 3}\nabc')
    (tmp_path / "two.v2.session").write_bytes(b"of another version")
    assert list(open_disk(tmp_path).list()) == []
    assert [file.name for file in tmp_path.iterdir()] == ["two.v2.session"]


def test_killed_while_writing_leaves_nothing_for_long(tmp_path):
    """A file that was half written when its server was killed is never seen, and is removed once it is old."""
    fresh, old = tmp_path / "one-1.part", tmp_path / "two-2.part"
    for part in (fresh, old):
        part.write_bytes(b"half a session")
    os.utime(old, (1, 1))
    store = open_disk(tmp_path)
    assert list(store.list()) == []
    assert [file.name for file in tmp_path.iterdir()] == ["one-1.part"]


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """When there is no room for a file, no part of it is left."""
    store = open_disk(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        store.put(entry(), b"abc")
    assert list(tmp_path.iterdir()) == []
    assert list(store.list()) == []


def test_impossible_folder_is_named(tmp_path):
    """An impossible folder is an error of the configuration, which names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"sessions\.options\.folder: .*file"):
        open_disk(tmp_path / "file" / "sessions")
