"""A client for measuring: it only records what arrives when, and parses it after the answer has ended.

It shares the cores with the server that it measures, so it does little: a socket, a clock, a list.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from urllib.parse import urlsplit

from attrs import frozen

from lllms_core.bench.timeline import Timeline
from lllms_core.errors import LllmsError

READ_SIZE = 1 << 16


class ServerSilent(LllmsError):
    """The server to be measured does not answer, or not in an intelligible way."""


@frozen
class Reply:
    """The raw reply to one request."""

    start: float
    """When the request was sent, on an open connection."""
    received: tuple[tuple[float, bytes], ...]
    """(time, bytes) of everything that arrived."""
    cut_off: bool = False
    """Whether we ended it before it was complete."""


class _Recorder(threading.Thread):
    """Sends one request and records what arrives until the server closes the connection.

    It runs in its own thread, where `recv` waits in the kernel: an event loop would take several times the CPU, at the
    expense of the measured server.
    """

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        super().__init__(name="lllms bench", daemon=True)
        self._connection = connection
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.start_time = 0.0
        self.received: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.start()

    def run(self) -> None:
        """Send, then receive until the connection ends."""
        with suppress(OSError):  # a dying server closes the connection: the reply is what came before
            self.start_time = perf_counter()
            self._connection.sendall(self._request)
            while data := self._connection.recv(READ_SIZE):
                self.received.append((perf_counter(), data))
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._end)

    def cut_off(self) -> None:
        """Stop receiving."""
        with suppress(OSError):  # the server closed first
            self._connection.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def exchange(
    base_url: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *,
    seconds: float = 600.0,
    api_key: str | None = None,
) -> Reply:
    """Send one request (POST if there is a body) and record the reply; cut it off after `seconds`.

    Raises `ServerSilent` if nothing listens there.
    """
    url = urlsplit(base_url)
    if url.scheme != "http" or not url.hostname:
        raise ServerSilent(f"{base_url}: only http:// addresses can be measured")
    payload = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{'GET' if body is None else 'POST'} {url.path.rstrip('/')}{path} HTTP/1.1",
        f"Host: {url.netloc}", "Connection: close", "Accept: application/json, text/event-stream",
        "Content-Type: application/json", f"Content-Length: {len(payload)}",
        *([f"Authorization: Bearer {api_key}"] if api_key else []),
    ]
    request = "\r\n".join([*lines, "", ""]).encode() + payload
    try:
        connection = await asyncio.to_thread(socket.create_connection, (url.hostname, url.port or 80))
    except OSError as error:
        raise ServerSilent(f"no server answers at {base_url}: {error}") from error
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        recorder = _Recorder(connection, request)
        try:
            async with asyncio.timeout(seconds):
                await recorder.ended
        except TimeoutError:
            return Reply(recorder.start_time, tuple(recorder.received), cut_off=True)
        finally:
            recorder.cut_off()
    return Reply(recorder.start_time, tuple(recorder.received))


async def completion(
    base_url: str, body: Mapping[str, object], *, seconds: float = 600.0, api_key: str | None = None,
) -> Timeline:
    """Request a streamed completion, of a chat if `body` has messages, and return its timeline."""
    path = "/chat/completions" if "messages" in body else "/completions"
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    return read_stream(await exchange(base_url, path, asked, seconds=seconds, api_key=api_key))


async def get_json(base_url: str, path: str, api_key: str | None = None) -> object:
    """Fetch a JSON document. Raises `ServerSilent` if there is none."""
    reply = await exchange(base_url, path, seconds=30, api_key=api_key)
    status, _, pieces = _open(reply)
    text = b"".join(data for _, data in pieces)
    if status != 200:
        raise ServerSilent(f"{base_url}{path} answers {status}: {text[:200].decode(errors='replace')}")
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise ServerSilent(f"{base_url}{path} does not answer JSON: {text[:200].decode(errors='replace')}") from error
    return document


def read_stream(reply: Reply) -> Timeline:
    """Read a reply of server-sent events in OpenAI's form; each event with text counts, at the time it was complete.

    Tokens are counted by the server's `usage` where it sends one, else by events.
    """
    status, _, pieces = _open(reply)
    if not status and reply.cut_off:
        return Timeline(reply.start)
    if status != 200:
        text = b"".join(data for _, data in pieces).decode(errors="replace")
        return Timeline(reply.start, error=f"{status}: {text[:300]}" if status else "the connection was closed")
    arrivals: list[tuple[float, int]] = []
    texts: list[str] = []
    usage: Mapping[str, object] = {}
    error: str | None = None
    for time, event in _events(pieces):
        if event.get("error"):
            error = str(event["error"])
        found = event.get("usage")
        usage = found if isinstance(found, Mapping) else usage
        text = _text(event)
        if text:
            arrivals.append((time, 1))
            texts.append(text)
    return Timeline(
        reply.start, _counted(arrivals, _number(usage, "completion_tokens")), _number(usage, "prompt_tokens"),
        _number(usage.get("prompt_tokens_details"), "cached_tokens"), "".join(texts), error,
    )


def _open(reply: Reply) -> tuple[int, Mapping[str, str], Sequence[tuple[float, bytes]]]:
    """Return the status (0 if there is none), the headers, and the pieces of the body with their times."""
    buffer = b""
    for number, (time, data) in enumerate(reply.received):
        buffer += data
        head, found, rest = buffer.partition(b"\r\n\r\n")
        if found:
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            pieces = [(time, rest), *reply.received[number + 1 :]]
            if headers.get("transfer-encoding", "").lower() == "chunked":
                pieces = list(_dechunk(pieces))
            return int(first.split(" ")[1]), headers, pieces
    return 0, {}, []


def _dechunk(pieces: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Decode HTTP's chunked transfer encoding."""
    buffer = b""
    for time, data in pieces:
        buffer += data
        while True:
            size, found, rest = buffer.partition(b"\r\n")
            length = int(size.split(b";")[0], 16) if found else -1
            if not found or len(rest) < length + 2:
                break
            yield time, rest[:length]
            buffer = rest[length + 2 :]


def _events(pieces: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, Mapping[str, object]]]:
    """Yield the JSON documents of the `data:` lines, each with the time when its line was complete."""
    buffer = b""
    for time, data in pieces:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
                event = json.loads(line[5:])
                if isinstance(event, Mapping):
                    yield time, event


def _text(event: Mapping[str, object]) -> str:
    choices = event.get("choices")
    if not isinstance(choices, Sequence) or not choices:
        return ""
    delta = choices[0].get("delta") or {}
    return str(choices[0].get("text") or delta.get("content") or delta.get("reasoning_content") or "")


def _counted(arrivals: Sequence[tuple[float, int]], tokens: int) -> tuple[tuple[float, int], ...]:
    """Spread the tokens of `usage` evenly over the pieces, because none tells its own; without usage, one each."""
    if tokens <= len(arrivals):
        return tuple(arrivals)
    shares = [number * tokens // len(arrivals) for number in range(len(arrivals) + 1)] if arrivals else []
    return tuple((time, shares[place + 1] - shares[place]) for place, (time, _) in enumerate(arrivals))


def _number(values: object, name: str) -> int:
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, int) else 0
