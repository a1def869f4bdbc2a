"""Notices a worker that has work and makes no progress."""

import asyncio
from collections.abc import Callable

from attrs import define

LOOKS = 30
"""The limit is this many looks in a row without a sign of life; a stuck worker is found up to two looks later. Looks
are counted, not seconds: the worker is not to blame for time in which this process or the whole machine stood still."""


@define(eq=False)
class Watchdog:
    """Watches a worker while it is busy; each of its messages costs only an assignment to `heard`."""

    limit: float
    """Seconds without a sign of life; 0: watch nothing."""
    busy: Callable[[], bool]
    """Whether the worker has work."""
    probe: Callable[[], None]
    """Asks the worker for a sign of life, which it gives only if it makes progress."""
    expired: Callable[[], None]
    """Called once when the limit is reached."""
    heard: bool = False
    """Set it to True at every sign of life."""
    _misses: int = 0
    _timer: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> float:
        """Seconds without a sign of life at the last look."""
        return self._misses * self._interval

    def start(self) -> None:
        """Watch until the worker has no more work; call it whenever work is added."""
        if self._timer is None and self.limit > 0:
            self._arm()

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._misses = 0

    @property
    def _interval(self) -> float:
        return self.limit / LOOKS

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.busy():
            self._misses = 0
            return
        self._misses = 0 if self.heard else self._misses + 1
        if self._misses >= LOOKS:
            self.expired()
            return
        if not self.heard:
            self.probe()
        self.heard = False
        self._arm()
