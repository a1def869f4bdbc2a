"""Who sends a request, and how urgent it is: what the queue knows of a client."""

from contextvars import ContextVar
from typing import Literal

from attrs import frozen

Priority = Literal["low", "normal", "high"]


@frozen
class Caller:
    """The sender of a request, for the fairness of the queue."""

    client: str = ""
    """Equal for the requests of one client; "" for a program that embeds the host. It contains no key."""
    priority: Priority | None = None
    """None: that of the request's model."""
    patience: float | None = None
    """Seconds that the request may wait, if that is less than `server.queue_timeout`; None: no limit of its own."""
    key: str = ""
    """The name of its API key, for logs and metrics; "" without one."""
    request_id: str = ""
    """Its own name for the request (`X-Request-Id`); "" if it gave none."""
    trace: str = ""
    """Its `traceparent`, for traces; "" if it sent none."""


NOBODY = Caller()

CALLER: ContextVar[Caller] = ContextVar("lllms_caller", default=NOBODY)
"""The sender of the requests that are submitted in this context. The web application sets it; a program that embeds the
host for several users may."""
