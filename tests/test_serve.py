import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import psutil
import pytest
from waits_for_tests import until

from lllms_core.config import parse_config
from lllms_core.errors import ConfigError
from lllms_core.host import Host
from lllms_core.serve import listen, serve, serve_llms

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "Hi!"}]
CHAT = "/v1/chat/completions"


def make_host(*, tokens_per_second: float | None = None, **server: object) -> Host:
    options: dict[str, Any] = {"script": [{"replies": ["la"], "tokens": 20}], "tokens_per_second": tokens_per_second}
    models = {"song": {"engine": "mock", "options": options}}
    return Host(parse_config({"server": {"port": 0, **server}, "models": models}))


@asynccontextmanager
async def serving(host: Host) -> AsyncIterator[tuple[httpx.AsyncClient, "asyncio.Task[None]"]]:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(host, on_ready=ready.set_result))
    async with httpx.AsyncClient(base_url=await ready) as client:
        try:
            yield client, server
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)


async def test_it_answers_where_it_says() -> None:
    """Port 0 takes a free port, and `on_ready` gets the working URL."""
    async with serving(make_host()) as (client, _):
        assert client.base_url.port not in {None, 0}
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_a_taken_port_is_told_before_anything_loads() -> None:
    """A port in use is an error of the configuration, and the host is not started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        host = make_host(port=other.getsockname()[1])
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1 port {other.getsockname()[1]}.*in use"):
            await serve(host)
    assert not host.ready


@pytest.mark.parametrize("address", ["no-such-name.invalid", "203.0.113.7"])
def test_an_address_of_another_machine_is_told(address: str) -> None:
    """An address that does not belong to this machine cannot be listened on, and the message names it."""
    with pytest.raises(ConfigError, match=address):
        listen(address, 0)


def test_all_addresses_are_listened_on() -> None:
    """`localhost` is 127.0.0.1, where clients look for it first; brackets around IPv6 addresses are accepted."""
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    if socket.has_ipv6:
        with listen("[::1]", 0) as listener:
            assert listener.getsockname()[0] == "::1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_the_first_signal_lets_answers_finish(number: signal.Signals) -> None:
    """After SIGTERM or SIGHUP new requests get a 503, the running stream finishes, then the server ends."""
    host = make_host(tokens_per_second=40.0)
    async with serving(host) as (client, server):
        async with client.stream("POST", CHAT, json={"model": "song", "messages": MESSAGES, "stream": True}) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            os.kill(os.getpid(), number)
            await until(lambda: not host.ready)
            refused = await client.post(CHAT, json={"model": "song", "messages": MESSAGES})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert (await client.get("/health")).status_code == 503
            text = [line async for line in lines if line]
        assert text[-1] == "data: [DONE]"
        await server
    assert host.status().instances == ()


async def test_a_signal_wakes_a_server_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal is noticed at once although it does not interrupt the wait of the main thread."""
    asleep = threading.Event()
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select

    def watched(timeout: float | None) -> object:
        if timeout is None or timeout > 1:
            asleep.set()
        return select(timeout)

    def interrupt() -> None:
        asleep.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    async with serving(make_host()) as (_, server):
        threading.Thread(target=interrupt).start()
        async with asyncio.timeout(60):
            monkeypatch.setattr(selector, "select", watched)
            await asyncio.wait([server])
            assert not server.exception()


async def test_a_signal_is_noticed_while_much_wakes_the_server() -> None:
    """A signal counts even if the wake-up pipe is full, since the event loop is awake then."""
    wakes = asyncio.get_running_loop()._csock  # type: ignore[attr-defined]
    async with serving(make_host()) as (_, server):
        with suppress(BlockingIOError):
            while wakes.send(b"\0"):
                pass
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(60):
            await asyncio.wait([server])
            assert not server.exception()


async def test_an_ignored_hangup_stays_ignored() -> None:
    """Under `nohup` the end of the terminal does not stop the server, and afterwards all handlers are restored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with serving(make_host()) as (client, server):
            os.kill(os.getpid(), signal.SIGHUP)
            assert (await client.get("/health")).status_code == 200
            assert not server.done()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("hurry", ["second signal", "timeout"])
async def test_patience_has_an_end(hurry: str) -> None:
    """A second signal, or the end of `shutdown_timeout`, ends the running requests; their clients are told."""
    patience = 60 if hurry == "second signal" else 0.1
    host = make_host(tokens_per_second=0.5, shutdown_timeout=patience)
    async with serving(host) as (client, server):
        async with client.stream("POST", CHAT, json={"model": "song", "messages": MESSAGES, "stream": True}) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            start = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
            await until(lambda: not host.ready)
            if hurry == "second signal":
                os.kill(os.getpid(), signal.SIGINT)
            text = [line async for line in lines if line]
        assert '"code":"shutting_down"' in text[-1]
        await server
    assert time.monotonic() - start < 10
    assert host.status().instances == ()


async def test_a_client_that_does_not_read_cannot_hold_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that its client does not read is given up when the server stops."""
    monkeypatch.setattr("lllms_core.serve.FLUSH_SECONDS", 0.2)
    # Hypercorn leaves behind a future with an unread exception; asyncio's message about it would be noise here.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    options = {"script": [{"replies": ["la" * 500], "tokens": 20_000}], "context_length": 50_000}
    models = {"song": {"engine": "mock", "options": options}}
    host = Host(parse_config({"server": {"port": 0, "shutdown_timeout": 0}, "models": models}))
    async with serving(host) as (client, server):
        address = client.base_url
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=1)
        body = b'{"model": "song", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert await reader.read(1)
        await until(lambda: not host.status().running)  # all is written, and only a part of it fits into the connection
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await server
        writer.close()
    assert host.status().instances == ()


async def test_a_failing_start_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of the host's start is raised, after everything was closed."""
    host = make_host()

    async def fail() -> None:
        raise ConfigError("not today")

    monkeypatch.setattr(host, "start", fail)
    with pytest.raises(ConfigError, match="not today"):
        await serve(host)


def test_the_python_twin_checks_its_settings() -> None:
    """`serve_llms` takes the keys of `[server]`, and names unknown ones."""
    with pytest.raises(ConfigError, match=r"server\.colour"):
        serve_llms(colour="red")
    with pytest.raises(ConfigError, match=r"server\.port"):
        serve_llms(listen={"port": "many"})


def test_no_child_is_left() -> None:
    """A program that serves ends with 0 on SIGTERM, and its worker processes end with it."""
    program = (
        "from lllms_core.serve import serve_llms\n"
        "serve_llms(listen={'port': 0}, concurrency=2, models={'song': {'engine': 'mock', 'isolation': 'process',"
        " 'min_instances': 1}})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = next(line for line in process.stderr if "listening on http://127.0.0.1:" in line)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        url = said.split("listening on ")[1].split()[0]
        answer = httpx.post(url + CHAT, json={"model": "song", "messages": MESSAGES}, timeout=60)
        assert answer.json()["id"].startswith("chatcmpl-song:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert (len(gone), alive) == (len(children), [])
    finally:
        process.kill()
        process.communicate()
