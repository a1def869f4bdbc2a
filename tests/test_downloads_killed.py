"""Downloads in real processes that are really killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers_for_tests import hang, served
from stores_for_tests import sha256
from waits_for_tests import GUARD

from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.store import Store

pytestmark = pytest.mark.slow

DATA = random.Random(3).randbytes(3_000_000)
ENSURE = """
import resource, sys
from pathlib import Path
from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.errors import DiskFull
from lllms_core.store import Store, part
part.NOTE_SECONDS = 0.0
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    print(Store(Path(sys.argv[1]), [HttpDownloader()]).ensure(sys.argv[2]).path)
except DiskFull as error:
    print(error)
"""


def ensure(folder: Path, url: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ENSURE, str(folder), url, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("after", [1, 700_000, 2_999_999])
def test_a_killed_download_goes_on(tmp_path: Path, after: int) -> None:
    """A process killed at any byte leaves no file under its final name and no lock; the next one fetches the rest."""
    with served({"/x.bin": DATA}) as site:
        site.faults = [hang(after)]
        first = ensure(tmp_path, f"{site.url}/x.bin")
        assert site.reached.wait(GUARD)
        notes = []
        deadline = time.monotonic() + GUARD
        while not notes and time.monotonic() < deadline:
            notes = list(tmp_path.rglob("*.lllms-part.json"))
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert not list(tmp_path.rglob("x.bin"))
        site.release.set()
        site.requests.clear()
        model = Store(tmp_path, [HttpDownloader()]).ensure(f"{site.url}/x.bin", sha256(DATA))
        assert model.path.read_bytes() == DATA
        [(_, asked)] = site.requests
        assert asked != "bytes=0-67108863"


def test_another_process_waits(tmp_path: Path) -> None:
    """Two processes that want one file fetch it once."""
    with served({"/x.bin": DATA}) as site:
        site.faults = [hang(1000)]
        first = ensure(tmp_path, f"{site.url}/x.bin")
        assert site.reached.wait(GUARD)
        second = ensure(tmp_path, f"{site.url}/x.bin")
        site.release.set()
        outputs = {first.communicate(timeout=GUARD)[0], second.communicate(timeout=GUARD)[0]}
        assert len(outputs) == 1
        assert len(site.requests) == 2  # one, and the rest after the drop


FULL = """
import errno, sys
from pathlib import Path
from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.errors import DownloadError
from lllms_core.store import Store, part
write_record, free = part.write_record, int(sys.argv[3])

class Disk(part.PartialFile):
    def write(self, offset, data):
        if offset + len(data) > 2_500_000:
            part.write_record = full
            self._file.write = lambda data: full()
        super().write(offset, data)

def full(note=None, record=None):
    if note is None or note.with_name("x.bin.lllms-part").stat().st_size > free:
        raise OSError(errno.ENOSPC, "No space left on device")
    write_record(note, record)

import lllms_core.store.store as store
store.PartialFile = Disk
try:
    Store(Path(sys.argv[1]), [HttpDownloader()]).ensure(sys.argv[2])
except DownloadError as error:
    print(error)
"""


@pytest.mark.parametrize(("free", "kept"), [(1_500_000, True), (100, False)])
def test_a_disk_without_room_for_the_note(tmp_path: Path, free: int, kept: bool) -> None:
    """On a full disk the last megabyte makes room for the note about the rest; if even that fails, nothing is left."""
    with served({"/x.bin": DATA}) as site:
        command = [sys.executable, "-c", FULL, str(tmp_path), f"{site.url}/x.bin", str(free)]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GUARD).stdout
        assert "the disk is full" in output
        assert "lllms gc" in output
        left = [path.name for path in (tmp_path / "models").rglob("x.bin*")]
        assert sorted(left) == (["x.bin.lllms-part", "x.bin.lllms-part.json"] if kept else [])
        site.requests.clear()
        Store(tmp_path, [HttpDownloader()]).ensure(f"{site.url}/x.bin", sha256(DATA))
        [(_, asked)] = site.requests
        assert (asked != "bytes=0-67108863") == kept


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    """A disk that fills up midway is an error that says what to do; the bytes received are kept."""
    with served({"/x.bin": DATA}) as site:
        output, _ = ensure(tmp_path, f"{site.url}/x.bin", "1000000").communicate(timeout=GUARD)
        assert "the disk is full" in output
        assert "lllms rm" in output
        site.requests.clear()
        Store(tmp_path, [HttpDownloader()]).ensure(f"{site.url}/x.bin", sha256(DATA))
        assert site.requests[0][1] != "bytes=0-67108863"
