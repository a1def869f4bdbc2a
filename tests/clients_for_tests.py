"""Clients on bare sockets, which send and disconnect as a test wants."""

import asyncio
import json
import socket
from urllib.parse import urlsplit

import h2.config
import h2.connection
from waits_for_tests import GUARD


def connect(url: str) -> socket.socket:
    """Open a connection; this blocks the test's event loop."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=GUARD)


def head(method: str, path: str, *headers: str) -> bytes:
    """The head of an HTTP/1 request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def post(path: str, body: object) -> bytes:
    """A whole HTTP/1 request with a JSON body."""
    data = json.dumps(body).encode()
    return head("POST", path, "Content-Type: application/json", f"Content-Length: {len(data)}") + data


async def read(client: socket.socket, limit: float = GUARD) -> bytes:
    """Read until the server closes the connection; the event loop keeps running."""
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    text = b""
    async with asyncio.timeout(limit):
        while data := await loop.sock_recv(client, 65536):
            text += data
    return text


async def read_until(client: socket.socket, end: bytes, limit: float = GUARD) -> bytes:
    """Read until a text has arrived or the server closes the connection."""
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    text = b""
    async with asyncio.timeout(limit):
        while end not in text and (data := await loop.sock_recv(client, 65536)):
            text += data
    return text


async def status_of(url: str, request: bytes) -> int:
    """Send a request over a new connection, and return the status of its answer."""
    with connect(url) as client:
        client.sendall(request)
        answer = await read_until(client, b"\r\n\r\n")
        return int(answer.split(b" ", 2)[1])


class Http2:
    """The bytes of a client that speaks HTTP/2 with prior knowledge."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()

    def headers(self, method: str, path: str, *, end: bool = False) -> int:
        """Begin a request; returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [
            (":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost"),
            ("content-type", "application/json"),
        ], end_stream=end)
        return stream

    def post(self, path: str, body: object) -> int:
        """Send a whole request; returns its stream."""
        stream = self.headers("POST", path)
        self.h2.send_data(stream, json.dumps(body).encode(), end_stream=True)
        return stream

    @property
    def bytes(self) -> bytes:
        """The bytes to send now."""
        return self.h2.data_to_send()
