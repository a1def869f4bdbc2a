"""Which instances serve their own requests before they make room for another model; pure."""

from collections.abc import Callable

from lllms_core.pool.queue import Queue
from lllms_core.pool.state import InstanceEntry, PoolLimits, Ticket

Stays = Callable[[InstanceEntry], bool]
"""Whether an instance makes no room for another model yet, even if it is idle."""


def stays_for(claim: Ticket, queue: Queue, limits: PoolLimits, now: float) -> Stays:
    """Return which instances make no room yet for the model of `claim`, which has no instance.

    An instance that is in use stays for `min_residency` seconds after its load; then as long as requests wait for its
    model that are as urgent as `claim`, or older if both have waited for `max_wait_before_swap` seconds.
    """
    aged, theirs = queue.aged(claim, now), queue.urgency(claim, now)
    claims: dict[str, tuple[int, int] | None] = {}

    def urgency(model: str) -> tuple[int, int] | None:
        if model not in claims:
            own = queue.claim(model, now)
            claims[model] = None if own is None else queue.urgency(own, now)
        return claims[model]

    def stays(entry: InstanceEntry) -> bool:
        ours = urgency(entry.model)
        if ours is None and not entry.running:
            return False
        if entry.state == "loading" or now < entry.ready_since + limits.min_residency:
            return True
        return ours is not None and (ours < theirs if aged else ours[0] <= theirs[0])

    return stays
