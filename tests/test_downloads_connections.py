"""Real connections: HTTP/2 over TLS, and the proxies of the environment."""

import asyncio
import random
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config
from servers_for_tests import Handler, served
from stores_for_tests import sha256
from waits_for_tests import GUARD

from lllms_core.builtin.downloaders import connections, transfer
from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.builtin.downloaders.retry_policy import RetryPolicy
from lllms_core.errors import SourceUnavailable
from lllms_core.store import Store

QUICK = RetryPolicy(connect=5, stall=5, pause=0.001, longest_pause=0.002)
DATA = random.Random(4).randbytes(300_000)
NAME = "models.invalid"
"""A host that no name server knows."""


class Secure:
    """A TLS server that sends DATA, also in parts, and prefers HTTP/2."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certificate = folder / "server.pem"
        self.authority.issue_cert(NAME, "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.certificate)
        self.trust = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(self.trust)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.moved = ""
        """The target of `/moved`."""
        self.seen: list[tuple[str, int]] = []
        """HTTP version and client port of every request."""

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.seen.append((scope["http_version"], scope["client"][1]))
        if scope["path"] == "/moved":
            await send({"type": "http.response.start", "status": 302, "headers": [(b"location", self.moved.encode())]})
            await send({"type": "http.response.body"})
            return
        asked = re.fullmatch(rb"bytes=(\d+)-(\d+)", dict(scope["headers"]).get(b"range", b""))
        assert asked
        start = int(asked[1])
        part = DATA[start : int(asked[2]) + 1]
        headers = [
            (b"content-range", f"bytes {start}-{start + len(part) - 1}/{len(DATA)}".encode()),
            (b"content-length", str(len(part)).encode()), (b"etag", b'"1"'),
        ]
        await send({"type": "http.response.start", "status": 206, "headers": headers})
        await send({"type": "http.response.body", "body": part})

    def run(self, running: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]") -> None:
        """Serve until the event is set."""

        async def main() -> None:
            config = Config()
            config.bind = [f"fd://{self.socket.detach()}"]  # the server that uses the socket closes it
            config.certfile = config.keyfile = str(self.certificate)
            stop = asyncio.Event()
            running.set_result((asyncio.get_running_loop(), stop))
            await serve(self, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]  # any ASGI works

        asyncio.run(main())


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Secure]:
    """A running TLS server."""
    server = Secure(tmp_path)
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=server.run, args=(running,))
    thread.start()
    loop, stop = running.result(GUARD)
    yield server
    loop.call_soon_threadsafe(stop.set)
    thread.join(GUARD)
    assert not thread.is_alive()


@pytest.fixture
def trusted(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make downloads trust the server, by the environment variable of OpenSSL."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.trust))
    connections._certificates.cache_clear()
    yield
    connections._certificates.cache_clear()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use only the proxies that a test names."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def store(tmp_path: Path) -> Store:
    return Store(tmp_path, [HttpDownloader(QUICK)])


@pytest.mark.usefixtures("trusted")
def test_http_2(secure: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a server offers HTTP/2, it is used: all parts come concurrently over one connection."""
    monkeypatch.setattr(transfer, "SEGMENT", 20_000)
    model = store(tmp_path).ensure(f"https://127.0.0.1:{secure.port}/x", sha256(DATA))
    assert model.path.read_bytes() == DATA
    assert len(secure.seen) == 15
    assert {version for version, _ in secure.seen} == {"2"}
    assert len({port for _, port in secure.seen}) == 1


@pytest.mark.usefixtures("trusted")
def test_what_is_protected_stays_so(secure: Secure, tmp_path: Path) -> None:
    """An https address may redirect to https, and to nothing else: the unprotected file is not kept."""
    secure.moved = f"https://127.0.0.1:{secure.port}/x"
    assert store(tmp_path).ensure(f"https://127.0.0.1:{secure.port}/moved").path.read_bytes() == DATA
    with served({"/x": DATA}) as open_to_all:
        secure.moved = f"{open_to_all.url}/x"
        with pytest.raises(SourceUnavailable, match=r"/moved\?\.\.\. redirects to .*, which is not protected"):
            store(tmp_path).ensure(f"https://127.0.0.1:{secure.port}/moved?v=2")
    assert len(list((tmp_path / "models").rglob("moved*"))) == 1


def test_a_server_that_nobody_vouches_for(secure: Secure, tmp_path: Path) -> None:
    """An untrusted certificate ends the download at once, and the message says what may be wrong."""
    with pytest.raises(SourceUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*is the address right, and the clock\?"):
        store(tmp_path).ensure(f"https://127.0.0.1:{secure.port}/x")
    assert secure.seen == []


def test_a_proxy_for_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of HTTP_PROXY receives the whole address: it resolves the host's name."""
    with served({f"http://{NAME}/x": DATA}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert store(tmp_path).ensure(f"http://{NAME}/x").path.read_bytes() == DATA
        assert [path for path, _ in proxy.requests] == [f"http://{NAME}/x"]


def test_hosts_that_need_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts in NO_PROXY are contacted directly, and no others."""
    with served({"/x": DATA}) as site, served({f"http://{NAME}/x": DATA}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        store(tmp_path).ensure(f"{site.url}/x")
        assert (len(site.requests), proxy.requests) == (1, [])
        store(tmp_path).ensure(f"http://{NAME}/x")
        assert (len(site.requests), len(proxy.requests)) == (1, 1)


class Tunnel(Handler):
    """A proxy that opens tunnels to one port, whatever host the client names."""

    port: int

    def do_CONNECT(self) -> None:  # noqa: N802  # the name that the library requires
        self.site.requests.append((self.path, None))
        with socket.create_connection(("127.0.0.1", self.port)) as there:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            back = threading.Thread(target=_copy, args=(there, self.connection))
            back.start()
            _copy(self.connection, there)
            back.join(GUARD)
        self.close_connection = True


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # one of the two has closed: that is how tunnels end
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.usefixtures("trusted")
def test_a_proxy_for_https(secure: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY provides a tunnel: TLS and HTTP/2 reach the host itself."""
    handler = type("ToSecure", (Tunnel,), {"port": secure.port})
    with served({}, handler) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert store(tmp_path).ensure(f"https://{NAME}/x").path.read_bytes() == DATA
        assert proxy.requests == [(f"{NAME}:443", None)]
        assert [version for version, _ in secure.seen] == ["2"]


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The error for an unreachable proxy names it, without its password."""
    with served({}) as gone:
        port = gone.url.rpartition(":")[2]
    monkeypatch.setenv("ALL_PROXY", f"{kind}://me:secret@127.0.0.1:{port}")
    with pytest.raises(SourceUnavailable, match=f"through the proxy {kind}://127.0.0.1:{port}") as caught:
        store(tmp_path).ensure(f"http://{NAME}/x")
    assert "secret" not in str(caught.value)


def test_a_proxy_that_makes_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with an invalid proxy is an error at once that names the variable to check."""
    monkeypatch.setenv("HTTP_PROXY", "ftp://127.0.0.1")
    with pytest.raises(SourceUnavailable, match="check HTTP_PROXY"):
        store(tmp_path).ensure(f"http://{NAME}/x")
