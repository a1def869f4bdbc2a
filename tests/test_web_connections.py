"""Connections: how they end, and how many there may be."""

import asyncio
import http.client
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import hypercorn.asyncio
import hypercorn.config
import psutil
import pytest
from clients_for_tests import Http2, connect, head, post, read, read_until, status_of
from hypothesis import given
from hypothesis import strategies as st
from programs_for_tests import address, environment
from serving_for_tests import published
from waits_for_tests import until

from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.serve import listen
from lllms_core.web.limits import MOST_CONNECTIONS, ConnectionLimits, connections_for
from lllms_core.web.seldom import Seldom

pytestmark = pytest.mark.slow

CHAT = {"model": "song", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
LONG = {"model": "long", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
HEALTH = head("GET", "/health")
HALF = b"GET /health HTTP/1.1\r\nHost: local"
HALF_BODY = head("POST", "/v1/chat/completions", "Content-Type: application/json", "Content-Length: 100") + b"{"
QUICK = 0.05


@asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[tuple[Host, str]]:
    """A server with other limits, of a slow model and one with a long answer."""
    slow = {"script": [{"replies": ["la"], "tokens": 1000}], "tokens_per_second": 1.0, "slots": 16}
    long = {"script": [{"replies": ["la" * 500], "tokens": 20_000}], "context_length": 50_000}
    models = {"song": {"engine": "mock", "options": slow}, "long": {"engine": "mock", "options": long}}
    config = parse_config({"server": {"concurrency": 16, "shutdown_timeout": 0}, "models": models})
    async with Host(config) as host, published(host, ConnectionLimits(sweep=QUICK, **limits)) as url:  # type: ignore[arg-type]
        yield host, url


def states(url: str, process: int | None = None) -> list[str]:
    """The states of the server's side of its connections."""
    port = urlsplit(url).port
    found = psutil.Process(process).net_connections("tcp")
    return [one.status for one in found if one.laddr.port == port and one.status != psutil.CONN_LISTEN]


def states_of_servers(url: str) -> list[str]:
    return [one for one in states(url) if one != psutil.CONN_TIME_WAIT]


async def ask(client: socket.socket, request: bytes = HEALTH) -> bytes:
    """Send a request over a kept connection, and return its answer."""
    await asyncio.get_running_loop().sock_sendall(client, request)
    answer = await read_until(client, b'"}')
    assert answer.startswith(b"HTTP/1.1 200")
    return answer


def opened(url: str, data: bytes = b"") -> socket.socket:
    client = connect(url)
    client.sendall(data)
    client.setblocking(False)
    return client


async def test_a_connection_that_its_client_closes_is_closed_at_once() -> None:
    """Fifty clients that ask once and close leave no connection, nor do those that close in the middle."""
    async with serving() as (_, url):
        for data in [HEALTH] * 50 + [HALF, HALF_BODY, b"", Http2().bytes]:
            with connect(url) as client:
                client.sendall(data)
                if data == HEALTH:
                    await read_until(client, b"ok")
        await until(lambda: not states_of_servers(url), pause=0.05)


async def test_answers_are_not_held_back() -> None:
    """The parts of an answer are sent at once, without waiting 40 ms for the client to acknowledge the earlier ones."""
    times = []
    async with serving() as (_, url):
        with opened(url) as client:
            for _ in range(100):
                start = time.monotonic()
                await ask(client)
                times.append(time.monotonic() - start)
    assert min(times[80:]) < 0.03  # a new connection acknowledges at once


async def test_hypercorn_still_keeps_connections_that_were_closed() -> None:
    """Hypercorn alone keeps a connection that its client has closed until the keep-alive time is over.

    When this fails, upstream's issue 241 is fixed, and `web/connection.py` can be simplified.
    """
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = logging.getLogger("hypercorn.test")
    config.keep_alive_timeout = 1.0
    stop = asyncio.Event()
    async with Host(parse_config({})) as host:
        app = create_app(host, manage_host=False)
        server = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
        with connect(url) as client:
            await ask(client)
        start = time.monotonic()
        await until(lambda: psutil.CONN_CLOSE_WAIT not in states(url), pause=0.05)
        stop.set()
        await server
    told = "Hypercorn closes connections that their client has closed (pgjones/hypercorn#241): ours can be simplified"
    assert time.monotonic() - start > 0.5, told


@pytest.mark.parametrize("data", [b"", b"G", HALF, HEALTH[:-2]], ids=["nothing", "a byte", "half", "all but the end"])
async def test_headers_have_a_time_limit(data: bytes) -> None:
    """A connection whose headers do not arrive is closed, whether it is new or was used before."""
    async with serving(headers=QUICK) as (_, url):
        with opened(url, data) as client:
            assert await read(client) == b""
        if data:
            with opened(url) as client:
                await ask(client)
                await asyncio.get_running_loop().sock_sendall(client, data)
                assert await read(client) == b""


async def test_idle_connections_have_a_time_limit() -> None:
    """A kept connection is closed after a while without a request, even if it has only begun HTTP/2."""
    async with serving(idle=QUICK) as (_, url):
        with opened(url) as client:
            await ask(client)
            assert await read(client) == b""
        with opened(url, Http2().bytes) as client:
            assert len(await read(client)) > 0  # the settings, and the end
        http2 = Http2()
        http2.h2.reset_stream(http2.post("/v1/chat/completions", CHAT))
        with opened(url, http2.bytes) as client:
            await read(client)


async def test_waiting_for_an_answer_has_no_limit() -> None:
    """A running request keeps its connection, whatever the limits are."""
    async with serving(headers=QUICK, idle=QUICK, send=QUICK, linger=QUICK) as (_, url):
        with opened(url, post("/v1/chat/completions", CHAT)) as client:
            for _ in range(3):
                assert b"data: " in await read_until(client, b"data: ")
        http2 = Http2()
        http2.post("/v1/chat/completions", CHAT)
        with opened(url, http2.bytes) as client:
            for _ in range(3):
                assert b"data: " in await read_until(client, b"data: ")


@pytest.mark.parametrize("protocol", ["HTTP/1", "HTTP/2"])
async def test_a_client_that_does_not_read_is_left(protocol: str) -> None:
    """A client that does not read its answer loses it, and its connection, after a while."""
    async with serving(send=0.2) as (host, url):
        http2 = Http2()
        http2.post("/v1/chat/completions", LONG)
        with opened(url, post("/v1/chat/completions", LONG) if protocol == "HTTP/1" else http2.bytes):
            await until(lambda: host.status().instances)
            await until(lambda: not states_of_servers(url), pause=0.05)
        await until(lambda: not host.status().running)


@pytest.mark.parametrize("kind", ["idle", "half headers", "half a body", "half a body in HTTP/2"])
async def test_a_newcomer_finds_room(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the connection that has waited longest without a complete request is closed; no client waits."""
    monkeypatch.setattr("lllms_core.web.connection.SILENT", 0.0)
    async with serving(connections=5) as (_, url):
        with ExitStack() as stack:
            clients = []
            for _ in range(5):
                http2 = Http2()
                http2.headers("POST", "/v1/chat/completions")
                data = {"half headers": HALF, "half a body": HALF_BODY, "half a body in HTTP/2": http2.bytes}.get(kind)
                clients.append(stack.enter_context(opened(url, data or b"")))
                if kind == "idle":
                    await ask(clients[-1])
            for _ in range(3):
                assert await status_of(url, HEALTH) == 200
            await read(clients[0])  # the server has closed the first one
            if kind == "idle":
                await ask(clients[-1])


async def test_requests_are_not_ended_for_a_newcomer() -> None:
    """While all connections are serving requests, a newcomer waits until one is free."""
    async with serving(connections=3) as (host, url):
        with ExitStack() as stack:
            clients = [stack.enter_context(opened(url, post("/v1/chat/completions", CHAT))) for _ in range(3)]
            await until(lambda: host.status().running == 3)
            newcomer = asyncio.create_task(status_of(url, HEALTH))
            for client in clients:
                await read_until(client, b"data: ")
            assert not newcomer.done()
            assert host.status().running == 3
            clients[1].close()
            assert await newcomer == 200
            await until(lambda: host.status().running == 2)


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Allow no more open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)  # the lowest free number
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_accepts_that_fail_neither_spin_nor_flood(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """Without free descriptors accepting is retried at intervals, reported once, and continues when one is free."""
    monkeypatch.setattr("lllms_core.web.server.ACCEPT_PAUSE", QUICK)
    loop = asyncio.get_running_loop()
    tries: list[float] = []
    accept = loop.sock_accept

    def counted(listener: socket.socket) -> object:
        tries.append(time.monotonic())
        return accept(listener)

    async with serving() as (_, url):
        with opened(url, HALF_BODY) as busy, socket.socket() as client:
            await until(lambda: psutil.CONN_ESTABLISHED in states(url))
            caplog.clear()
            monkeypatch.setattr(loop, "sock_accept", counted)
            with few_descriptors():
                client.connect(busy.getpeername())
                client.sendall(HEALTH)
                await until(lambda: len(tries) > 5)
                assert tries[-1] - tries[0] > (len(tries) - 2) * QUICK * 0.9
                [record] = [one for one in caplog.records if one.levelno >= logging.WARNING]
                assert "Too many open files" in record.getMessage()
                busy.close()
                client.setblocking(False)
                assert b" 200 " in await read_until(client, b"ok")


def test_a_kept_bound_survives_a_storm(tmp_path: Path) -> None:
    """With 128 descriptors 300 clients are answered, one after another, beside 100 with half a request."""
    program = [sys.executable, "-m", "lllms_core", "serve", "--port", "0"]
    limited = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *program]
    process = subprocess.Popen(
        limited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment(tmp_path),
    )
    assert process.stdout is not None
    try:
        printed: list[str] = []
        while not (printed and printed[-1].startswith("try: ")):
            printed.append(process.stdout.readline().rstrip("\n"))
            assert process.poll() is None
        url = address(printed)
        parts = urlsplit(url)
        assert parts.hostname
        with ExitStack() as stack:
            for number in range(300):
                if number < 100:
                    stack.enter_context(connect(url)).sendall(HALF)
                client = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
                client.request("GET", "/health")
                assert client.getresponse().status == 200
                client.close()
            time_left = time.monotonic() + 5
            while psutil.CONN_CLOSE_WAIT in states(url, process.pid):
                assert time.monotonic() < time_left
    finally:
        process.terminate()
        errors = process.communicate(timeout=60)[1]
    assert errors.count("\n") < 5


async def test_an_answer_that_comes_early_is_read() -> None:
    """A client that is refused while it sends a large body can read why, instead of seeing a broken connection."""
    def send() -> int:
        parts = urlsplit(url)
        client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        client.request("POST", "/nowhere", b" " * 5_000_000)
        status = client.getresponse().status
        client.close()
        return status

    async with serving() as (_, url):
        assert [await asyncio.to_thread(send) for _ in range(3)] == [404] * 3
        await until(lambda: not states_of_servers(url), pause=0.05)


async def test_an_early_answer_hurts_no_other_stream() -> None:
    """Over HTTP/2 the rest of a refused body is discarded; the connection's other streams are answered."""
    async with serving() as (_, url):
        http2 = Http2()
        stream = http2.headers("POST", "/nowhere")
        with opened(url, http2.bytes) as client:
            await read_until(client, b"there is nothing at")
            loop = asyncio.get_running_loop()
            for _ in range(200):
                http2.h2.send_data(stream, b" " * 10)
            http2.headers("GET", "/health", end=True)
            await loop.sock_sendall(client, http2.bytes)
            await read_until(client, b'"ok"')


@pytest.mark.parametrize(
    "headers",
    [[(":method", "CONNECT"), (":authority", "localhost")],
     [(":method", "GET"), (":path", "/\xff"), (":scheme", "http"), (":authority", "localhost")]],
    ids=["no path", "a path of other characters"],
)
async def test_a_stream_at_fault_hurts_no_other(
    headers: list[tuple[str, str]], caplog: pytest.LogCaptureFixture,
) -> None:
    """A request that HTTP/2 does not allow ends only its own stream."""
    async with serving() as (_, url):
        http2 = Http2()
        http2.h2.config.validate_outbound_headers = False
        http2.h2.send_headers(http2.h2.get_next_available_stream_id(), headers, end_stream=True)
        http2.headers("GET", "/health", end=True)
        with opened(url, http2.bytes) as client:
            await read_until(client, b'"ok"')
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_bytes_that_a_protocol_does_not_survive_end_their_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a client sends affects only one connection; the log reports it in a line, which quotes nothing of it."""
    upgrade = head("GET", "/health", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: secret!")
    async with serving() as (_, url):
        for _ in range(10):
            with opened(url, upgrade) as client:
                await read(client)
        assert await status_of(url, HEALTH) == 200
    lines = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(lines) <= 1
    assert "secret" not in caplog.text


async def test_idle_connections_do_not_delay_the_end() -> None:
    """When a server stops, connections without a request are closed at once."""
    async with serving() as (_, url):
        clients = [opened(url, data) for data in (b"", HALF, Http2().bytes, b"")]
        await ask(clients[-1])
        start = time.monotonic()
    assert time.monotonic() - start < 1
    for client in clients:
        client.close()


@given(st.integers(1, 2**31))
def test_connections_leave_descriptors_for_others(descriptors: int) -> None:
    """The bound is positive, within its limit, and leaves half of few descriptors, or 128, to workers and files."""
    bound = connections_for(descriptors)
    assert 1 <= bound <= MOST_CONNECTIONS
    assert descriptors == 1 or descriptors - bound >= min(descriptors // 2, 128)
    assert connections_for(None) == MOST_CONNECTIONS


def test_the_soft_limit_is_raised() -> None:
    """A server may open as many files as its hard limit allows, and the debug log says so."""
    program = (
        "import logging, resource; logging.basicConfig(level='DEBUG')\n"
        "from lllms_core.web.limits import raise_descriptor_limit\n"
        "print(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    limited = ["sh", "-c", 'ulimit -Sn 200; ulimit -Hn 300; exec "$@"', "sh", sys.executable, "-c", program]
    done = subprocess.run(limited, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "300"]
    assert "raised from 200 to 300" in done.stderr


def test_seldom_lines_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Of many lines of a kind one is written, and the next written one says how many were left out."""
    seldom = Seldom(logging.getLogger("lllms.test"), every=3600)
    for number in range(5):
        seldom.warning("line %d", number)
    seldom.every = 0
    seldom._next = 0
    seldom.warning("line %d", 5)
    assert [one.getMessage() for one in caplog.records] == [
        "line 0", "line 5", "4 more lines like this one were left out",
    ]
