"""A client for measuring: it only notes what arrives when, and reads it after the answer has ended.

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
    """The server to be measured does not answer, or not in a way that can be understood."""


@frozen
class Reply:
    """What came back over one connection, undigested."""

    start: float
    """When the request was sent; the connection was open already."""
    received: tuple[tuple[float, bytes], ...]
    """(time, bytes) of everything that arrived."""
    cut_off: bool = False
    """Whether it was we who ended it, before it was complete."""


class _Recorder(threading.Thread):
    """Sends one request and notes what arrives until the server closes the connection.

    In a thread of its own, where `recv` waits in the kernel: an event loop would take several times the CPU, of which
    the server that is measured would have the less.
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
        """Send, and receive until nothing more comes."""
        with suppress(OSError):  # a server that dies has closed the connection: what came until then is the reply
            self.start_time = perf_counter()
            self._connection.sendall(self._request)
            while data := self._connection.recv(READ_SIZE):
                self.received.append((perf_counter(), data))
        with suppress(RuntimeError):  # the event loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self._end)

    def cut_off(self) -> None:
        """Want no more."""
        with suppress(OSError):  # the server was quicker
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
    """Send one request (POST if there is a body) and record the reply; cut off after `seconds`.

    Raises `ServerSilent` if nobody listens there.
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
    """Ask for a streamed completion, of a chat if `body` has messages, and tell how it came."""
    path = "/chat/completions" if "messages" in body else "/completions"
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    return read_stream(await exchange(base_url, path, asked, seconds=seconds, api_key=api_key))


async def get_json(base_url: str, path: str, api_key: str | None = None) -> object:
    """Fetch a JSON document; raises `ServerSilent` if there is none."""
    reply = await exchange(base_url, path, seconds=30, api_key=api_key)
    status, _, pieces = _open(reply)
    text = b"".join(data for _, data in pieces)
    if status != 200:
        raise ServerSilent(f"{base_url}{path} answers {status}: {text[:200].decode(errors='replace')}")
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise ServerSilent(f"{base_url}{path} answers no JSON: {text[:200].decode(errors='replace')}") from error
    return document


def read_stream(reply: Reply) -> Timeline:
    """Read a reply of server-sent events in OpenAI's form; every event with text counts, at the time when it was whole.

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
    """Return the status (0 if there is none), the headers, and the body's pieces with their times."""
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
    """Undo HTTP's chunked transfer encoding."""
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
    """Yield the JSON documents of the `data:` lines, each with the time when its line was whole."""
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
    """Spread the tokens of `usage` evenly over the pieces, as none tells how many it has; without usage, one each."""
    if tokens <= len(arrivals):
        return tuple(arrivals)
    shares = [number * tokens // len(arrivals) for number in range(len(arrivals) + 1)] if arrivals else []
    return tuple((time, shares[place + 1] - shares[place]) for place, (time, _) in enumerate(arrivals))


def _number(values: object, name: str) -> int:
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, int) else 0
