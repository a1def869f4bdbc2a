"""A worker's unfinished requests, whose deltas from the model are checked and timed."""

from collections.abc import Collection, Iterable, Sequence
from time import monotonic

from attrs import evolve

from lllms_core.engines.base import ContractBroken
from lllms_core.types import Delta, Timings
from lllms_core.values.violations import kind_of


class OpenRequests:
    """Knows which requests are open, when each arrived, and when its answer began."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        """The requests that the model has taken but not ended."""
        self._arrived: dict[str, float] = {}
        """Arrival times of the requests without an answer yet."""
        self._begun: dict[str, tuple[float, float]] = {}
        """Arrival times of the others, and the times when their answers began."""

    def arrive(self, request_id: str) -> None:
        """Record that a request has arrived; the model may not have taken it yet."""
        self._arrived[request_id] = monotonic()

    @property
    def awaited(self) -> bool:
        """Whether the answer to any request has yet to begin."""
        return bool(self._arrived)

    def late(self, since: float) -> Collection[str]:
        """Return the requests that arrived before `since` and have no answer yet."""
        return {request_id for request_id, arrived in self._arrived.items() if arrived <= since}

    def take(self, request_id: str) -> None:
        """Record that the model has taken a request."""
        self._ids.add(request_id)

    def checked(self, method: str, deltas: Iterable[Delta]) -> Sequence[Delta]:
        """Return the deltas that a method of the model returned. Raises `ContractBroken` for anything else."""
        if not isinstance(deltas, Iterable):
            raise ContractBroken(f"`{method}` returned {kind_of(deltas)}; it must return an iterable of Delta")
        told = tuple(deltas)
        for delta in told:
            if not isinstance(delta, Delta):
                raise ContractBroken(f"`{method}` returned {kind_of(delta)} among its deltas; each must be a Delta")
            if delta.request_id not in self._ids:
                raise ContractBroken(
                    f"`{method}` returned a delta of no open request; its `request_id` must be the id of one",
                )
            if delta.last:
                self._ids.remove(delta.request_id)
        return told

    def timed(self, deltas: Iterable[Delta]) -> tuple[Delta, ...]:
        """Return the deltas, those that end an answer with its timings."""
        told = tuple(deltas)
        # This runs for every token: most deltas neither begin an answer nor end one.
        if self._arrived or any([delta.finish or delta.error for delta in told]):  # noqa: C419  # costs half as much
            told = tuple([self._timed(delta) for delta in told])
        return told

    def _timed(self, delta: Delta) -> Delta:
        now = monotonic()
        if delta.request_id in self._arrived:  # while others wait for their first piece, false for most
            self._begun[delta.request_id] = self._arrived.pop(delta.request_id), now
        if not delta.last:
            return delta
        arrived, begun = self._begun.pop(delta.request_id, (now, now))
        if delta.finish is None:
            return delta
        return evolve(delta, finish=evolve(delta.finish, timings=Timings(prompt=begun - arrived, answer=now - begun)))
