"""Cancellation of work in a side thread whose result is no longer wanted; such work checks every few milliseconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

_flag: ContextVar[Event | None] = ContextVar("cancelled", default=None)


class WorkCancelled(BaseException):
    """The work of this thread is no longer wanted. No `except Exception` catches it."""


@contextmanager
def cancelled_by(flag: Event) -> Iterator[None]:
    """Let `check_cancelled` raise in this thread once `flag` is set."""
    token = _flag.set(flag)
    try:
        yield
    finally:
        _flag.reset(token)


def check_cancelled() -> None:
    """Raise `WorkCancelled` if the work of this thread is no longer wanted; costs next to nothing."""
    flag = _flag.get()
    if flag is not None and flag.is_set():
        raise WorkCancelled
