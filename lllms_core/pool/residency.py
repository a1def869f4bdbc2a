"""Which instances serve their own requests before they make room for another model; pure."""

from collections.abc import Iterable

from lllms_core.pool.queue import Queue
from lllms_core.pool.state import InstanceEntry, PoolLimits, Ticket


def staying(
    instances: Iterable[InstanceEntry], claim: Ticket, queue: Queue, limits: PoolLimits, now: float,
) -> frozenset[str]:
    """Return the instances that make no room yet for the model of `claim`, which has no instance.

    An instance that is in use stays for `min_residency` seconds after its load; then as long as requests wait for its
    model that are as urgent as `claim`, or older if both have waited for `max_wait_before_swap` seconds.
    """
    return frozenset(entry.id for entry in instances if _stays(entry, claim, queue, limits, now))


def _stays(entry: InstanceEntry, claim: Ticket, queue: Queue, limits: PoolLimits, now: float) -> bool:
    own = queue.claim(entry.model, now)
    if own is None and not entry.running:
        return False
    if entry.state == "loading" or now < entry.ready_since + limits.min_residency:
        return True
    if own is None:
        return False
    ours, theirs = queue.urgency(own, now), queue.urgency(claim, now)
    return ours < theirs if queue.aged(claim, now) else ours[0] <= theirs[0]
