"""How fast requests write, from two looks at their counts of tokens; pure."""

from collections.abc import Iterable, Mapping

from attrs import define, field

from lllms_core.status import RequestStatus

SPAN = 2.0
"""Seconds over which a pace is taken: shorter ones jump with every pass of a batch."""


@define
class Paces:
    """Remembers the counts of the last looks, as far back as a pace needs."""

    _seen: dict[str, list[tuple[float, int]]] = field(factory=dict)
    """By request: times and counts, the oldest first."""

    def look(self, requests: Iterable[RequestStatus], now: float) -> Mapping[str, float]:
        """Return the tokens per second of each request that has written for a while, by its id."""
        before, self._seen = self._seen, {}
        paces: dict[str, float] = {}
        for one in requests:
            if one.tokens == 0:
                continue
            counts = [*before.get(one.id, []), (now, one.tokens)]
            while len(counts) > 2 and counts[1][0] <= now - SPAN:
                del counts[0]
            self._seen[one.id] = counts
            since, first = counts[0]
            if now > since:
                paces[one.id] = round((one.tokens - first) / (now - since), 1)
        return paces
