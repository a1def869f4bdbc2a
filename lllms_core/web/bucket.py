"""A token bucket: bursts are allowed, and a rate in the long run; pure, with the time as an argument."""

import math

from attrs import define, field

_ROUNDING = 1e-9
"""Of one: what sums of fractions may lack, like a sixtieth of one taken sixty times."""


@define
class Bucket:
    """Fills evenly up to `most`, at a rate of `a_second`."""

    most: float
    a_second: float
    _level: float = field(init=False)
    _at: float = -math.inf

    @_level.default
    def _full(self) -> float:
        return self.most

    def resize(self, most: float, a_second: float) -> None:
        """Give it another size and rate; what is in it and fits stays."""
        self.most, self.a_second = most, a_second
        self._level = min(self._level, most)

    def take(self, now: float) -> float:
        """Take one out and return 0, or the seconds until there is one to take."""
        if now > self._at:
            self._level = min(self.most, self._level + (now - self._at) * self.a_second)
            self._at = now
        if self._level < 1 - _ROUNDING:
            return (1 - self._level) / self.a_second
        self._level = max(0.0, self._level - 1)
        return 0.0
