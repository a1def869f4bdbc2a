"""How many requests a key may send and have open; pure, with the time as an argument."""

import math

from attrs import define, field

from lllms_core.config import ApiKey

MINUTE = 60.0
SOON = 1
"""Seconds after which a client may try again that has too many requests open: nobody knows when one will end."""


@define
class Allowance:
    """A token bucket, which fills evenly with the requests of a minute, and a number of places."""

    key: ApiKey
    level: float = field(init=False)
    """Requests that may be sent now."""
    open: int = 0
    """Requests that have entered and not left."""
    _at: float = -math.inf

    @level.default
    def _full(self) -> float:
        return float(self.key.requests_per_minute or 0)

    def renewed(self, key: ApiKey) -> "Allowance":
        """Take the key's new limits, at once and for the requests that are open."""
        rate, before = key.requests_per_minute, self.key.requests_per_minute
        if rate is not None:
            self.level = float(rate) if before is None else min(self.level, float(rate))
        self.key = key
        return self

    def enter(self, now: float) -> tuple[str, int] | None:
        """Let a request in, or return the limit that it exceeds, and the seconds until another try makes sense."""
        places, rate = self.key.concurrency, self.key.requests_per_minute
        if places is not None and self.open >= places:
            return f"{places} requests at once", SOON
        if rate is not None:
            if now > self._at:
                self.level = min(float(rate), self.level + (now - self._at) * rate / MINUTE)
                self._at = now
            if self.level < 1:
                return f"{rate} requests a minute", math.ceil((1 - self.level) * MINUTE / rate)
            self.level -= 1
        self.open += 1
        return None

    def leave(self) -> None:
        """Give the place of a request back."""
        self.open -= 1
