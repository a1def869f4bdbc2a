"""The ids of requests, told to their clients in a header of the answer: with it a request can be cancelled."""

from contextvars import ContextVar

HEADER = "X-Request-Id"

_last: ContextVar[str | None] = ContextVar("lllms_request_id", default=None)


def note_request(request_id: str) -> None:
    """Record, for the current task, the id of a request that was submitted; of several, the last one counts."""
    _last.set(request_id)


def noted_request() -> str | None:
    """Return the id that was recorded last in this task; None if there is none."""
    return _last.get()
