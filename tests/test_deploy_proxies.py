"""The snippets for nginx and Caddy, in front of a real server: what they pass on, and when."""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from serving_for_tests import serving
from waits_for_tests import GUARD

DEPLOY = Path(__file__).parent.parent / "examples" / "deploy"
NAME = "llm.example.org"
KEY = "sk-behind-a-proxy"
CONFIG = {
    "server": {"port": 0, "allowed_hosts": [NAME], "api_keys": [KEY], "shutdown_timeout": 0},
    "models": {"slow": {"engine": "mock", "options": {
        "tokens_per_second": 5, "context_length": 100_000, "script": [{"replies": ["la"], "tokens": 50_000}],
    }}},
}
ASKED = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
STREAMS = {"events": "/v1/chat/completions", "lines": "/api/chat"}
"""Streams of two forms; nginx and Caddy know by themselves only that events are not to be held back."""

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
    return port


def nginx(folder: Path, server: str, port: int) -> list[str]:
    """The command of an nginx with the snippet; only its addresses and certificates are others."""
    (folder / "logs").mkdir()
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("server 127.0.0.1:3000;", f"server {server};"),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;"),
        ("/etc/ssl/lllms/", f"{folder}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; {'user root;' if os.geteuid() == 0 else ''} pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{text}}}\n",
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, server: str, port: int) -> list[str]:
    """The command of a Caddy with the snippet; only its addresses and certificates are others."""
    text = (DEPLOY / "Caddyfile").read_text()
    for old, new in (
        ("reverse_proxy 127.0.0.1:3000", f"reverse_proxy {server}"),
        (f"{NAME} {{\n", f"{NAME}:{port} {{\n\ttls {folder}/certificate.pem {folder}/key.pem\n\tbind 127.0.0.1\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tlog {\n\t\tlevel ERROR\n\t}\n}\n"
    (folder / "Caddyfile").write_text(options + text)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@asynccontextmanager
async def behind(proxy: str, folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """A server behind a proxy; yields a client of the proxy, and one of the server."""
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for part in certificate.cert_chain_pems:
        part.write_to_path(folder / "certificate.pem", append=True)
    port = free_port()
    headers = {"Authorization": f"Bearer {KEY}"}
    trust = httpx.create_ssl_context(verify=False)
    authority.configure_trust(trust)
    async with serving(CONFIG) as url:
        argv = {"nginx": nginx, "caddy": caddy}[proxy](folder, url.removeprefix("http://"), port)
        environ = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        with (folder / "said").open("w") as said:
            process = await asyncio.create_subprocess_exec(*argv, env=environ, stdout=said, stderr=said)
        try:
            async with (
                httpx.AsyncClient(
                    base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=GUARD,
                    headers={**headers, "Host": NAME},
                ) as outside,
                httpx.AsyncClient(base_url=url, headers=headers, timeout=GUARD) as direct,
            ):
                async with asyncio.timeout(GUARD):
                    while not await answers(outside):
                        assert process.returncode is None, (folder / "said").read_text()
                        await asyncio.sleep(0.05)  # until it listens
                yield outside, direct
        finally:
            process.terminate()
            await process.wait()


async def answers(client: httpx.AsyncClient) -> bool:
    try:
        extensions = {"sni_hostname": NAME}
        return (await client.get("/health", extensions=extensions)).status_code == 200
    except httpx.TransportError:
        return False


async def running(client: httpx.AsyncClient) -> int:
    """The requests that the server works on."""
    status = (await client.get("/", headers={"Accept": "application/json"})).json()
    count: int = status["requests"]["running"]
    return count


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
async def test_a_proxy_passes_tokens_on_one_by_one(proxy: str, tmp_path: Path) -> None:
    """Tokens arrive while the answer is written, in both forms of streams; a client that leaves ends its request.

    A body that is too large is refused by the server, in OpenAI's form, and what only the server's own machine may see
    is not shown.
    """
    if shutil.which(proxy) is None:
        pytest.skip(f"{proxy} is not installed")
    extensions = {"sni_hostname": NAME}
    async with behind(proxy, tmp_path) as (outside, direct):
        for path in STREAMS.values():
            async with outside.stream("POST", path, json=ASKED, extensions=extensions) as answer:
                assert answer.status_code == 200
                texts = 0
                async with asyncio.timeout(GUARD):
                    async for line in answer.aiter_lines():
                        texts += 'la"' in line
                        if texts == 3:
                            break
                assert await running(direct) == 1  # 50,000 tokens at 5 a second: it has just begun
            async with asyncio.timeout(GUARD):
                while await running(direct):  # noqa: ASYNC110  # another process acts
                    await asyncio.sleep(0.02)  # until the proxy has told the server
        large = json.dumps({**ASKED, "user": "x" * 11 * 2**20}).encode()
        refused = await outside.post("/v1/chat/completions", content=large, extensions=extensions,
                                     headers={"Content-Type": "application/json"})
        assert refused.status_code == 413
        assert "max_body" in refused.json()["error"]["message"]
        assert (await direct.get("/api/v1/conversations")).status_code == 200
        secret = await outside.get("/api/v1/conversations", extensions=extensions)
        assert secret.status_code == 403
        assert "own machine" in secret.text
        stranger = await outside.get("/v1/models", headers={"Authorization": "Bearer other"}, extensions=extensions)
        assert stranger.status_code == 401
