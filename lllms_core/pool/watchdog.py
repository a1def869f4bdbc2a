"""Notices a worker that has work and does not get on with it."""

import asyncio
from collections.abc import Callable

from attrs import define

LOOKS = 30
"""The limit is so many looks; a stuck worker is found within two of them after it."""


@define(eq=False)
class Watchdog:
    """Looks after a worker while it is busy, and costs nothing per message but an assignment to `heard`."""

    limit: float
    """Seconds without a sign of life; 0: watch nothing."""
    busy: Callable[[], bool]
    """Whether the worker has work."""
    probe: Callable[[], None]
    """Asks the worker for a sign of life, if it gets on."""
    expired: Callable[[], None]
    """Called once when the limit is reached."""
    heard: bool = False
    """Set it to True at every sign of life."""
    _misses: int = 0
    _due: float = 0.0
    _timer: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> float:
        """Seconds without a sign of life at the last look."""
        return self._misses * self._interval

    def start(self) -> None:
        """There is more work: watch until there is none."""
        self.heard = True
        if self._timer is None and self.limit > 0:
            self._arm()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._misses = 0

    @property
    def _interval(self) -> float:
        return self.limit / LOOKS

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._interval
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.busy():
            self._misses = 0
            return
        if self.heard:
            self._misses = 0
        elif asyncio.get_running_loop().time() - self._due <= self._interval:
            self._misses += 1
        # Else this process stood still, and perhaps the machine: that says nothing about the worker.
        if self._misses >= LOOKS:
            self.expired()
            return
        if not self.heard:
            self.probe()
        self.heard = False
        self._arm()
