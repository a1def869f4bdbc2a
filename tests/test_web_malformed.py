"""Requests that are not proper HTTP, or not for this server."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from clients_for_tests import connect, head, read_until, status_of
from hypothesis import given
from hypothesis import strategies as st
from quart import websocket
from serving_for_tests import published
from werkzeug.routing import Map

from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.serve import listen
from lllms_core.web.guard import check, is_host
from lllms_core.web.server import serve_app

pytestmark = pytest.mark.slow

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: c2VjcmV0")


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    async with Host(parse_config({})) as host, published(host) as url:
        yield url


async def answer_to(url: str, request: bytes) -> tuple[int, bytes]:
    """Send a request, and return the status and body of its answer."""
    with connect(url) as client:
        client.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        answer = await read_until(client, b"\0")  # never comes: reads to the end
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split(b" ", 2)[1]), body


@pytest.mark.parametrize(
    "name", ["a..b", ".", "..", ".a", "a" * 64, f"{'a' * 64}.example:80", f"x.{'b' * 70}", "a b", "\xfc.example", "a/b",
             "localhost:x", "localhost:123456", "[::1", "::1", "a@b", "a,b", "%00", "<script>", "a" * 5000],
)
async def test_a_malformed_host_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """An invalid Host header is a 400 that says so in a few words, with nothing in the log."""
    async with serving() as url:
        request = f"GET /health HTTP/1.1\r\nHost: {name}\r\n\r\n".encode("latin1")
        status, body = await answer_to(url, request)
        assert status == 400
        assert "Host" in json.loads(body)["error"]["message"]
        assert len(body) < 500
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [("GET http://localhost/health", 200), ("GET HTTP://localhost:3000/health?x", 200), ("GET http://localhost", 200),
     ("GET http://[::1/health", 400), ("GET http:///health", 400), ("GET ftp://localhost/health", 400),
     ("GET ?x", 400), ("GET health", 400), ("CONNECT localhost:80", 400), ("OPTIONS *", 404), ("GET *", 404),
     ("GET //health", 200), ("GET /%ff%fe", 404), ("GET /health?%ff", 200), ("GET /%00", 404), ("GET /../health", 404),
     ("TRACE /health", 405), ("BREW /v1/chat/completions", 405), ("DELETE /health", 405), ("HEAD /health", 200),
     ("GET /v1/models/%2e%2e", 404), (f"GET /{'x' * 9000}", 404)],
)
async def test_odd_request_lines_are_answered(
    request_line: str, expected: int, caplog: pytest.LogCaptureFixture,
) -> None:
    """Whole URLs are read as their paths; anything else, and strange methods, are the client's fault."""
    async with serving() as url:
        status, _ = await answer_to(url, head(*request_line.split(" ", 1)))
        assert status == expected
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


def completions(*headers: str) -> bytes:
    return head("POST", "/v1/completions", *headers)


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        completions("Content-Length: -1"),
        completions("Content-Length: x"),
        completions("Content-Length: 1", "Content-Length: 2"),
        completions("Transfer-Encoding: x"),
        completions("Transfer-Encoding: chunked") + b"zz\r\n",
        b"GET /" + b"x" * 80_000,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 80_000,
        b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 12_000,
    ],
    ids=lambda request_: repr(request_[:60]),
)
async def test_what_is_no_http_is_refused(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are not a request, or never end, are answered with 4xx (or 501), with nothing in the log."""
    async with serving() as url:
        status = await status_of(url, request_)
        assert 400 <= status < 500 or status == 501
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/openai/v1/embeddings", "/health", "/nowhere", "/", "?x"])
async def test_a_websocket_is_refused(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """No route takes WebSockets: the answer is a small 4xx in JSON, with nothing in the log."""
    async with serving() as url:
        with connect(url) as client:
            client.sendall(head("GET", path, *UPGRADE))
            status, body = await _websocket_answer(await read_until(client, b'"}}'))
        assert 400 <= status < 500
        assert "error" in json.loads(body)
        assert len(body) < 500
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def _websocket_answer(answer: bytes) -> tuple[int, bytes]:
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split(b" ", 2)[1]), body[body.index(b"{") : body.rindex(b"}") + 1]


async def test_websockets_are_checked_like_requests() -> None:
    """A foreign page whose name resolves to this machine cannot open a WebSocket of a surrounding application."""
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop = asyncio.Event()
    async with Host(parse_config({})) as host:
        app = create_app(host, manage_host=False)

        @app.websocket("/own")
        async def own() -> None:
            await websocket.accept()

        server = asyncio.create_task(serve_app(app, listener, stop.wait))
        request = head("GET", "/own", *UPGRADE)
        assert await status_of(url, request) == 101
        assert await status_of(url, request.replace(b"localhost", b"evil.example")) == 403
        assert await status_of(url, request.replace(b"localhost", b"a..b")) == 400
        stop.set()
        await server


HOSTS = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=80), st.from_regex(r"[a.:\[\]0-9]{0,70}", fullmatch=True),
)


@given(HOSTS)
def test_what_passes_as_a_host_can_be_looked_at(name: str) -> None:
    """Werkzeug binds its routes without an error to every Host header that passes."""
    if is_host(name):
        Map().bind(name)


@given(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"http://", b"http://[", b"*", b"/", b"?", b"", b"http://a/b?c"])),
    st.binary(max_size=10), st.booleans(),
)
def test_a_target_is_read_or_refused(target: bytes, query: bytes, known: bool) -> None:
    """Any request target either becomes a path that begins with a slash (or the asterisk), or is refused."""
    scope: dict[str, object] = {"headers": [], "query_string": query, "path": target.decode("latin1")}
    if known:
        scope["raw_path"] = target
    try:
        checked = check(cast(Any, scope))
    except ValueError:
        return
    assert checked["path"].startswith("/") or checked["path"] == "*"
