"""What APIs keep: within limits, in memory or in private files that survive a restart, and never at the loop's cost."""

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st
from waits_for_tests import GUARD, until

from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.host.documents import KeptDocuments
from lllms_core.host.drawers import OVERHEAD, SUFFIX, DiskDrawer, Drawer, DrawerLimits, MemoryDrawer

KB = 1000
NAMES = ["a", "b", "c", "d", "e"]


@define
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def memory(folder: Path, limits: DrawerLimits, clock: Clock) -> Drawer:
    return MemoryDrawer(limits, clock)


def disk(folder: Path, limits: DrawerLimits, clock: Clock) -> Drawer:
    return DiskDrawer(folder / "documents", limits, clock)


def files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


BOTH = pytest.mark.parametrize("make", [memory, disk])


@BOTH
def test_documents_are_kept_and_deleted(make: Callable[..., Drawer], tmp_path: Path) -> None:
    """A document is returned as it was put, in its last form, until it is deleted."""
    drawer = make(tmp_path, DrawerLimits(100 * KB, 60), Clock())
    assert drawer.get("a") is None
    drawer.put("a", b"one\ntwo")
    drawer.put("a", b"\0three")
    assert drawer.get("a") == b"\0three"
    assert drawer.delete("a")
    assert not drawer.delete("a")
    assert drawer.get("a") is None


@BOTH
def test_documents_expire(make: Callable[..., Drawer], tmp_path: Path) -> None:
    """The time is counted from the last use."""
    clock = Clock()
    drawer = make(tmp_path, DrawerLimits(100 * KB, 60), clock)
    drawer.put("a", b"1")
    clock.now += 50
    assert drawer.get("a") == b"1"
    clock.now += 50
    assert drawer.get("a") == b"1"
    clock.now += 61
    assert drawer.get("a") is None


@BOTH
def test_a_drawer_never_overflows(make: Callable[..., Drawer], tmp_path: Path) -> None:
    """The least recently used documents make room, by bytes and by number; what is too large is not kept at all."""
    clock = Clock()
    drawer = make(tmp_path, DrawerLimits(10 * KB, -1, most=5), clock)
    drawer.put("large", bytes(10 * KB))
    assert drawer.get("large") is None
    for number in range(9):
        clock.now += 1
        drawer.put(str(number), bytes(100))
        assert drawer.get("0") is not None, "it is used again and again"
        clock.now += 1
    assert sum(drawer.get(str(number)) is not None for number in range(9)) <= 5
    assert drawer.get("8") is not None
    clock.now += 1
    drawer.put("wide", bytes(8 * KB))
    left = [name for name in ("wide", *map(str, range(9))) if drawer.get(name) is not None]
    assert "wide" in left
    assert sum(OVERHEAD + (8 * KB if name == "wide" else 100) for name in left) <= 10 * KB


@settings(max_examples=40, deadline=None)
@given(actions=st.lists(st.tuples(st.sampled_from(["put", "get", "delete", "wait"]), st.sampled_from(NAMES),
                                  st.binary(max_size=300))))
def test_files_are_like_memory(tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, bytes]]) -> None:
    """While there is room, both drawers return the same, and what they return was put under that name."""
    clock, folder, limits = Clock(), tmp_path_factory.mktemp("drawer"), DrawerLimits(100 * KB, 10)
    one, other = memory(folder, limits, clock), disk(folder, limits, clock)
    put: dict[str, bytes] = {}
    for action, name, data in actions:
        if action == "put":
            put[name] = data
            one.put(name, data)
            other.put(name, data)
        elif action == "get":
            found = one.get(name)
            assert found == other.get(name)
            assert found is None or found == put[name]
        elif action == "delete":
            assert one.delete(name) == other.delete(name) or clock.now > 1_000_000.0
        else:
            clock.now += 7


def test_files_are_private_and_survive(tmp_path: Path) -> None:
    """Another drawer in the same folder has the documents; only their owner may read them."""
    limits, clock = DrawerLimits(100 * KB, 60), Clock()
    disk(tmp_path, limits, clock).put("a", b"secret")
    assert disk(tmp_path, limits, clock).get("a") == b"secret"
    [file] = (tmp_path / "documents").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("spoil", [
    lambda file: file.write_bytes(b""), lambda file: file.write_bytes(file.read_bytes()[:-1]),
    lambda file: file.write_bytes(file.read_bytes() + b"x"), lambda file: file.write_bytes(b"\xff" * 200 * KB),
    lambda file: (file.unlink(), file.mkdir()), lambda file: (file.unlink(), os.mkfifo(file)),
])
def test_spoilt_files_are_skipped(spoil, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file, or something else in its place, is no document; the others stay, and the log has no names."""
    drawer = disk(tmp_path, DrawerLimits(100 * KB, 60), Clock())
    drawer.put("name-of-one", b"secret")
    drawer.put("other", b"fine")
    spoil(tmp_path / "documents" / f"name-of-one{SUFFIX}")
    assert drawer.get("name-of-one") is None
    assert drawer.get("other") == b"fine"
    assert "secret" not in caplog.text
    assert "name-of-one" not in caplog.text


async def test_a_document_is_there_at_once(tmp_path: Path) -> None:
    """A value can be found, and deleted, before it is written; closing writes the rest."""
    limits = DrawerLimits(100 * KB, 60)
    kept = KeptDocuments(disk(tmp_path, limits, Clock()))
    kept.keep("a", {"one": [1, "\u2028"]})
    kept.keep("b", 2)
    assert await kept.find("a") == {"one": [1, "\u2028"]}
    assert await kept.drop("b")
    assert await kept.find("b") is None
    kept.keep("c", 3)
    await kept.close()
    again = KeptDocuments(disk(tmp_path, limits, Clock()))
    assert [await again.find(name) for name in "abc"] == [{"one": [1, "\u2028"]}, None, 3]
    await again.close()
    await again.close()
    again.keep("d", 4)
    assert await again.find("d") is None


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a.b", "x" * 121, "\0", "ä"])
async def test_a_name_is_no_path(name: str, tmp_path: Path) -> None:
    """A name that could leave the folder, or is too long, is that of no document."""
    kept = KeptDocuments(disk(tmp_path, DrawerLimits(100 * KB, 60), Clock()))
    kept.keep(name, 1)
    assert await kept.find(name) is None
    assert not await kept.drop(name)
    await kept.close()
    assert files(tmp_path) == []


async def test_the_loop_goes_on_while_a_file_is_slow(tmp_path: Path) -> None:
    """Reading and writing happen in a thread: the event loop is free meanwhile."""
    reached, let = threading.Event(), threading.Event()

    class Slow(MemoryDrawer):
        def get(self, name: str) -> bytes | None:
            reached.set()
            assert let.wait(GUARD)
            return super().get(name)

    kept = KeptDocuments(Slow(DrawerLimits(100 * KB, 60)))
    kept.keep("a", 1)
    await until(lambda: not kept._pending)
    finding = asyncio.create_task(kept.find("a"))
    await until(reached.is_set)
    let.set()
    assert await finding == 1
    await kept.close()


async def test_a_failed_write_is_told_without_content(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Where nothing can be written, the answer is lost, and the log says why, not what."""
    (tmp_path / "documents").write_text("a file in the folder's place")
    kept = KeptDocuments(disk(tmp_path, DrawerLimits(100 * KB, 60), Clock()))
    kept.keep("a", "secret")
    await kept.close()
    assert "could not be kept: FileExistsError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("sessions", "kind"), [
    ({"store": "disk"}, DiskDrawer), ({"store": "memory"}, MemoryDrawer), ({"store": "none"}, MemoryDrawer),
])
async def test_documents_live_as_long_as_sessions(sessions: dict[str, object], kind: type, tmp_path: Path) -> None:
    """They are files beside the sessions where those are on disk; else they end with the server."""
    if sessions["store"] == "disk":
        sessions = {**sessions, "options": {"folder": str(tmp_path / "sessions")}}
    for expected in (None, {"a": 1} if kind is DiskDrawer else None):
        host = Host(parse_config({"sessions": sessions}))
        assert type(host._documents._drawer) is kind
        assert await host.documents.find("a") == expected
        host.documents.keep("a", {"a": 1})
        await host.close()
    if kind is DiskDrawer:
        (tmp_path / "sessions").chmod(0o755)
        Host(parse_config({"sessions": sessions}))  # it takes the folder, in which only its own files lie, back
        assert stat.S_IMODE((tmp_path / "sessions").stat().st_mode) == 0o700
        assert files(tmp_path / "sessions" / "documents") == [f"a{SUFFIX}"]
