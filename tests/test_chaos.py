"""Chaos: for a few seconds with every test run, and for a minute with `make chaos`."""

import os
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from chaos import Chaos
from load_rounds import MOCK, TINY, started
from storm_for_tests import WEIGHTS, is_written, schedule

pytestmark = pytest.mark.slow


def test_a_few_seconds(tmp_path: Path) -> None:
    """Workers die, clients leave: every request gets an answer or an error with its cause, and nothing remains."""
    run = Chaos(4.0, 7, 8, tmp_path, "json")
    assert run.run(), run.summary()


def test_a_seed_is_a_schedule() -> None:
    """A seed gives the same faults at the same times, another seed others; a minute has every kind of them."""
    first, again, other = (list(islice(schedule(seed, 3.0), 180)) for seed in (7, 7, 8))
    assert first == again != other
    assert Counter(fault.kind for fault in first).keys() == WEIGHTS.keys()
    assert 40 < sum(fault.after for fault in first) < 80


def test_the_wire_is_told_from_other_pipes() -> None:
    """The end of a pipe that is written is told from the one that is read, and from a file."""
    read, write = os.pipe()
    try:
        assert is_written(Path(f"/proc/self/fd/{write}"))
        assert not is_written(Path(f"/proc/self/fd/{read}"))
    finally:
        os.close(read)
        os.close(write)


def test_a_few_rounds(tmp_path: Path) -> None:
    """Models that are loaded and unloaded leave no descriptor, child, thread or memory behind."""
    lines: list[str] = []
    with started(tmp_path, 0, lines.append) as rounds:
        rounds.run(MOCK, 6, 2)
        rounds.run(TINY, 4, 2)
    assert not rounds.wrong, "\n".join([*rounds.wrong, *lines])


@pytest.mark.chaos
def test_a_minute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a minute and 500 faults, with 16 clients, and with a new seed each time, which is printed."""
    run = Chaos(60.0, random.SystemRandom().randrange(10**6), 16, tmp_path, faults=500)
    good = run.run()
    with capsys.disabled():
        print(f"\n{run.summary()}")  # noqa: T201  # the summary is the point of the run
    assert good, run.summary()
