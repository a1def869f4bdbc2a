"""What a queued request waits for; pure."""

from typing import Protocol

from lllms_core.pool.budget import Wait
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.state import Ticket
from lllms_core.status import DownloadStatus, Waiting


class KnowsProgress(Protocol):
    """Knows how far loads and fetches are."""

    def load_progress(self, instance_id: str) -> float:
        """Return how much of an instance's load is done, 0 to 1."""

    def fetch_of(self, model: str) -> DownloadStatus | None:
        """Return the fetch of a model's weights to another place that is the furthest; None if none runs."""


def waiting(
    scheduler: Scheduler, ticket: Ticket, position: int | None, progress: KnowsProgress, now: float,
) -> Waiting:
    """Describe it."""
    model = ticket.model
    if model in scheduler.preparing:
        return Waiting("downloading", position)
    alive = scheduler.seating.alive(model)
    if not alive and model in scheduler.fleet.fetching:
        fetch = progress.fetch_of(model)  # without one, its files are being looked for
        share = None if fetch is None or not fetch.total else fetch.done / fetch.total
        return Waiting("downloading", position, share, download=fetch)
    if alive and all(instance.state == "loading" for instance in alive):
        return Waiting("loading", position, max(progress.load_progress(instance.id) for instance in alive))
    if alive:
        return Waiting("queued", position, reason=_why_alone(scheduler, model, now))
    if shortage := scheduler.seating.shortage(model):
        return Waiting("memory", position, reason=shortage)
    return Waiting("queued", position, reason=_why_none(scheduler, model))


def _why_alone(scheduler: Scheduler, model: str, now: float) -> str:
    """Return why a model whose instances are all busy gets no more of them, if that is because of a failed load."""
    last = scheduler.setbacks.cooling(model, now)
    if last is None:
        return ""
    return f"another instance cannot be loaded: {last.reason}; next try in {last.retry_at - now:.0f} s at the earliest"


def _why_none(scheduler: Scheduler, model: str) -> str:
    """Return why no instance is being loaded for a model that has none."""
    running, limits = len(scheduler.running), scheduler.limits
    if running >= limits.concurrency:
        return f"{running} of {limits.concurrency} requests (server.concurrency) are running"
    if not scheduler.seating.known(model) or not isinstance(scheduler.seating.decide(model), Wait):
        return ""
    if any(instance.model == model for instance in scheduler.fleet.retired.values()):
        return "an instance with its model's former configuration has yet to finish its requests"
    if scheduler.fleet.closing:
        return "an instance is being unloaded to make room for its model"
    return f"its model needs one of {limits.max_instances} places (server.max_instances), and all are taken"
