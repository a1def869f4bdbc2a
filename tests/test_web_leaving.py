"""Clients that leave, at every moment."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from clients_for_tests import Http2, connect, head, post, read_until, status_of
from quart import Quart
from serving_for_tests import published
from waits_for_tests import until

from lllms_core.app import mount
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.serve import listen
from lllms_core.web.server import serve_app

pytestmark = pytest.mark.slow

CHAT = {"model": "song", "messages": [{"role": "user", "content": "Hi"}]}
BODIES: dict[str, object] = {
    "/v1/chat/completions": CHAT,
    "/openai/v1/chat/completions": {**CHAT, "stream": True},
    "/v1/completions": {"model": "song", "prompt": "Hi"},
    "/v1/embeddings": {"model": "song", "input": "Hi"},
    "/v1/rerank": {"model": "song", "query": "Hi", "documents": ["a", "b"]},
    "/api/v1/tokenize": {"model": "song", "text": "Hi"},
    "/api/v1/detokenize": {"model": "song", "tokens": [1]},
    "/api/v1/apply-template": CHAT,
}
WAYS: dict[str, Callable[[socket.socket], None]] = {
    "close": lambda client: client.close(),
    "reset": lambda client: (  # type: ignore[return-value]
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)), client.close(),
    ),
}


@asynccontextmanager
async def make_host() -> AsyncIterator[Host]:
    """A host whose only slot is busy with an answer of a thousand seconds."""
    options = {"script": [{"replies": ["la"], "tokens": 1000}], "tokens_per_second": 1.0, "slots": 1}
    models = {"song": {"engine": "mock", "options": options}}
    async with Host(parse_config({"server": {"concurrency": 1, "shutdown_timeout": 0}, "models": models})) as host:
        yield host


async def all_were_seen(url: str) -> None:
    """Wait until the server has handled everything that was sent before."""
    for _ in range(3):
        assert await status_of(url, head("GET", "/health")) == 200


def nothing_left(host: Host) -> Callable[[], bool]:
    return lambda: host.status().running == host.status().waiting == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", BODIES)
async def test_a_client_that_leaves_with_its_request_is_noticed(path: str, way: str) -> None:
    """The request and the end of its connection are handled together, as in a busy event loop: nothing runs on."""
    async with make_host() as host, published(host) as url:
        holder = host.submit(host.request("song", prompt="Hi"))
        await until(lambda: host.status().running)
        clients = [connect(url) for _ in range(10)]
        for client in clients[:5]:  # these are accepted first, the others together with their request
            client.sendall(head("GET", "/health"))
            await read_until(client, b"ok")
            client.setblocking(True)
        for client in clients:
            client.sendall(post(path, BODIES[path]))
            WAYS[way](client)
        await all_were_seen(url)
        await until(lambda: not host.status().waiting)
        await holder.aclose()
        await until(nothing_left(host))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sent", ["half a body", "a body", "a body and more"])
async def test_a_client_that_leaves_a_moment_later_is_noticed(sent: str, way: str) -> None:
    """It leaves while its body is read, while its answer is pending, or with the next request already sent."""
    async with make_host() as host, published(host) as url:
        request = post("/v1/chat/completions", CHAT)
        client = connect(url)
        client.sendall({"half a body": request[:-9], "a body": request, "a body and more": request + b"GET / "}[sent])
        if sent == "half a body":
            await all_were_seen(url)
            assert not host.status().running
            client.sendall(request[-9:])
        else:
            await until(lambda: host.status().running)
        WAYS[way](client)
        await all_were_seen(url)
        await until(nothing_left(host))


@pytest.mark.parametrize("path", BODIES)
async def test_a_stream_that_is_reset_with_its_request_is_noticed(path: str) -> None:
    """Over HTTP/2 a request and its reset come in one packet, a hundred times: nothing runs or waits."""
    async with make_host() as host, published(host) as url:
        holder = host.submit(host.request("song", prompt="Hi"))
        await until(lambda: host.status().running)
        http2 = Http2()
        with connect(url) as client:
            for _ in range(100):
                http2.h2.reset_stream(http2.post(path, BODIES[path]))
            client.sendall(http2.bytes)
            await all_were_seen(url)
            await until(lambda: not host.status().waiting)
            # The connection still serves, and its next stream is the only one.
            http2.post(path, BODIES[path])
            client.setblocking(True)
            client.sendall(http2.bytes)
            await until(lambda: host.status().waiting == 1)
        await until(lambda: not host.status().waiting)
        await holder.aclose()
        await until(nothing_left(host))


async def test_a_client_that_leaves_with_its_streams_is_noticed() -> None:
    """Over HTTP/2 the end of the connection ends all its requests, even if it comes right after them."""
    async with make_host() as host, published(host) as url:
        http2 = Http2()
        with connect(url) as client:
            for _ in range(20):
                http2.post("/v1/chat/completions", CHAT)
            client.sendall(http2.bytes)
        await all_were_seen(url)
        await until(nothing_left(host))


async def test_a_client_of_another_application_is_noticed() -> None:
    """If lllms is mounted into an application with its own bodies, clients that leave are noticed, too."""
    async with make_host() as host:
        app = Quart("mine")
        mount(app, host)
        listener = listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stop = asyncio.Event()
        server = asyncio.create_task(serve_app(app, listener, stop.wait))
        for _ in range(10):
            with connect(url) as client:
                client.sendall(post("/v1/chat/completions", CHAT))
        await all_were_seen(url)
        await until(nothing_left(host))
        stop.set()
        await server


async def test_leaving_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that leave, in any way and at any moment, cause no lines in the log but one for each request."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "asyncio")
    async with make_host() as host, published(host) as url:
        caplog.clear()
        for way in WAYS.values():
            for size in (1, 20, 90, 1000):
                client = connect(url)
                client.sendall(post("/v1/chat/completions", {**CHAT, "stream": True})[:size])
                way(client)
                client = connect(url)
                client.sendall(post("/v1/chat/completions", {**CHAT, "stream": True})[:size])
                await all_were_seen(url)
                way(client)
        await all_were_seen(url)
        await until(nothing_left(host))
    usual = {"lllms.pool", "lllms.requests"}
    assert [record.getMessage() for record in caplog.records if record.name not in usual] == []
