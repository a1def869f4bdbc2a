"""The conversations that an instance has seen; pure."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

CAPACITY = 4096
"""The number of prefixes remembered for an instance; the least recently seen are forgotten first."""


class SeenPrefixes:
    """The prefixes of the requests sent to an instance, as chained keys: equal keys mean equal prefixes."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, keys: Sequence[Hashable]) -> None:
        """Remember a request by the keys of its prefixes, shortest first."""
        for key in keys[-self._capacity :]:  # a long text has more, and the first of them would go first
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)

    def longest(self, keys: Sequence[Hashable]) -> int:
        """Return how many of these prefixes were seen: the number of the longest one, 0 for none."""
        return next((n for n in range(len(keys), 0, -1) if keys[n - 1] in self._seen), 0)
