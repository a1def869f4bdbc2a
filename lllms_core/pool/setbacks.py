"""Failures of the models' instances: when kept ones are tried again, and for how long others cool down; pure."""

from math import inf

from attrs import evolve, frozen

FIRST_PAUSE, FIRST_COOLDOWN, LONGEST_PAUSE = 1.0, 10.0, 300.0
"""Seconds until the next try after the death of an instance, or after a failed load; each consecutive failure of that
kind doubles the pause."""
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
    failed_loads: int = 0
    """The number of consecutive failed loads, up to now; 0 if the last failure was another."""


class Setbacks:
    """The last failure of each model that had one."""

    def __init__(self) -> None:
        self._last: dict[str, Setback] = {}

    def note(self, model: str, reason: str, now: float, *, served: float = 0.0, least: float = 0.0) -> None:
        """Record that an instance failed after it `served` for some seconds; the pause is at least `least` seconds."""
        before = 0 if served >= HEALTHY or model not in self._last else self._last[model].count
        self._last[model] = Setback(reason, before + 1, now + max(_pause(FIRST_PAUSE, before), least))

    def note_load(self, model: str, reason: str, now: float) -> float:
        """Record that a load failed, so that the model cools down; return for how long."""
        last = self._last.get(model)
        count, loads = (0, 0) if last is None else (last.count, last.failed_loads)
        pause = _pause(FIRST_COOLDOWN, loads)
        self._last[model] = Setback(reason, count + 1, now + pause, loads + 1)
        return pause

    def give_up(self, model: str, reason: str) -> None:
        """Do not retry before the next request: another try would end the same way."""
        self._last[model] = Setback(reason, 1, inf)

    def loaded(self, model: str) -> None:
        """Record that a load has succeeded: the model does not cool down. What was said of kept instances stays."""
        if (last := self._last.get(model)) is not None and last.failed_loads:
            self._last[model] = evolve(last, failed_loads=0)

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

    def cooling(self, model: str, now: float) -> Setback | None:
        """Return the failure of the model's last load while the model cools down; None if it does not."""
        last = self._last.get(model)
        return last if last is not None and last.failed_loads and last.retry_at > now else None

    def failed_loads(self) -> dict[str, Setback]:
        """Return the models whose last load failed."""
        return {model: last for model, last in self._last.items() if last.failed_loads}


def _pause(first: float, before: int) -> float:
    return min(first * 2.0 ** min(before, 10), LONGEST_PAUSE)
