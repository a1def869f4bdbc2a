"""Fixtures shared by several tests of workers, the pool and the host."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partialmethod
from inspect import signature
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

# Worker processes find the tests' engines by the same path.
sys.path.insert(0, str(Path(__file__).parent))

from pools_for_tests import Pools

from lllms_core.pool import pool

# A spare worker is a second of work for the server of each test. Tests of spare workers ask for some.
os.environ.setdefault("LLLMS_SPARE_WORKERS", "0")
pool.spare_workers = lambda server, models: 0  # type: ignore[assignment]

if "mix_stderr" in signature(CliRunner).parameters:
    # click 8.1, which lllms works with, has both outputs either apart or together. These tests want both, as in 8.2.
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)  # type: ignore[assignment,method-assign]
    Result.output = property(lambda result: result.stdout + result.stderr)  # type: ignore[assignment,method-assign]

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A background start of the tests ignores Ctrl-C, which programs started here would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    """Starts pools, which are closed at the end; then no child process is left."""
    before = set(psutil.Process().children(recursive=True))
    made = Pools()
    yield made
    await made.close()
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A pipe that blocks a load until the test opens it for writing and closes it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path
    end = os.open(path, os.O_RDWR)
    path.unlink()  # later loads find nothing
    os.close(end)  # releases loads that still wait
