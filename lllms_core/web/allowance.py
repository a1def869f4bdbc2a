"""How many requests a key may send and have open; pure, with the time as an argument."""

import math

from attrs import define, field

from lllms_core.config import ApiKey
from lllms_core.web.bucket import Bucket

MINUTE = 60.0
SOON = 1
"""Seconds after which a client may try again that has too many requests open: nobody knows when one will end."""


@define
class Allowance:
    """A bucket that holds the requests of a minute, and a number of places."""

    key: ApiKey
    open: int = 0
    """Requests that have entered and not left."""
    _requests: Bucket | None = field(init=False)

    @_requests.default
    def _full(self) -> Bucket | None:
        rate = self.key.requests_per_minute
        return None if rate is None else Bucket(rate, rate / MINUTE)

    def renewed(self, key: ApiKey) -> "Allowance":
        """Take the key's new limits, at once and for the requests that are open."""
        self.key, rate = key, key.requests_per_minute
        if rate is None or self._requests is None:
            self._requests = self._full()
        else:
            self._requests.resize(rate, rate / MINUTE)
        return self

    def enter(self, now: float) -> tuple[str, int] | None:
        """Let a request in, or return the limit that it exceeds, and the seconds until another try makes sense."""
        places = self.key.concurrency
        if places is not None and self.open >= places:
            return f"{places} requests at once", SOON
        if self._requests is not None and (wait := self._requests.take(now)) > 0:
            return f"{self.key.requests_per_minute} requests a minute", math.ceil(wait)
        self.open += 1
        return None

    def leave(self) -> None:
        """Give the place of a request back."""
        self.open -= 1
