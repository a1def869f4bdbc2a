"""Hypercorn's protocols, with an HTTP/2 that survives malformed requests."""

import contextlib

import h2.events
import h2.exceptions
import h11
from h2.errors import ErrorCodes
from hypercorn.events import Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol


class Protocols(ProtocolWrapper):
    """The protocol of a connection: HTTP/1, then HTTP/2 after a preface or an upgrade.

    A client that chose HTTP/2 in its TLS handshake sends the preface, too.
    """

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
    """An HTTP/2 in which a fault of one stream does not end the others."""

    unended: frozenset[int] = frozenset()
    """The streams whose requests have not arrived completely."""

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            stream = getattr(event, "stream_id", None) or 0
            if isinstance(event, h2.events.RequestReceived):
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


def _is_plain(request: h2.events.RequestReceived) -> bool:
    """Whether a request has a path and a method in ASCII, without which Hypercorn fails."""
    headers = dict(request.headers or ())
    return all(name in headers and headers[name].isascii() for name in (b":method", b":path"))
