"""HTTP/1.1 by hand: a client that sends any bytes, in any pieces, and leaves when and how it likes."""

import http.client
import json
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

from attrs import field, frozen
from waits_for_tests import GUARD

SECRET = "sk-9f3a77c1d2e84b06"
"""Sent with every hostile request, in a header and wherever else it fits; it must never reach a log."""
Address = tuple[str, int]


@frozen
class Answer:
    """The server's answer."""

    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """One connection."""

    def __init__(self, address: Address, within: float = GUARD) -> None:
        self.socket = socket.create_connection(address, timeout=within)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # sends each piece at once

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> Self:
        """Send as much as the server takes: it may rightly have closed the connection."""
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                self.socket.sendall(part)
        return self

    def ended(self) -> bool:
        """Wait until the server closes the connection. Raises `TimeoutError` if it does not."""
        with suppress(ConnectionResetError):
            while self.socket.recv(1 << 16):
                pass
        return True

    def answer(self, method: str = "POST") -> Answer | None:
        """Read an answer to its end; None if the server closes the connection without one."""
        response = http.client.HTTPResponse(self.socket, method=method)
        try:
            response.begin()
            body = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return None
        except http.client.IncompleteRead as cut:
            body = cut.partial
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, body)

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        got = bytearray()
        with suppress(ConnectionResetError):
            while part := self.socket.recv(1 << 16):
                got += part
        return bytes(got)

    def half_close(self) -> None:
        """Stop sending, but keep reading."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave like a process that is killed with unread data: the server gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def head(
    method: str = "POST", path: str = "/v1/chat/completions", *extra: str, host: str | None = "localhost",
    kind: str | None = "application/json", length: int | None = None, close: bool = False,
) -> bytes:
    """The head of a request; `extra` are whole lines. Without `close`, the client closes the connection."""
    lines = [f"{method} {path} HTTP/1.1", f"Authorization: Bearer {SECRET}", *extra]
    lines += [] if host is None else [f"Host: {host}"]
    lines += [] if kind is None else [f"Content-Type: {kind}"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    lines += ["Connection: close"] if close else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def post(address: Address, path: str, body: bytes, *extra: str, within: float = GUARD, **fields: Any) -> list[Answer]:
    """Send a body, and return the answer, if any."""
    with Line(address, within) as line:
        line.send(head("POST", path, *extra, length=len(body), **fields), body)
        answer = line.answer()
    return [] if answer is None else [answer]


def get(address: Address, path: str, *extra: str, method: str = "GET", within: float = GUARD) -> Answer:
    """Send a request that must be answered."""
    with Line(address, within) as line:
        answer = line.send(head(method, path, *extra, kind=None)).answer(method)
    if answer is None:
        raise ConnectionError(f"{method} {path}: no answer")
    return answer


def raw(address: Address, *parts: bytes, method: str = "POST", within: float = GUARD) -> list[Answer]:
    """Send any bytes, and return the answer, if any."""
    with Line(address, within) as line:
        answer = line.send(*parts).answer(method)
    return [] if answer is None else [answer]


def several(address: Address, data: bytes, within: float = GUARD) -> list[Answer]:
    """Send any bytes, and return all answers until the server closes the connection; bodies are not read."""
    with Line(address, within) as line:
        got = line.send(data).rest()
    starts = [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]]
    return [Answer(int(start)) for start in starts if start != b"100"]


def chunked(parts: Iterable[bytes], *, end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end
