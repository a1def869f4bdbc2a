"""Writing parts of a streamed response from a callback, without a switch to the task that serves the request.

A server offers it for a request by an extension of ASGI; without it, and whenever it is not free, the parts go the
usual way.
"""

from typing import Protocol, cast

from quart import has_request_context, request

EXTENSION = "lllms.direct"
"""The name of the extension: its value is a `DirectBody`."""


class DirectBody(Protocol):
    """The body of one response, whose task has sent everything that it has yielded and waits for more."""

    @property
    def free(self) -> bool:
        """Whether bytes can be written at once: the client is there, and nothing else waits to be sent to it."""

    def write(self, data: bytes) -> None:
        """Send a part of the body; call it only while it is `free`."""


def direct_body() -> DirectBody | None:
    """Return the direct way to the body of the response to the present request; None if its server offers none."""
    if not has_request_context():
        return None
    return cast("DirectBody | None", (request.scope.get("extensions") or {}).get(EXTENSION))
