"""How bodies are received: by size and by time."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from clients_for_tests import Http2, connect, head, post, read_until
from serving_for_tests import published
from waits_for_tests import until

from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.web import body, body_memory

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "Hi"}]}
JSON = "Content-Type: application/json"


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    async with Host(parse_config({"server": {"max_body": 100_000}})) as host, published(host) as url:
        yield url


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(body, "START_SECONDS", 0.5)
    monkeypatch.setattr(body, "DISCARD_SECONDS", 0.5)
    monkeypatch.setattr(body, "SLOWEST", 10_000)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("framing", ["Content-Length: 50", "Transfer-Encoding: chunked"])
async def test_a_body_that_stops_is_refused(framing: str) -> None:
    """A client that stops sending gets a 408, and its connection is closed."""
    async with serving() as url:
        with connect(url) as client:
            client.sendall(head("POST", PATH, JSON, framing) + b"5\r\n{    \r\n")
            answer = await read_until(client, b"\0")
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


@pytest.mark.usefixtures("impatient")
async def test_a_stream_whose_body_stops_is_refused() -> None:
    """The same holds over HTTP/2, and the connection's other streams are answered."""
    async with serving() as url:
        http2 = Http2()
        http2.h2.send_data(http2.headers("POST", PATH), b"{   ")
        with connect(url) as client:
            client.sendall(http2.bytes)
            await read_until(client, b"request_timeout")
            http2.headers("GET", "/health", end=True)
            await asyncio.get_running_loop().sock_sendall(client, http2.bytes)
            await read_until(client, b'"ok"')


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("size", "pause", "status"), [(1, 0.02, 408), (5000, 0.02, 413), (200_000, 0.0, 413)])
async def test_a_body_without_end_is_refused(size: int, pause: float, status: int) -> None:
    """Chunks that never end are a 4xx in bounded time, because they are too slow or too large."""
    loop = asyncio.get_running_loop()
    chunk = b"%x\r\n%s\r\n" % (size, b" " * size)

    async def send() -> None:
        while True:
            await loop.sock_sendall(client, chunk)
            await asyncio.sleep(pause)

    async with serving() as url:
        with connect(url) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, head("POST", PATH, JSON, "Transfer-Encoding: chunked"))
            start = time.monotonic()
            sending = asyncio.create_task(send())
            answer = await read_until(client, b"\r\n\r\n")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("impatient")
async def test_a_slow_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that keeps arriving is read, even if it takes longer than a silence may, and than any body at first."""
    monkeypatch.setattr(body, "SILENCE_SECONDS", 0.6)
    text = json.dumps({**CHAT, "user": "x" * 90_000}).encode()
    async with serving() as url:
        with connect(url) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, head("POST", PATH, JSON, f"Content-Length: {len(text)}"))
            start = time.monotonic()
            for at in range(0, len(text), 10_000):
                await loop.sock_sendall(client, text[at : at + 10_000])
                await asyncio.sleep(0.1)
            assert time.monotonic() - start > body.SILENCE_SECONDS + 0.2
            assert (await read_until(client, b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_continue_is_said() -> None:
    """A client that asks before it sends its body is told to continue."""
    request = post(PATH, CHAT).replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1)
    top, _, rest = request.partition(b"\r\n\r\n")
    async with serving() as url:
        with connect(url) as client:
            client.sendall(top + b"\r\n\r\n")
            assert b" 100 " in await read_until(client, b"\r\n\r\n")
            await asyncio.get_running_loop().sock_sendall(client, rest)
            assert b" 200 " in await read_until(client, b"\r\n\r\n")


async def test_bodies_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of all requests is bounded: one more is a 503 with Retry-After, until another has ended or left."""
    monkeypatch.setattr(body, "MOST", 60_000)
    monkeypatch.setattr(body_memory, "MOST", 60_000)
    monkeypatch.setattr(body, "DISCARD_SECONDS", 0.5)
    async with serving() as url:
        with connect(url) as first:
            first.sendall(head("POST", PATH, JSON, "Content-Length: 50001") + b"x" * 50_000)
            await until(lambda: body_memory.BodyMemory.total == 50_000)
            with connect(url) as second:
                second.sendall(head("POST", PATH, JSON, "Content-Length: 20000") + b"x" * 20_000)
                answer = await read_until(second, b"overloaded")
        assert b" 503 " in answer.split(b"\r\n")[0]
        assert b"retry-after" in answer.lower()
        await until(lambda: body_memory.BodyMemory.total == 0)
        with connect(url) as third:
            third.sendall(post(PATH, {**CHAT, "user": "x" * 40_000}))
            await read_until(third, b'"finish_reason"')
        await until(lambda: body_memory.BodyMemory.total == 0)
