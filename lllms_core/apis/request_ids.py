"""The ids of requests, told to their clients in a header of the answer: with it a request can be found and cancelled.

Each request has an id of its own. A client, or a proxy before it, may send another in the same header: the log shows
both, the answer repeats the client's, and either finds the request.
"""

import re
from contextvars import ContextVar

HEADER = "X-Request-Id"
TRACE = "traceparent"
"""The header of a W3C trace, which the trace of a request continues."""

_VALID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_VALID_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_last: ContextVar[str | None] = ContextVar("lllms_request_id", default=None)


def note_request(request_id: str) -> None:
    """Record, for the current task, the id of a request that was submitted; of several, the last one counts."""
    _last.set(request_id)


def noted_request() -> str | None:
    """Return the id that was recorded last in this task; None if there is none."""
    return _last.get()


def valid_id(sent: str | None) -> str:
    """Return the id that a client sent; "" for none, and for one that is too long or has other characters than ids."""
    return sent if sent is not None and _VALID.fullmatch(sent) else ""


def valid_trace(sent: str | None) -> str:
    """Return the `traceparent` that a client sent; "" for none, and for one that is none."""
    return sent if sent is not None and _VALID_TRACE.fullmatch(sent) else ""
