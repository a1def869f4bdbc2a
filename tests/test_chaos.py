"""Chaos: for a few seconds with every test run, and for a minute with `make chaos`."""

import random
from pathlib import Path

import pytest
from chaos import Chaos

pytestmark = pytest.mark.slow


def test_a_few_seconds(tmp_path: Path) -> None:
    """Workers die, clients leave: every request gets an answer or an error with its cause, and nothing remains."""
    run = Chaos(4.0, 7, 8, tmp_path, "json")
    assert run.run(), run.summary()


@pytest.mark.chaos
def test_a_minute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a minute, with more clients, and with a new seed each time, which is printed."""
    run = Chaos(60.0, random.SystemRandom().randrange(10**6), 14, tmp_path)
    good = run.run()
    with capsys.disabled():
        print(f"\n{run.summary()}")  # noqa: T201  # the summary is the point of the run
    assert good, run.summary()
