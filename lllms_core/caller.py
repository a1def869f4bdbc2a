"""Who sends a request, and how urgent it is: what the queue knows of a client."""

from contextvars import ContextVar
from typing import Literal

from attrs import frozen

from lllms_core.text.wildcards import NamePattern

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
    models: tuple[str, ...] | None = None
    """The names of the models that it may use, with `*` for any text; all others are unknown to it. None: all."""
    key: str | None = None
    """The name of its API key; None: it is not known by one."""
    known: bool = True
    """False: it has shown no key to a server that has keys, and learns only whether the server is well."""
    request_id: str = ""
    """Its own name for the request (`X-Request-Id`); "" if it gave none."""
    trace: str = ""
    """Its `traceparent`, for traces; "" if it sent none."""

    def may_use(self, *names: str) -> bool:
        """Whether it may use the model with these names."""
        return self.models is None or any(_fits(one, name) for one in self.models for name in names)


def _fits(wanted: str, name: str) -> bool:
    return NamePattern(wanted).fits(name) if "*" in wanted else wanted == name


NOBODY = Caller()

CALLER: ContextVar[Caller] = ContextVar("lllms_caller", default=NOBODY)
"""The sender of the requests that are submitted in this context. The web application sets it; a program that embeds the
host for several users may."""
