"""Failures of the models' instances, and the times at which kept instances are tried again; pure."""

from math import inf

from attrs import frozen

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds between a failure and the next try; each consecutive failure doubles the pause."""
HEALTHY = 60.0
"""An instance that served for this many seconds was no failure: the count restarts."""


@frozen
class Setback:
    """The last failure of a model's instances."""

    reason: str
    """For people."""
    count: int
    """The number of consecutive failures."""
    retry_at: float
    """When a kept instance is tried again without a request for it; `inf`: never."""


class Setbacks:
    """The last failure of each model that had one."""

    def __init__(self) -> None:
        self._last: dict[str, Setback] = {}

    def note(self, model: str, reason: str, now: float, *, served: float = 0.0, least: float = 0.0) -> None:
        """Record that an instance failed after it `served` for some seconds; the pause is at least `least` seconds."""
        before = 0 if served >= HEALTHY or model not in self._last else self._last[model].count
        pause = min(FIRST_PAUSE * 2 ** min(before, 10), LONGEST_PAUSE)
        self._last[model] = Setback(reason, before + 1, now + max(pause, least))

    def give_up(self, model: str, reason: str) -> None:
        """Do not retry before the next request: another try would end the same way."""
        self._last[model] = Setback(reason, 1, inf)

    def clear(self, model: str) -> None:
        """Forget the failure: its cause is gone."""
        self._last.pop(model, None)

    def get(self, model: str) -> Setback | None:
        """Return the last failure, even if instances have been loaded since."""
        return self._last.get(model)

    def paused(self, model: str, now: float) -> bool:
        """Whether it is too early for the next try."""
        last = self._last.get(model)
        return last is not None and last.retry_at > now
