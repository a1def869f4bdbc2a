"""The words with which waiting requests are refused; pure."""

from math import ceil

from lllms_core.errors import (
    InsufficientMemory,
    LllmsError,
    ModelLoadFailed,
    ModelUnknown,
    Overloaded,
    QueueFull,
    WaitedTooLong,
)
from lllms_core.pool.state import PoolLimits, Ticket


def cooling_down(model: str, reason: str, seconds: float) -> LllmsError:
    """Return the refusal of a request for a model whose last load failed; it is tried again after some seconds."""
    left = ceil(seconds)
    return ModelLoadFailed(
        f"model '{model}' cannot be loaded: {reason}; next try in {left} s (`lllms load {model}` tries at once)", left,
    )


def cannot_load(ticket: Ticket, reason: str) -> LllmsError:
    """Return the refusal of a request whose model has just failed to load, or to get its files to a place."""
    return ModelLoadFailed(f"model '{ticket.model}' cannot be loaded: {reason}")


def removed(ticket: Ticket) -> LllmsError:
    """Return the refusal of a request whose model a new configuration lacks."""
    return ModelUnknown(f"model '{ticket.model}' was removed from the configuration while the request waited for it")


def replaced(ticket: Ticket) -> LllmsError:
    """Return the refusal of a request that was made for another engine than its model has now."""
    return Overloaded(
        f"a new configuration gave model '{ticket.model}' another engine while the request waited; send it again",
    )


def queue_full(limits: PoolLimits, retry_after: int) -> LllmsError:
    """Return the refusal of a request that finds no place in the queue."""
    return QueueFull(
        f"{limits.queue_size} requests wait already, as many as server.queue_size allows; try again later", retry_after,
    )


def waited_too_long(
    ticket: Ticket, limits: PoolLimits, retry_after: int, *, fetching: bool, shortage: str | None,
) -> LllmsError:
    """Return the refusal of a request whose time in the queue is over.

    `fetching`: the files of its model are being fetched. `shortage`: which memory is missing for its model, if any is.
    """
    own = ticket.until < ticket.arrived + limits.queue_timeout
    text = (
        f"the request waited {ticket.until - ticket.arrived:g} s for model '{ticket.model}', as long as"
        f" {'its header X-Queue-Timeout' if own else 'server.queue_timeout'} allows"
    )
    if fetching:
        return WaitedTooLong(f"{text}; its files are still being fetched", retry_after)
    if shortage:
        return InsufficientMemory(f"{text}; {shortage}", retry_after)
    return WaitedTooLong(text, retry_after)
