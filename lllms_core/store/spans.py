"""Sets of a file's bytes; pure."""

import sys
from collections.abc import Iterable

from attrs import frozen

from lllms_core.downloads import Span


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        elif start < stop:
            joined.append((start, stop))
    return tuple(joined)


@frozen
class Spans:
    """A set of bytes, as ordered spans that neither overlap nor touch."""

    spans: tuple[Span, ...] = ()

    @classmethod
    def of(cls, spans: Iterable[Span], limit: int = sys.maxsize) -> "Spans":
        """Return the bytes of `spans`, in any order, below `limit`; empty and reversed spans are dropped."""
        return cls(_joined((max(0, start), min(stop, limit)) for start, stop in spans if max(0, start) < stop))

    @property
    def count(self) -> int:
        """The number of bytes."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def prefix(self) -> int:
        """The number of bytes from the start up to the first gap."""
        return self.spans[0][1] if self.spans and self.spans[0][0] == 0 else 0

    def add(self, start: int, stop: int) -> "Spans":
        """Return these bytes and those of one more span."""
        if self.spans and start == self.spans[-1][1] and start < stop:  # the usual case
            return Spans((*self.spans[:-1], (self.spans[-1][0], stop)))
        return Spans(_joined((*self.spans, (start, stop))))

    def missing(self, size: int | None) -> tuple[Span, ...]:
        """Return the missing spans of a file of `size` bytes; if that is unknown, one span without an end."""
        if size is None:
            return ((self.prefix, sys.maxsize),)
        gaps: list[Span] = []
        at = 0
        for start, stop in self.spans:
            if at < min(start, size):
                gaps.append((at, min(start, size)))
            at = max(at, stop)
        return (*gaps, (at, size)) if at < size else tuple(gaps)
