"""A new configuration over HTTP, by a signal, by a command, and by itself when its files change."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from programs_for_tests import Program, address, environment
from reloading_for_tests import Source, bot
from serving_for_tests import published
from test_web_tls import Files
from waits_for_tests import GUARD, until

from lllms_core.app import create_app
from lllms_core.host import Host
from lllms_core.host.file_watch import FileWatch, watched_files
from lllms_core.serve import serve

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
RELOAD = "/api/v1/reload"


def asking(model: str = "m") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def client_of(source: Source, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose configuration comes from `source`."""
    async with (
        Host(source(), read=source) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD, **options) as client,
    ):
        yield client


async def content(client: httpx.AsyncClient, **more: Any) -> Any:
    answer = await client.post(CHAT, json=asking(), **more)
    return answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.status_code


# -- the route ---------------------------------------------------------------------------------------------------------


async def test_the_route_tells_what_has_changed() -> None:
    """By names, and in words; a fault is a 400 that names it, and shows in `GET /` until it is mended."""
    source = Source(models={"m": bot("a")})
    async with client_of(source) as client:
        source.table = {"models": {"m": bot("b"), "n": bot("c")}, "server": {"queue_size": 3, "port": 5}}
        told = (await client.post(RELOAD)).json()
        assert told == {
            "added": ["n"], "removed": [], "replaced": ["m"], "adjusted": [], "settings": ["server.queue_size"],
            "restart": ["server.port"],
            "text": "added: n; replaced: m; now in force: server.queue_size; "
            "in force only after a restart: server.port",
        }
        assert await content(client) == "b"
        right, source.table = source.table, {"models": {"m": {"engine": "mock", "colour": 1}}}
        refused = await client.post(RELOAD, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_configuration")
        assert "models.m.colour: unknown key" in refused.json()["error"]["message"]
        [problem] = (await client.get("/")).json()["problems"]
        assert "models.m.colour: unknown key" in problem["problem"]
        source.table = right
        assert (await client.post(RELOAD)).json()["restart"] == ["server.port"]
        assert (await client.get("/")).json()["problems"] == []


async def test_strangers_may_not_reload() -> None:
    """Without keys only programs of this machine may, no proxies and no web pages; nor may those see the settings."""
    source = Source(models={"m": bot("a")})
    async with client_of(source) as client:
        for headers in ({"X-Forwarded-For": "10.0.0.1"}, {"Origin": "https://evil.example"}):
            assert (await client.post(RELOAD, headers=headers)).status_code == 403
            assert (await client.get("/api/v1/config", headers=headers)).status_code == 403
        assert (await client.post(RELOAD, content=b"{}", headers={"Content-Type": "text/plain"})).status_code == 415
        assert source.reads == 1
        assert (await client.post(RELOAD)).status_code == 200
        names = {one["name"]: one["value"] for one in (await client.get("/api/v1/config")).json()["data"]}
        assert names["models.m.engine"] == "mock"


async def test_a_key_for_all_models_may_reload_from_anywhere() -> None:
    """One with a list of models may not, nor may anybody without a key."""
    source = Source(server={"api_keys": ["sk-all", {"name": "kid", "key": "sk-kid", "models": ["m"]}]}, models={
        "m": bot("a"),
    })
    far = {"X-Forwarded-For": "10.0.0.1"}
    async with client_of(source, headers=far) as client:
        for key, status in (("sk-all", 200), ("sk-kid", 403), ("sk-none", 401)):
            bearer = {"Authorization": f"Bearer {key}"}
            assert (await client.post(RELOAD, headers=bearer)).status_code == status
            assert (await client.get("/api/v1/config", headers=bearer)).status_code == status
        assert (await client.post(RELOAD)).status_code == 401


# -- what the application checks ---------------------------------------------------------------------------------------


async def test_keys_change_while_requests_run(tmp_path: Path) -> None:
    """Keys of the configuration and of its file come and go; the first key closes a server that was open."""
    file = tmp_path / "keys"
    source = Source(models={"m": bot("a")})
    async with client_of(source) as client:
        assert await content(client) == "a"
        file.write_text("one: sk-1\n")
        source.table = {"server": {"api_keys_file": str(file)}, **source.table}
        assert (await client.post(RELOAD)).json()["settings"] == ["server.api_keys_file"]
        one, two = ({"Authorization": f"Bearer sk-{number}"} for number in (1, 2))
        assert [await content(client), await content(client, headers=one)] == [401, "a"]
        file.write_text("two: sk-2\n")
        assert (await client.post(RELOAD, headers=one)).json()["settings"] == ["server.api_keys_file"]
        assert [await content(client, headers=one), await content(client, headers=two)] == [401, "a"]
        file.write_text("two : sk-2 no key\n")
        assert (await client.post(RELOAD, headers=two)).status_code == 400
        assert await content(client, headers=two) == "a"
        source.table = {"models": source.table["models"]}
        assert (await client.post(RELOAD, headers=two)).status_code == 200
        assert await content(client) == "a"


async def test_a_key_keeps_its_count_of_requests() -> None:
    """A reload gives no new allowance to a key that has used its own, unless its limit is raised."""
    def keys(rate: int) -> dict[str, Any]:
        limited = {"name": "kid", "key": "sk-kid", "requests_per_minute": rate}
        return {"server": {"api_keys": ["sk-all", limited]}, "models": {"m": bot("a")}}

    source = Source(**keys(1))
    kid, other = ({"Authorization": f"Bearer sk-{name}"} for name in ("kid", "all"))
    async with client_of(source) as client:
        assert [await content(client, headers=kid) for _ in range(2)] == ["a", 429]
        source.table = {**keys(1), "models": {"m": bot("a", ttl=5)}}
        await client.post(RELOAD, headers=other)
        assert await content(client, headers=kid) == 429
        source.table = keys(10**9)  # a request each 60 ns
        await client.post(RELOAD, headers=other)
        assert await content(client, headers=kid) == "a"


async def test_what_the_application_checks_follows_the_configuration() -> None:
    """Origins, names in the Host header, the size of bodies and the depth of JSON."""
    source = Source(models={"m": bot("a")})
    page, name = {"Origin": "https://app.example"}, {"Host": "box.example"}
    large, deep = asking() | {"user": "x" * 2000}, asking() | {"metadata": json.loads("[" * 20 + "]" * 20)}
    async with client_of(source) as client:
        async def statuses() -> list[int]:
            posts = [(asking(), page), (asking(), name), (large, {})]
            found = [(await client.post(CHAT, json=data, headers=headers)).status_code for data, headers in posts]
            return [*found, (await client.options(CHAT, headers={
                **page, "Access-Control-Request-Method": "POST",
            })).status_code]

        assert await statuses() == [403, 403, 200, 403]
        assert (await client.post(CHAT, json=deep)).status_code == 200
        source.table = {**source.table, "server": {
            "cors_origins": ["https://app.example"], "allowed_hosts": ["box.example"], "max_body": 1000,
            "max_json_depth": 8,
        }}
        assert len((await client.post(RELOAD)).json()["settings"]) == 4
        assert await statuses() == [200, 200, 413, 204]
        assert "deep" in (await client.post(CHAT, json=deep)).json()["error"]["message"]
        source.table = {"models": source.table["models"]}
        await client.post(RELOAD)
        assert await statuses() == [403, 403, 200, 403]


async def test_a_priority_counts_for_those_who_are_trusted_now() -> None:
    """`trusted_clients` follow the configuration."""
    source = Source(models={"m": bot("a")})
    async with client_of(source, headers={"X-Priority": "high"}) as client:
        async def ignored() -> bool:
            return "x-lllms-ignored" in (await client.post(CHAT, json=asking())).headers

        assert await ignored()
        source.table = {**source.table, "server": {"trusted_clients": ["127.0.0.1"]}}
        await client.post(RELOAD)
        assert not await ignored()


async def test_a_renewed_certificate_is_used_at_once(tmp_path: Path) -> None:
    """New connections get it, also if it lies in the same files; a broken one changes nothing."""
    files, others = Files(make(tmp_path / "a")), Files(make(tmp_path / "b"))
    source = Source(server={"port": 0, **files.config}, models={"m": bot("a")})
    host = Host(source(), read=source)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(host, on_ready=ready.set_result))
    try:
        url = await ready

        async def greet(trust: Any) -> int:
            async with httpx.AsyncClient(base_url=url, verify=trust, timeout=GUARD) as client:
                return (await client.get("/health")).status_code

        async with httpx.AsyncClient(base_url=url, verify=files.trust, timeout=GUARD) as old:
            assert (await old.get("/health")).status_code == 200
            right = files.certificate.read_bytes()
            files.certificate.write_bytes(b"no certificate")
            assert (await old.post(RELOAD)).status_code == 400
            files.certificate.write_bytes(right)
            assert await greet(files.trust) == 200
            files.certificate.write_bytes(others.certificate.read_bytes())
            files.key.write_bytes(others.key.read_bytes())
            assert (await old.post(RELOAD)).json()["settings"] == ["server.tls_certificate"]
            assert (await old.get("/health")).status_code == 200
        assert await greet(others.trust) == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await greet(files.trust)
        source.table = {"server": {"port": 0}, "models": {"m": bot("a")}}
        assert (await host.reload()).restart == ("server.tls_certificate", "server.tls_key")
        assert await greet(others.trust) == 200
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


# -- files -------------------------------------------------------------------------------------------------------------


async def test_changes_of_files_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of the configuration is watched, also one that is replaced, and those that it names only now."""
    monkeypatch.setattr("lllms_core.host.file_watch.LOOK_SECONDS", 0.01)
    file, keys, done = tmp_path / "lllms.toml", tmp_path / "keys", 0

    def read() -> Any:
        nonlocal done
        config = load(file)
        done += 1
        return config

    file.write_text('[models.m]\nengine = "mock"\n')
    async with Host(read(), read=read) as host:
        create_app(host, manage_host=False)
        watching = asyncio.create_task(FileWatch(host).run())
        await until(lambda: done == 2)  # it may have changed since the start
        keys.write_text("sk-1")
        (tmp_path / "new.toml").write_text('[server]\napi_keys_file = "keys"\n[models.n]\nengine = "mock"\n')
        (tmp_path / "new.toml").replace(file)
        await until(lambda: [one.name for one in host.models()] == ["n"])
        assert watched_files(host.config) == (file, keys)
        await until(lambda: done == 4)  # the file of keys is new
        file.write_text("what?")
        await until(host.problems)
        file.write_text('[server]\napi_keys_file = "keys"\n[models.o]\nengine = "mock"\n')
        await until(lambda: [one.name for one in host.models()] == ["o"] and not host.problems())
        before = done
        keys.write_text("sk-2")
        await until(lambda: done > before)
        file.unlink()
        await until(host.problems)
        assert [one.name for one in host.models()] == ["o"]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def load(file: Path) -> Any:
    from lllms_core.config import load_config

    return load_config(file, environ={"LLLMS_SPARE_WORKERS": "0"})


# -- the program -------------------------------------------------------------------------------------------------------


TOML = """
[server]
port = 0
log_level = "{level}"
[models.{name}]
engine = "mock"
isolation = "thread"
options.script = [{{ replies = ["{name}"] }}]
"""


class Served:
    """`lllms serve` in a folder with a configuration."""

    def __init__(self, folder: Path, log: str, *arguments: str, terminal: int | None = None) -> None:
        self.folder, self.errors = folder, folder / "errors"
        self.lllms = Program(folder)
        self.configure("a", log)
        argv = [sys.executable, "-m", "lllms_core", "serve", *arguments]
        if terminal is not None:  # which becomes its controlling terminal
            take = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
            argv = [sys.executable, "-c", f"{take}; os.execv(sys.argv[1], sys.argv[1:])", *argv]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=errors, cwd=folder, text=True, env=environment(folder),
                stdin=subprocess.DEVNULL if terminal is None else terminal, start_new_session=terminal is None,
            )
        printed: list[str] = []
        assert self.process.stdout is not None
        while not (printed and printed[-1].startswith("try: ")):
            line = self.process.stdout.readline()
            assert line, self.errors.read_text()
            printed.append(line)
        self.url = address(printed)

    def configure(self, name: str, log: str = "info") -> None:
        (self.folder / "lllms.toml").write_text(TOML.format(name=name, level=log))

    def models(self) -> list[str]:
        return [one["id"] for one in httpx.get(f"{self.url}/v1/models", timeout=GUARD).json()["data"]]

    def log(self) -> str:
        return self.errors.read_text()


def wait(condition: Callable[[], object]) -> None:
    """Wait until a condition holds of another process."""
    end = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def served(folder: Path, *arguments: str, log: str = "info", terminal: int | None = None) -> Iterator[Served]:
    made = Served(folder, log, *arguments, terminal=terminal)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def test_a_hangup_of_a_service_manager_reloads(tmp_path: Path) -> None:
    """SIGHUP and `lllms reload` load the configuration again; a fault shows in the log and in the exit code."""
    with served(tmp_path) as server:
        assert server.models() == ["a"]
        server.configure("b")
        server.process.send_signal(signal.SIGHUP)
        wait(lambda: "added: b; removed: a" in server.log())
        assert server.models() == ["b"]
        server.configure("c", log="warning")
        printed = server.lllms.here("reload", "--url", server.url)
        assert printed == "added: c\nremoved: b\nnow in force: server.log_level\n"
        assert server.models() == ["c"]
        (tmp_path / "lllms.toml").write_text("[models.d]\nengine = 1")
        told = server.lllms.here("reload", "--url", server.url, code=1)
        assert "models.d.engine: expected a string, got 1 (lllms.toml)" in told
        assert "models.d.engine: expected a string, got 1" in server.log()
        assert server.models() == ["c"]
        shown = json.loads(server.lllms.here("config", "show", "--set", "--json", "--url", server.url))
        [engine] = [one for one in shown if one["name"] == "models.c.engine"]
        assert (engine["value"], engine["origin"]) == ("mock", f"{tmp_path / 'lllms.toml'}:6")
        assert server.process.poll() is None


def test_a_closed_terminal_stops_the_server(tmp_path: Path) -> None:
    """SIGHUP from elsewhere reloads also on a terminal, whose end ends the program, as it ends any.

    With --watch a changed file is loaded without being asked.
    """
    ours, theirs = os.openpty()
    with served(tmp_path, "--watch", terminal=theirs) as server:
        os.close(theirs)
        server.configure("b")
        wait(lambda: server.models() == ["b"])
        before = server.log().count("the configuration is loaded")
        server.process.send_signal(signal.SIGHUP)
        wait(lambda: server.log().count("the configuration is loaded") > before)
        os.close(ours)
        assert server.process.wait(timeout=GUARD) == 0


def test_there_must_be_something_to_watch(tmp_path: Path) -> None:
    """Without a configuration file --watch is an error that says so."""
    told = Program(tmp_path).here("serve", "--port", "0", "--watch", code=1)
    assert "there is no configuration file to watch" in told
