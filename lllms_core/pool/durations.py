"""How long requests and loads took, and what that says about the next ones; pure."""

import math
from collections.abc import Mapping

WEIGHT = 0.2
"""The share of the latest value in a mean."""
LONGEST_RETRY_AFTER = 60
GUESS = 1.0
"""Seconds that a request takes, before any has ended."""


class Durations:
    """Exponential means of the seconds that requests and loads of each model took."""

    def __init__(self) -> None:
        self._requests: dict[str, float] = {}
        self._loads: dict[str, float] = {}

    def forget(self, model: str) -> None:
        """Forget a model that is gone."""
        self._requests.pop(model, None)
        self._loads.pop(model, None)

    def served(self, model: str, seconds: float) -> None:
        """Note how long a request held its slot."""
        _note(self._requests, model, seconds)

    def loaded(self, model: str, seconds: float) -> None:
        """Note how long a load took."""
        _note(self._loads, model, seconds)

    def retry_after(
        self, model: str, waiting: Mapping[str, int], slots: Mapping[str, int], concurrency: int,
    ) -> int:
        """Return the seconds after which a refused request for a model will likely find its turn.

        `waiting` counts the requests that wait for each model, `slots` those of each model that is loaded.
        """
        work = sum(count * self._request_seconds(name) for name, count in waiting.items())
        own = (waiting.get(model, 0) + 1) * self._request_seconds(model)
        turns = max((work + self._request_seconds(model)) / concurrency, own / slots.get(model, concurrency))
        loads = sum(self._loads.get(name, 0.0) for name in {model, *waiting} if name not in slots)
        return min(max(1, math.ceil(turns + loads)), LONGEST_RETRY_AFTER)

    def _request_seconds(self, model: str) -> float:
        known = self._requests
        return known.get(model, sum(known.values()) / len(known) if known else GUESS)


def _note(means: dict[str, float], model: str, seconds: float) -> None:
    means[model] = means.get(model, seconds) + WEIGHT * (seconds - means.get(model, seconds))
