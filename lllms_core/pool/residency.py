"""Which instances serve their own requests before they make room for another model; pure."""

from collections.abc import Iterable

from lllms_core.pool.queue import Queue
from lllms_core.pool.state import InstanceEntry, PoolLimits, Ticket


def staying(
    instances: Iterable[InstanceEntry], claim: Ticket, queue: Queue, limits: PoolLimits, now: float,
) -> frozenset[str]:
    """Return the instances that make no room yet for the model of `claim`, which has no instance.

    An instance that is in use stays for `min_residency` seconds after its load; then as long as equally urgent requests
    wait for its model, until `claim` has waited for `max_wait_before_swap` seconds.
    """
    return frozenset(entry.id for entry in instances if _stays(entry, claim, queue, limits, now))


def _stays(entry: InstanceEntry, claim: Ticket, queue: Queue, limits: PoolLimits, now: float) -> bool:
    rank = queue.rank(entry.model)
    if rank is None and not entry.running:
        return False
    if entry.state == "loading" or now < entry.ready_since + limits.min_residency:
        return True
    return rank is not None and rank <= claim.rank and not queue.aged(claim, now)
