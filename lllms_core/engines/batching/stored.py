"""The sessions that were stored last: another conversation with nearly the same tokens need not be stored as well."""

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from attrs import define, field

from lllms_core.engines.batching.sequences import common_prefix

MOST = 8
SURELY = 300.0
"""Seconds for which a session is taken to be stored: the store may delete it at any time, and tells nobody."""


@define
class StoredPrefixes:
    """The tokens of the last few sessions that were stored, as the shared prefixes of others."""

    _clock: Callable[[], float] = monotonic
    _stored: deque[tuple[float, Sequence[int]]] = field(factory=lambda: deque(maxlen=MOST), init=False)

    def add(self, tokens: Sequence[int]) -> None:
        """Note that a session of these tokens was stored."""
        self._stored.append((self._clock(), tokens))

    def shared(self, tokens: Sequence[int]) -> int:
        """Return how many leading tokens these share with a session that is surely stored."""
        now = self._clock()
        while self._stored and now - self._stored[0][0] > SURELY:
            self._stored.popleft()
        return max((common_prefix(tokens, one) for _, one in self._stored), default=0)

    def clear(self) -> None:
        """Know nothing any more."""
        self._stored.clear()
