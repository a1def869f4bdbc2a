"""HTTPS with a certificate of one's own, and Unix sockets: a real server, real handshakes, real files."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from click.testing import CliRunner
from lines_for_tests import Line
from serving_for_tests import published, serving
from waits_for_tests import GUARD, until

from lllms_core.cli import cli
from lllms_core.client import Client, ServerError
from lllms_core.config import ApiKey, ServerConfig, parse_config
from lllms_core.errors import ConfigError
from lllms_core.host import Host
from lllms_core.serve import _warn, serve
from lllms_core.testing import running_server
from lllms_core.web.limits import ConnectionLimits
from lllms_core.web.tls import open_tls
from lllms_core.web.unix_socket import listen_at

pytestmark = pytest.mark.slow

BOT = {"engine": "mock", "isolation": "thread", "options": {"script": [{"replies": ["one two"]}]}}
CHAT = {"model": "bot", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


class Files:
    """A certificate for 127.0.0.1, its key, and the authority that signed it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.authority, self.certificate = folder / "ca.pem", folder / "server.pem"
        self.key, self.both = folder / "server.key", folder / "both.pem"
        authority.cert_pem.write_to_path(self.authority)
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        self.trust = ssl.create_default_context(cafile=str(self.authority))
        self.config = {"tls_certificate": str(self.certificate), "tls_key": str(self.key)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


# -- HTTPS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True])
async def test_https_is_served(files: Files, http2: bool) -> None:
    """With a certificate the server speaks HTTPS, by HTTP/1.1 and by HTTP/2, whole answers and streams."""
    async with (
        serving({"server": {"port": 0, **files.config}, "models": {"bot": BOT}}) as url,
        httpx.AsyncClient(base_url=url, verify=files.trust, http2=http2, timeout=GUARD) as client,
    ):
        assert url.startswith("https://127.0.0.1:")
        answer = await client.post(PATH, json=CHAT)
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert answer.json()["choices"][0]["message"]["content"] == "one two"
        answers = await asyncio.gather(*(client.post(PATH, json={**CHAT, "stream": True}) for _ in range(5)))
        assert all(one.text.rstrip().endswith("data: [DONE]") for one in answers)
        lost = (await client.get("/v1")).json()["error"]["message"]
        assert f"{url}/v1" in lost  # which advises a base URL


async def test_key_and_certificate_may_share_a_file(files: Files) -> None:
    """Without `tls_key` the key is read from the file of the certificate."""
    config = {"server": {"port": 0, "tls_certificate": str(files.both)}, "models": {"bot": BOT}}
    async with serving(config) as url, httpx.AsyncClient(base_url=url, verify=files.trust) as client:
        assert (await client.get("/health")).status_code == 200


async def test_old_versions_and_plain_http_get_nothing(files: Files) -> None:
    """TLS below 1.2 and plain HTTP are not answered, and the server goes on."""
    async with serving({"server": {"port": 0, **files.config}, "models": {"bot": BOT}}) as url:
        port = int(url.rpartition(":")[2])
        old = ssl.create_default_context(cafile=str(files.authority))
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in await reader.read()
        writer.close()
        async with httpx.AsyncClient(base_url=url, verify=files.trust) as client:
            assert (await client.get("/health")).status_code == 200


async def test_unfinished_handshakes_are_ended(files: Files) -> None:
    """A client that does not complete its handshake is let go in time, and makes room for others before."""
    async with Host(parse_config({"models": {"bot": BOT}})) as host:
        tls = open_tls(parse_config({"server": files.config}).server)
        limits = ConnectionLimits(headers=0.2)
        async with published(host, limits, tls) as url:
            silent = Line(("127.0.0.1", int(url.rpartition(":")[2])))
            assert await asyncio.to_thread(silent.ended)
            silent.socket.close()
        async with published(host, ConnectionLimits(headers=600, connections=4), tls) as url:
            address = ("127.0.0.1", int(url.rpartition(":")[2]))
            held = [Line(address) for _ in range(6)]
            async with httpx.AsyncClient(base_url=url, verify=files.trust, timeout=GUARD) as client:
                assert (await client.get("/health")).status_code == 200
            for line in held:
                line.socket.close()


async def test_a_client_that_leaves_cancels_over_https(files: Files) -> None:
    """A client that closes its HTTPS connection during an answer ends the work for it."""
    slow = {**BOT, "options": {"script": [{"replies": ["la"], "tokens": 100_000}], "tokens_per_second": 50.0}}
    config = parse_config({"server": files.config, "models": {"bot": slow}})
    async with Host(config) as host, published(host, None, open_tls(config.server)) as url:
        async with (
            httpx.AsyncClient(base_url=url, verify=files.trust, timeout=GUARD) as client,
            client.stream("POST", PATH, json={**CHAT, "stream": True}) as answer,
        ):
            lines = answer.aiter_lines()
            await anext(lines)
            assert host.status().running == 1
            await lines.aclose()
        await until(lambda: host.status().running == 0)


def test_wrong_certificates_are_told(files: Files, tmp_path: Path) -> None:
    """A file that is missing, empty, encrypted or of another key is an error that names the configuration's key."""
    other = trustme.CA().issue_cert("127.0.0.1")
    other.private_key_pem.write_to_path(tmp_path / "other.key")
    (tmp_path / "empty.pem").write_bytes(b"")
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", files.key, "-out", tmp_path / "locked.key", "-passout", "pass:x"],
        check=True,
    )
    cases = [
        (tmp_path / "none.pem", files.key, "server.tls_certificate: .*none.pem cannot be read: No such file"),
        (files.certificate, tmp_path / "none", "server.tls_key: .*none cannot be read: No such file"),
        (tmp_path / "empty.pem", files.key, "server.tls_certificate: .*empty.pem holds no certificate"),
        (files.key, files.key, "server.tls_certificate: .*server.key holds no certificate"),
        (files.certificate, tmp_path / "empty.pem", "server.tls_key: .*empty.pem holds no private key"),
        (files.certificate, None, "server.tls_key: .*server.pem holds no private key .* set server.tls_key"),
        (files.certificate, tmp_path / "other.key", "server.tls_key: .*other.key does not belong to the certificate"),
        (files.certificate, tmp_path / "locked.key", "server.tls_key: .*locked.key is encrypted"),
    ]
    for certificate, key, told in cases:
        with pytest.raises(ConfigError, match=told):
            open_tls(ServerConfig(tls_certificate=certificate, tls_key=key))
    with pytest.raises(ConfigError, match=r"server\.tls_key: there is no certificate for it"):
        parse_config({"server": {"tls_key": str(files.key)}})


async def test_a_wrong_certificate_stops_the_start(tmp_path: Path) -> None:
    """A server whose certificate or keys cannot be used does not start without them, and nothing is loaded."""
    for server in ({"tls_certificate": str(tmp_path / "none")}, {"api_keys_file": str(tmp_path / "none")}):
        host = Host(parse_config({"server": {"port": 0, **server}, "models": {"bot": BOT}}))
        with pytest.raises(ConfigError, match="cannot be read"):
            await serve(host)
        assert not host.ready


# -- Unix sockets -----------------------------------------------------------------------------------------------------


async def test_a_socket_is_served_and_removed(tmp_path: Path) -> None:
    """A server at unix:PATH answers there, for its owner only, whatever the Host header says; then its file is gone."""
    path = tmp_path / "lllms.sock"
    async with serving({"server": {"host": f"unix:{path}"}, "models": {"bot": BOT}}) as url:
        assert url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(base_url="http://any.example", transport=transport) as client:
            answer = await client.post(PATH, json=CHAT)
            assert answer.json()["choices"][0]["message"]["content"] == "one two"
            assert (await client.get("/", headers={"Accept": "text/html"})).status_code == 200
    assert not path.exists()


async def test_a_relative_socket_starts_in_the_folder_of_the_configuration(tmp_path: Path) -> None:
    """`unix:run.sock` is beside the file that says so, as every relative path."""
    from lllms_core.config import load_config

    (tmp_path / "lllms.toml").write_text('[server]\nhost = "unix:run.sock"\n')
    assert load_config(tmp_path / "lllms.toml", environ={}).server.socket_path == tmp_path / "run.sock"
    assert load_config(environ={"LLLMS_HOST": "unix:run.sock"}).server.socket_path == Path.cwd() / "run.sock"
    with pytest.raises(ConfigError, match='there is no path after "unix:"'):
        parse_config({"server": {"host": "unix:"}})


def test_a_dead_socket_is_replaced_a_live_one_is_not(tmp_path: Path) -> None:
    """The file that a killed server left is replaced; that of a running server, and any other file, stays."""
    path = tmp_path / "lllms.sock"
    program = "import socket, sys, os; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os._exit(1)"
    subprocess.run([sys.executable, "-c", program, path], check=False)
    assert path.is_socket()
    with listen_at(path, 5):
        before = path.stat().st_ino
        with pytest.raises(ConfigError, match="another program does; stop it"):
            listen_at(path, 5)
        assert path.stat().st_ino == before
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is a file, but no socket"):
        listen_at(path, 5)
    assert path.read_text() == "precious"
    for wrong, told in ((tmp_path / "no" / "x.sock", "No such file"), (tmp_path / ("x" * 150), "too long")):
        with pytest.raises(ConfigError, match=told):
            listen_at(wrong, 5)


async def test_a_stopping_server_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    """A server that stops removes only its own file: another that has taken the path meanwhile keeps it."""
    path = tmp_path / "lllms.sock"
    async with serving({"server": {"host": f"unix:{path}"}, "models": {"bot": BOT}}):
        path.unlink()
        successor = listen_at(path, 5)
    assert path.is_socket()
    successor.close()


# -- the command line -------------------------------------------------------------------------------------------------


def lllms(*arguments: str) -> str:
    found = CliRunner().invoke(cli, list(arguments), prog_name="lllms")
    return found.output


@pytest.fixture(params=["port", "tls", "unix"])
def closed(request: pytest.FixtureRequest, files: Files, tmp_path: Path) -> Iterator[str]:
    """The file of a configuration whose server runs and needs a key."""
    server: dict[str, object] = {"api_keys": ["sk-home"], "host": "127.0.0.1"}
    if request.param == "tls":
        server |= files.config
    if request.param == "unix":
        server["host"] = f"unix:{tmp_path}/s"
    with running_server({"bot": BOT}, **server) as url:
        if url.startswith("http"):
            server["port"] = int(url.rpartition(":")[2])
        text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in server.items())
        (tmp_path / "lllms.toml").write_text(f"[server]\n{text}\n[models.bot]\nengine = \"mock\"\n")
        yield str(tmp_path / "lllms.toml")


def test_commands_find_a_closed_server(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ps`, `sessions` and `cancel` reach the server of a configuration by port, HTTPS or socket, with a key."""
    told = lllms("ps", "--config", closed)
    assert "answers 401" in told
    assert "--api-key, or in the variable LLLMS_API_KEY" in told
    assert "answers 401" in lllms("ps", "--config", closed, "--api-key", "sk-wrong")
    assert "model bot: engine mock" in lllms("ps", "--config", closed, "--api-key", "sk-home")
    monkeypatch.setenv("LLLMS_API_KEY", "sk-home")
    assert "model bot: engine mock" in lllms("ps", "--config", closed)
    assert "bot: loaded" in lllms("load", "bot", "--config", closed)
    assert "bot: unloaded bot" in lllms("unload", "bot", "--config", closed)
    assert "0 sessions" in lllms("sessions", "ls", "--config", closed)
    assert "no download of bot is running" in lllms("cancel", "bot", "--config", closed)


def test_run_asks_a_closed_server() -> None:
    """`lllms run` and `chat` with `--url` send the key that they are given."""
    with running_server({"bot": BOT}, api_keys=["sk-home"]) as url:
        assert lllms("run", "bot", "Hi", "--url", url, "--api-key", "sk-home").strip() == "one two"
        assert "answers 401" in lllms("run", "bot", "Hi", "--url", url)


def test_a_certificate_of_somebody_else_is_not_trusted(files: Files, tmp_path: Path) -> None:
    """The client trusts the certificate of its configuration, and no other; a foreign one is an error that says so."""
    trustme.CA().issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(tmp_path / "other.pem")
    with running_server({"bot": BOT}, **files.config) as url:
        with Client(url, certificate=files.certificate) as client:
            assert client.get("/health") == {"status": "ok"}
        for trusted in (None, tmp_path / "other.pem"):
            with Client(url, certificate=trusted) as client, pytest.raises(
                ServerError, match="certificate verify failed",
            ):
                client.get("/health")
    with pytest.raises(ServerError, match="holds no certificate"):
        Client("https://127.0.0.1:1", certificate=files.key)


def test_a_new_key_opens(tmp_path: Path) -> None:
    """`lllms key` prints a key and the line of a configuration that it opens; each key is another one."""
    secret, line = lllms("key").splitlines()
    config = tmp_path / "lllms.toml"
    config.write_text(f"[server]\n{line}\n")
    from lllms_core.config import load_config, open_keyring

    assert open_keyring(load_config(config, environ={}).server).find(secret) is not None
    assert secret not in line
    assert lllms("key").splitlines()[0] != secret


def test_check_names_keys_and_certificates(files: Files, tmp_path: Path) -> None:
    """`lllms check` names faults of the keys and of the certificate, warns of a readable file, and shows no key."""
    secret, keys, config = "sEcReT-4711", tmp_path / "keys", tmp_path / "lllms.toml"
    keys.write_text(f"a: {secret}\n")
    keys.chmod(0o644)
    server = '[server]\napi_keys_file = "keys"\ntls_certificate = "none"\n'
    config.write_text(f'{server}[models.bot]\nengine = "mock"\n')
    told = lllms("check", "--config", str(config))
    assert f"every user of this machine can read {keys}" in told
    assert "Error: server.tls_certificate" in told
    keys.write_text(f"a: {secret} x\n")
    keys.chmod(0o600)
    more = lllms("check", "--config", str(config))
    assert "line 1: expected a key" in more
    assert "can read" not in more
    assert secret not in told + more
    config.write_text("""
[server]
api_keys = [{ name = "kid", key = "sk-4711", models = ["bot", "b*", "tiny", "x*"] }]
[models.bot]
engine = "mock"
""")
    warned = [line for line in lllms("check", "--config", str(config)).splitlines() if line.startswith("Warning")]
    assert [line.partition(", which the key 'kid' may use, fits no model")[1] != "" for line in warned] == [True, True]
    assert "'tiny'" in warned[0]
    assert "'x*'" in warned[1]


def test_what_lets_others_in_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server warns at its start if anybody may use it, or read its keys; not if only this machine can reach it."""
    keys = tmp_path / "keys"
    keys.write_text("sk-home")
    keys.chmod(0o644)
    _warn(ServerConfig())
    _warn(ServerConfig(host="unix:/s"))
    _warn(ServerConfig(host="0.0.0.0", api_keys=(ApiKey("a", b""),)))
    assert caplog.text == ""
    _warn(ServerConfig(host="0.0.0.0", insecure=True))
    assert "there are no API keys: whoever reaches 0.0.0.0 port 3000 may use the models" in caplog.text
    _warn(ServerConfig(api_keys_file=keys))
    assert f"chmod 600 {keys}" in caplog.text


def test_serve_suggests_a_key(tmp_path: Path) -> None:
    """The curl line of a server with keys takes the key from a variable; that of a socket or HTTPS fits, too."""
    from lllms_core.cli.first_request import curl

    config = parse_config({"server": {"api_keys": ["sk-home"], "host": "unix:/s"}, "models": {"bot": BOT}})
    line = curl(config.server, "unix:/s", "bot")
    assert line.startswith("curl --unix-socket /s http://localhost/v1/chat/completions")
    assert line.endswith('-H "Authorization: Bearer $LLLMS_API_KEY"')
    assert "sk-home" not in line
    assert os.environ.get("LLLMS_API_KEY") is None
