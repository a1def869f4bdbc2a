"""Offers the bodies of responses over HTTP/1 to callbacks, see `lllms_core.apis.direct`.

HTTP/2 offers nothing: its flow control belongs to Hypercorn's tasks.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast

import h11
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper, ASGIReceiveCallable, ASGISendCallable, Scope

from lllms_core.apis.direct import EXTENSION


class Line(Protocol):
    """The connection to a client."""

    @property
    def free(self) -> bool:
        """Whether nothing waits to be sent, and it is not about to close."""

    def write_now(self, data: bytes) -> None:
        """Write without waiting; call it only while it is `free`."""


class Http1Body:
    """The body of the response that a protocol is sending; a `DirectBody`."""

    def __init__(self, protocol: H11Protocol, line: Line) -> None:
        self._protocol = protocol
        self._stream = protocol.stream
        self._line = line
        self._chunked = False
        """Whether h11 has framed a part of it as a chunk: it frames all of them alike."""

    @property
    def free(self) -> bool:
        """Whether the response's headers are sent, its end is not, and nothing waits for the client."""
        protocol = self._protocol
        return (
            self._stream is not None and protocol.stream is self._stream
            and protocol.connection.our_state is h11.SEND_BODY and self._line.free
        )

    def write(self, data: bytes) -> None:
        """Send a part of the body, framed as the response's headers say."""
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        if not self._chunked:
            framed = self._protocol.connection.send(h11.Data(data=data))
            self._chunked = framed == chunk
            chunk = framed
        self._line.write_now(chunk)


class DirectApp:
    """The application of one connection over HTTP/1, whose requests are offered the extension."""

    def __init__(self, app: AppWrapper, protocol: H11Protocol, line: Line) -> None:
        self._app = app
        self._protocol = protocol
        self._line = line

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable,
        sync_spawn: Callable[..., Any], call_soon: Callable[..., Any],
    ) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] != "HEAD":
            cast("dict[str, object]", scope["extensions"])[EXTENSION] = Http1Body(self._protocol, self._line)
        await self._app(scope, receive, send, sync_spawn, call_soon)
