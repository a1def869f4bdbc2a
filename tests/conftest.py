"""What several tests of workers, the pool and the host share."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

# Worker processes find the tests' engines by the same path.
sys.path.insert(0, str(Path(__file__).parent))

from pools_for_tests import Pools

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Whoever started the tests in the background had Ctrl-C ignored, which programs started here would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    """A maker of pools, which are closed in the end; then no child is left."""
    before = set(psutil.Process().children(recursive=True))
    made = Pools()
    yield made
    await made.close()
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A pipe at which a load waits until somebody opens and closes it for writing."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path
    end = os.open(path, os.O_RDWR)
    path.unlink()  # who comes later finds nothing
    os.close(end)  # who still waits there goes on
