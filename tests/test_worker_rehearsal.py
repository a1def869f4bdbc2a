"""A rehearsal of a load in a separate worker, however it ends."""

import logging

import pytest
from broken_engines_for_tests import engine_of
from rehearsing_for_tests import Options, RehearsingEngine

from lllms_core.types import Finding, ModelSpec
from lllms_core.worker import rehearsal
from lllms_core.worker.rehearsal import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.asyncio]


@pytest.mark.parametrize(("end", "found"), [
    ("", Finding("it is slow", fatal=False)), ("refuse", Finding("it is no model")),
    ("raise", Finding("KeyError: 'missing'")), ("die", Finding("the worker ended with status 3")),
])
async def test_a_rehearsal_finds_what_a_load_would(end: str, found: Finding, caplog: pytest.LogCaptureFixture) -> None:
    """A rehearsal returns the warnings of the worker or the reason of its failure, and logs nothing itself."""
    assert await rehearse(RehearsingEngine(), ModelSpec("m", Options(end))) == [found]
    assert caplog.records == []
    assert logging.getLogger("lllms").propagate


async def test_a_rehearsal_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal that never ends is a finding, too."""
    monkeypatch.setattr(rehearsal, "LONGEST", 0.01)
    [found] = await rehearse(RehearsingEngine(), ModelSpec("m", Options("wait")))
    assert found == Finding("its load could not be rehearsed within 0.01 s")


async def test_engines_without_rehearsals_start_no_worker() -> None:
    """An engine without rehearsals is not sent to a worker; this one could not even be sent."""
    assert await rehearse(engine_of(), ModelSpec("m", None)) == []
