"""Clients of HTTP/2 that reset the requests they make (CVE-2023-44487), and the bucket that bounds them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

import h2.events
import pytest
from clients_for_tests import Http2, connect, head, status_of
from frames_for_tests import Frames
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame, RstStreamFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.web.bucket import Bucket
from lllms_core.web.protocols import MOST_RESETS

pytestmark = pytest.mark.slow

CHAT = {"model": "song", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
AT_ONCE = 100
"""The streams that the server lets a client have open."""


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Host, str]]:
    """A server of a slow model."""
    options = {"script": [{"replies": ["la"], "tokens": 1000}], "tokens_per_second": 1.0, "slots": 4}
    models = {"song": {"engine": "mock", "options": options}}
    config = parse_config({"server": {"shutdown_timeout": 0}, "models": models})
    async with Host(config) as host, published(host) as url:
        yield host, url


class Client(Http2):
    """A connection, to be closed, and what the server says on it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.socket = connect(url)
        self.socket.setblocking(False)
        self.goodbye: h2.events.ConnectionTerminated | None = None
        self.ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self) -> None:
        """Send what is to be sent; a server that closes the connection meanwhile takes no more."""
        try:
            async with asyncio.timeout(GUARD):
                await asyncio.get_running_loop().sock_sendall(self.socket, self.bytes)
        except ConnectionError:
            self.ended = True

    async def listen(self, enough: Callable[[h2.events.Event], bool] = lambda _: False) -> None:
        """Read until an event is enough, or the server closes the connection."""
        async with asyncio.timeout(GUARD):
            while not self.ended:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
                except ConnectionError:
                    data = b""
                self.ended = not data
                events = self.h2.receive_data(data) if data and self.goodbye is None else []
                for event in events:
                    if isinstance(event, h2.events.ConnectionTerminated):
                        self.goodbye = event
                if any(enough(event) for event in events):
                    return


def flood(url: str, count: int) -> int | None:
    """Make requests and reset each in its own packet; return the reason for which the server says goodbye."""
    place = urlsplit(url)
    with Frames((place.hostname or "", place.port or 0)) as frames:
        frames.send(SettingsFrame())
        for stream in range(1, 2 * count, 2):
            frames.send(*frames.ask(stream, json.dumps(CHAT).encode()), RstStreamFrame(stream, error_code=8))
        return next((one.error_code for one in frames.read() if isinstance(one, GoAwayFrame)), None)


async def test_a_client_that_resets_without_end_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    """Of 4,000 requests, each reset in its own packet, most never begin; the client is told why, and the log once."""
    begun: list[object] = []
    async with serving() as (host, url):
        host.observers.add(begun.append)
        assert await asyncio.to_thread(flood, url, 4000) == ErrorCodes.ENHANCE_YOUR_CALM
        assert await status_of(url, head("GET", "/health")) == 200
        await until(lambda: not host.status().running and not host.status().waiting)
    assert len(begun) < MOST_RESETS
    lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert f"more than {MOST_RESETS} requests" in lines[0]


async def test_requests_that_have_begun_count_as_well() -> None:
    """A client that resets what it has been answered is disconnected after twice the streams it may have open."""
    async with serving() as (host, url), Client(url) as client:
        rounds = 0
        while not client.ended:
            streams = [client.post("/v1/chat/completions", CHAT) for _ in range(AT_ONCE)]
            await client.send()
            await client.listen(lambda event: isinstance(event, h2.events.ResponseReceived))
            if client.goodbye is not None:
                break
            for stream in streams:
                client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            await client.send()
            rounds += 1
            assert rounds < 20
        await client.listen()
        assert rounds >= MOST_RESETS // AT_ONCE
        await until(lambda: not host.status().running and not host.status().waiting)


async def test_a_client_may_leave_all_its_requests_twice() -> None:
    """Two hundred resets at once cost nothing: the connection goes on to serve."""
    async with serving() as (_, url), Client(url) as client:
        for _ in range(MOST_RESETS // AT_ONCE):
            for stream in [client.post("/v1/chat/completions", CHAT) for _ in range(AT_ONCE)]:
                client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            await client.send()
        stream = client.headers("GET", "/health", end=True)
        await client.send()
        await client.listen(lambda event: isinstance(event, h2.events.StreamEnded) and event.stream_id == stream)
        assert client.goodbye is None
        assert not client.ended


@given(st.integers(1, 50), st.floats(0.1, 100), st.lists(st.floats(0, 3), max_size=200))
def test_a_bucket_gives_no_more_than_it_holds_and_gets(most: int, rate: float, pauses: list[float]) -> None:
    """Up to any moment a bucket gives at most its size and what has flowed in, and says when it has one again."""
    bucket, now, given = Bucket(most, rate), 100.0, 0
    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        given += wait == 0
        assert given <= most + rate * (now - 100.0) + 1e-6
        if wait:
            now += wait + 1e-6
            assert bucket.take(now) == 0
            given += 1
