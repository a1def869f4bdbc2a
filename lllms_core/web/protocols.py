"""Hypercorn's protocols, with an HTTP/2 that survives malformed requests and floods of requests that are reset."""

import asyncio
import contextlib
import logging

import h2.events
import h2.exceptions
import h11
from h2.errors import ErrorCodes
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol

from lllms_core.web.bucket import Bucket
from lllms_core.web.http1_body import DirectApp, Line
from lllms_core.web.seldom import Seldom

MOST_RESETS, RESETS_A_SECOND = 200, 20.0
"""How many requests an HTTP/2 client may reset at once, and in the long run. Twice as many as it may have open, so that
a proxy whose clients all leave stays connected; a reset request costs milliseconds (CVE-2023-44487)."""
PART = 2**13
"""Bytes that are handled before other connections have their turn."""

FLOODS = Seldom(logging.getLogger("lllms.http"))


class Protocols(ProtocolWrapper):
    """The protocol of a connection: HTTP/1, then HTTP/2 after a preface or an upgrade.

    A client that chose HTTP/2 in its TLS handshake sends the preface, too.
    """

    def offer(self, line: Line) -> None:
        """Let responses over HTTP/1 be written to the connection directly."""
        if isinstance(self.protocol, H11Protocol):
            self.protocol.app = DirectApp(self.app, self.protocol, line)

    async def handle(self, event: Event) -> None:
        """Handle an event of the connection."""
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            await self._switch(error.data)
        except H2CProtocolRequiredError as error:
            await self._switch(error.data, error.headers, error.settings)

    @property
    def idle(self) -> bool:
        """Whether it is HTTP/2 without a request; to HTTP/1 the preface is a request that never ends."""
        return isinstance(self.protocol, H2Protocol) and self.protocol.idle

    @property
    def half_sent(self) -> bool:
        """Whether it has requests, none of which has arrived completely."""
        if isinstance(self.protocol, H11Protocol):
            return self.protocol.connection.their_state is h11.SEND_BODY
        return isinstance(self.protocol, Http2) and bool(self.protocol.streams) and (
            self.protocol.unended >= self.protocol.streams.keys()
        )

    @property
    def sends_more(self) -> bool:
        """Whether the client may be in the middle of a request."""
        return isinstance(self.protocol, H11Protocol) and (
            self.protocol.connection.their_state in {h11.SEND_BODY, h11.ERROR}
        )

    @property
    def pending(self) -> int:
        """Bytes that wait for the client's flow control."""
        if isinstance(self.protocol, H11Protocol):
            return 0
        return sum(len(one.buffer) for one in self.protocol.stream_buffers.values())

    async def _switch(
        self, data: bytes, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None,
    ) -> None:
        protocol = self.protocol = Http2(
            self.app, self.config, self.context, self.task_group, self.state, self.ssl, self.client, self.server,
            self.send,
        )
        await protocol.initiate(headers, settings)
        if data:
            await protocol.handle(RawData(data))


class Http2(H2Protocol):
    """An HTTP/2 in which a fault of one stream does not end the others, and which ends if too many are reset."""

    unended: frozenset[int] = frozenset()
    """The streams whose requests have not arrived completely."""
    _flooded = False
    _resets: Bucket

    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None,
    ) -> None:
        """Begin the connection."""
        self._resets = Bucket(MOST_RESETS, RESETS_A_SECOND)
        await super().initiate(headers, settings)

    async def handle(self, event: Event) -> None:
        """Handle an event of the connection."""
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        for at in range(0, len(event.data), PART):
            if at:
                await asyncio.sleep(0)
            if self._flooded:
                return
            await super().handle(RawData(event.data[at : at + PART]))

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        # A request that its client has already reset never begins.
        reset = {one.stream_id for one in events if isinstance(one, h2.events.StreamReset)}
        for event in events:
            stream = getattr(event, "stream_id", None) or 0
            if isinstance(event, h2.events.StreamReset) and self._resets.take(asyncio.get_running_loop().time()):
                await self._end_flood()
                return
            if isinstance(event, h2.events.RequestReceived):
                if stream in reset:
                    continue
                self.unended |= {stream}
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.unended -= {stream}
            if isinstance(event, h2.events.RequestReceived) and not _is_plain(event):
                with contextlib.suppress(h2.exceptions.ProtocolError):  # reset by the client meanwhile
                    self.connection.reset_stream(stream, ErrorCodes.PROTOCOL_ERROR)
            elif isinstance(event, h2.events.DataReceived) and stream not in self.streams:
                # The request was answered before it was complete; the other streams need the window.
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, stream)
            else:
                await super()._handle_events([event])
        await self._flush()

    async def _end_flood(self) -> None:
        """Tell the client why, and close the connection; that ends its requests."""
        self._flooded = True
        FLOODS.warning(
            "a connection was closed: its client reset more than %d requests of HTTP/2, faster than %d a second",
            MOST_RESETS, RESETS_A_SECOND,
        )
        self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
        await self._flush()
        await self.send(Closed())


def _is_plain(request: h2.events.RequestReceived) -> bool:
    """Whether a request has a path and a method in ASCII, without which Hypercorn fails."""
    headers = dict(request.headers or ())
    return all(name in headers and headers[name].isascii() for name in (b":method", b":path"))
