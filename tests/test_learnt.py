"""What servers learn of models, in memory and on the disk."""

import json
import logging
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.pool import learnt
from lllms_core.pool.known_needs import MOST_SIZES, KnownNeeds
from lllms_core.pool.learnt import MOST, NOTHING_LEARNT, Learnt, LearntStore, key_of

KEY = key_of("engine", "fp_1", 100)


def test_what_was_learnt_is_there_the_next_time(tmp_path: Path) -> None:
    """A peak and the time of a load survive the server; the peak only rises, the time is averaged."""
    store = LearntStore(tmp_path / "models" / "memory.json", clock=lambda: 5.0)
    assert store.learn(KEY, 1000, 2.0) == Learnt(1000, 2.0, 5.0)
    assert store.learn(KEY, 900, 4.0) == Learnt(1000, 3.0, 5.0)
    store.write()
    again = LearntStore(tmp_path / "models" / "memory.json")
    assert again.get(KEY) == Learnt(1000, 3.0, 5.0)
    assert again.get("other") == NOTHING_LEARNT
    assert not again.changed


def test_small_changes_are_not_worth_a_write() -> None:
    """Measuring the same again changes nothing that must be written; a higher peak, or a load, does."""
    store = LearntStore()
    store.learn(KEY, 1000)
    assert store.changed
    store.write()
    store.learn(KEY, 1005)
    assert not store.changed
    store.learn(KEY, 1100)
    assert store.changed


def test_each_size_of_a_configuration_has_its_own_figures() -> None:
    """A configuration with automatic options is known by the size of each instance, and the latest is told."""
    times = iter([1.0, 2.0])
    store = LearntStore(clock=lambda: next(times))
    store.learn(key_of("engine", "fp_1", 100), 150)
    store.learn(key_of("engine", "fp_1", 9), 15)
    assert store.get(key_of("engine", "fp_1", 100)).private == 150
    assert store.latest("engine", "fp_1").private == 15
    assert store.latest("engine", "fp") == NOTHING_LEARNT


def test_servers_that_share_a_folder_add_to_each_other(tmp_path: Path) -> None:
    """Two servers that write in turns, or at once, lose nothing of what the other has learnt."""
    stores = [LearntStore(tmp_path / "memory.json") for _ in range(2)]
    for number, store in enumerate(stores):
        store.learn(KEY, 1000 + number)
        store.learn(f"own {number}", 7)
    threads = [Thread(target=store.write) for store in stores for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = LearntStore(tmp_path / "memory.json")
    assert [fresh.get(key).private for key in (KEY, "own 0", "own 1")] == [1001, 7, 7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locks", "memory.json"]
    stores[0].write()
    assert stores[0].get("own 1").private == 7  # learnt from the other one


ENTRY = st.fixed_dictionaries({}, optional={
    "private": st.integers() | st.floats() | st.none() | st.text(max_size=3),
    "load_seconds": st.integers() | st.floats() | st.none() | st.booleans(),
    "used": st.integers() | st.floats() | st.none(),
})
FOREIGN = st.recursive(
    st.none() | st.integers() | st.text(max_size=3), lambda some: st.lists(some, max_size=2), max_leaves=3,
)


@given(
    st.binary(max_size=30)
    | FOREIGN.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.text(max_size=3), ENTRY | FOREIGN, max_size=3).map(
        lambda entries: json.dumps({"version": 1, "learnt": entries}).encode(),
    )
    | st.just(b"[" * 100_000),
)
def test_a_spoilt_or_foreign_file_holds_nothing(data: bytes) -> None:
    """Whatever the file contains, only sound figures are read from it, and what is learnt then is written."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder) / "memory.json"
        file.write_bytes(data)
        store = LearntStore(file)
        for known in store._known.values():
            assert 0 <= known.private <= 2**50
            assert known.load_seconds is None or 0 <= known.load_seconds <= 1e6
        store.learn(KEY, 1000)
        store.write()
        assert LearntStore(file).get(KEY).private == 1000


def test_a_pipe_or_a_folder_in_its_place_does_not_hang(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no file is not read, and is said once not to be written."""
    file = tmp_path / "memory.json"
    file.mkdir()
    store = LearntStore(file)
    for number in range(2):
        store.learn(KEY, 1000 + 100 * number)
        store.write()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "memory.json cannot be written" in caplog.text
    assert store.get(KEY).private == 1100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locks", "memory.json"]


def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used configurations are forgotten beyond a limit, in the file and in memory."""
    monkeypatch.setattr(learnt, "MOST", 3)
    times = iter(range(100))
    store = LearntStore(tmp_path / "memory.json", clock=lambda: float(next(times)))
    for number in range(5):
        store.learn(f"key {number}", 10)
    store.learn("key 0", 10)
    store.write()
    for one in (store, LearntStore(tmp_path / "memory.json")):
        assert [number for number in range(5) if one.get(f"key {number}").private] == [0, 3, 4]
    assert MOST <= 10_000


def test_the_memory_of_a_server_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot write, or whose automatic sizes differ with each load, forgets the oldest figures."""
    times = iter(range(100))
    monkeypatch.setattr(learnt, "MOST", 5)
    store = LearntStore(clock=lambda: float(next(times)))
    for number in range(20):
        store.learn("used again and again", 7)
        store.learn(key_of("engine", "fp_1", number), number + 1)
    assert len(store._known) == 5
    assert store.get("used again and again").private == 7
    assert store.get(key_of("engine", "fp_1", 19)).private == 20
    assert store.get(key_of("engine", "fp_1", 3)) == NOTHING_LEARNT


def test_the_sizes_of_a_model_are_bounded() -> None:
    """A model that is told to need other bytes at each load is known by the last sizes."""
    known = KnownNeeds()
    for told in range(1000):
        known.learn("m", told, told + 1)
        known.learn("m", 0, 7)
    assert len(known._learnt["m"]) == MOST_SIZES
    assert known._learnt["m"][0] == 7
    assert known._learnt["m"][999] == 1000
