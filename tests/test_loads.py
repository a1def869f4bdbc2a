"""Models that are loaded and unloaded on request, and those that cannot be loaded: over HTTP, and by commands."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from click.testing import CliRunner, Result
from gates_for_tests import Gate, gated
from programs_for_tests import address, serving
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.cli import cli
from lllms_core.cli.load import _Lines
from lllms_core.client import LoadStep
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.pool import setbacks
from lllms_core.types import Message

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
CHAT = "/v1/chat/completions"
SAID = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
GATE = {"gate": {"engine": "gate", "aliases": ["portal"]}}


@asynccontextmanager
async def asking(host: Host) -> AsyncIterator[httpx.AsyncClient]:
    async with asyncio.timeout(GUARD), published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        yield client


@asynccontextmanager
async def failing(folder: Path, **model: object) -> AsyncIterator[tuple[Host, httpx.AsyncClient, Path]]:
    """A server whose model has a file that is no model."""
    file = folder / "weights.gguf"
    file.write_bytes(b"no model" * 100)
    config = {"engine": "llamacpp", "file": str(file), "isolation": "thread", **model}
    async with Host(parse_config({"models": {"m": config}})) as host, asking(host) as client:
        yield host, client, file


async def lllms(client: httpx.AsyncClient, *arguments: str) -> Result:
    return await asyncio.to_thread(
        CliRunner().invoke, cli, [*arguments, "--url", str(client.base_url)], prog_name="lllms",
    )


def message(answer: httpx.Response) -> str:
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_not_available"
    return str(answer.json()["error"]["message"])


async def test_a_failed_load_is_told_everywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cause and next try are in the refusals, with Retry-After, in `GET /`, `lllms ps`, the page and the log."""
    async with failing(tmp_path) as (_, client, file):
        first = await client.post(CHAT, json={"model": "m", **SAID})
        refused = await client.post(CHAT, json={"model": "m", "stream": True, **SAID})
        vectors = await client.post("/v1/embeddings", json={"model": "m", "input": "x"})
        [failed] = (await client.get("/")).json()["failed_loads"]
        page = (await client.get("/", headers={"Accept": "text/html"})).text
        shown = (await lllms(client, "ps")).output
    cause = failed["problem"]
    assert str(file) in cause
    assert message(first) == f"model 'm' cannot be loaded: {cause}"
    for answer in (refused, vectors):
        seconds = int(answer.headers["Retry-After"])
        assert 1 <= seconds <= setbacks.FIRST_COOLDOWN
        assert message(answer) == (
            f"model 'm' cannot be loaded: {cause}; next try in {seconds} s (`lllms load m` tries at once)"
        )
    assert (failed["model"], failed["failures"]) == ("m", 1)
    assert 0 < failed["retry_seconds"] <= setbacks.FIRST_COOLDOWN
    assert f"model m could not be loaded: {cause}; next try in " in shown
    assert "could not be loaded: " in page
    [record] = [one for one in caplog.records if "cannot be loaded" in one.getMessage()]
    assert record.levelno == logging.ERROR
    assert cause in record.getMessage()


async def test_an_explicit_load_tries_at_once(tmp_path: Path) -> None:
    """During a cooldown `lllms load` loads nevertheless: it tells the cause, or, if that is gone, ends the cooldown."""
    async with failing(tmp_path) as (host, client, file):
        await client.post(CHAT, json={"model": "m", **SAID})
        again = await lllms(client, "load", "m")
        assert again.exit_code == 1
        assert "cannot be loaded" in again.output
        assert "next try" not in again.output
        state = file.stat()
        shutil.copyfile(TINY, file)
        assert host.failed_loads() == ()  # its file has changed
        assert state.st_size != file.stat().st_size
        loaded = await lllms(client, "load", "m")
        assert (loaded.exit_code, loaded.stdout[:10]) == (0, "m: loaded ")
        assert (await client.post(CHAT, json={"model": "m", **SAID})).status_code == 200


async def test_a_changed_file_ends_the_cooldown(tmp_path: Path) -> None:
    """Once its file has been mended, the next request loads the model, however long the cooldown is."""
    async with failing(tmp_path) as (_, client, file):
        for _ in range(2):
            message(await client.post(CHAT, json={"model": "m", **SAID}))
        shutil.copyfile(TINY, file)
        assert (await client.post(CHAT, json={"model": "m", **SAID})).status_code == 200
        assert (await client.get("/")).json()["failed_loads"] == []


async def test_a_kept_model_is_loaded_once_its_file_is_mended(tmp_path: Path) -> None:
    """Whoever asks whether a server is ready makes it notice that the file of a kept model has changed."""
    async with failing(tmp_path, min_instances=1) as (_, client, file):
        assert (await client.get("/health?ready=true")).status_code == 503
        shutil.copyfile(TINY, file)
        while (await client.get("/health?ready=true")).status_code != 200:  # noqa: ASYNC110  # as probes do
            await asyncio.sleep(0.02)


async def test_a_load_returns_the_instance() -> None:
    """`POST .../load` returns once an instance is ready, by name or alias, and at once if one is, even a busy one."""
    gate = Gate()
    async with gated(gate, models=GATE, concurrency=1) as host, asking(host) as client:
        loading = asyncio.create_task(client.post("/api/v1/models/portal/load", json={"ttl": "1h"}))
        await until(lambda: host.status().instances)
        assert not loading.done()
        gate.load.set()
        answer = await loading
        [instance] = host.status().instances
        assert answer.status_code == 200
        assert answer.json()["seconds"] >= 0
        assert (answer.json()["model"], answer.json()["instance"]) == ("gate", instance.id)
        entry = host.pool._scheduler.instances[instance.id]
        assert entry.ttl == 3600
        busy = host.submit(host.request("gate", messages=[Message("user", "x")]))
        await until(lambda: host.status().running == 1)
        again = await client.post("/api/v1/models/gate/load")
        assert (again.status_code, again.json()["instance"], again.json()["seconds"]) == (200, instance.id, 0)
        assert entry.ttl is None
        await busy.aclose()


async def test_a_load_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `stream`, events tell what the load waits for and how far it is, then that it is done; `lllms load` does."""
    gate = Gate(loaded=0.5)
    show = _Lines.show

    def shown(self: _Lines, step: LoadStep) -> None:
        show(self, step)
        if step.progress == 0.5:
            gate.load.set()

    monkeypatch.setattr(_Lines, "show", shown)
    async with gated(gate, models=GATE) as host, asking(host) as client:
        done = await lllms(client, "load", "gate")
        [instance] = host.status().instances
        assert done.exit_code == 0
        assert "gate: loading 50 %" in done.stderr
        assert done.stdout.startswith("gate: loaded in ")
        assert done.stdout.endswith(f", instance {instance.id}\n")
        again = await lllms(client, "load", "gate", "--ttl", "-1")
        assert again.stdout == f"gate: loaded, instance {instance.id}\n"
        assert host.pool._scheduler.instances[instance.id].ttl == -1


async def test_a_load_can_be_cancelled() -> None:
    """A load is a request like others: deleted, it ends with an error that says so."""
    gate = Gate()
    async with gated(gate, models=GATE) as host, asking(host) as client:
        loading = asyncio.create_task(client.post("/api/v1/models/gate/load"))
        await until(host.requests)
        [listed] = (await client.get("/api/v1/requests")).json()["data"]
        assert (listed["task"], listed["state"]) == ("load", "loading")
        await client.delete(f"/api/v1/requests/{listed['id']}")
        answer = await loading
        assert (answer.status_code, answer.json()["error"]["code"]) == (499, "cancelled")


@pytest.mark.parametrize(("path", "body", "status", "word"), [
    ("nobody/load", {}, 404, "no model 'nobody'"), ("nobody/unload", {}, 404, "no model 'nobody'"),
    ("gate/load", {"ttl": "soon"}, 400, "'soon'"), ("gate/load", {"stream": 1}, 400, "stream"),
    ("gate/load", {"slots": 1}, 400, "slots"), ("gate/load", [], 400, "body"),
    ("gate/unload", {"all": True}, 400, "all"),
])
async def test_loads_are_checked(path: str, body: Any, status: int, word: str) -> None:
    """Unknown models and members, and wrong values, are refused in OpenAI's shape."""
    gate = Gate()
    gate.load.set()
    async with gated(gate, models=GATE) as host, asking(host) as client:
        answer = await client.post(f"/api/v1/models/{path}", json=body)
        assert answer.status_code == status
        assert word in answer.json()["error"]["message"]
        assert host.status().instances == ()


async def test_no_web_page_loads_models() -> None:
    """A body may be left out, as by `curl -X POST`, but not by browsers: they could send that without asking first."""
    gate = Gate()
    gate.load.set()
    async with gated(gate, models=GATE) as host, asking(host) as client:
        for headers, status in (({"Origin": "http://evil.example"}, 403), ({"Content-Type": "text/plain"}, 415)):
            for what in ("load", "unload"):
                assert (await client.post(f"/api/v1/models/gate/{what}", headers=headers)).status_code == status
        assert host.status().instances == ()
        assert (await client.post("/api/v1/models/gate/load")).status_code == 200
        assert (await client.post("/api/v1/models/gate/unload")).status_code == 200


async def test_an_unload_says_what_happens() -> None:
    """Idle instances are unloaded, busy ones once they are idle, kept ones stay; answer and command name them."""
    gate = Gate()
    gate.load.set()
    models = {**GATE, "kept": {"engine": "gate", "min_instances": 1}}
    async with gated(gate, models=models) as host, asking(host) as client:
        [kept] = [one.id for one in host.status().instances]
        assert (await lllms(client, "unload", "gate")).stdout == "gate: it was not loaded\n"
        await host.load("gate")
        [instance] = [one.id for one in host.status().instances if one.model == "gate"]
        answer = await client.post("/api/v1/models/portal/unload")
        assert answer.json() == {"model": "gate", "unloaded": [instance], "busy": [], "kept": []}
        assert [one.id for one in host.status().instances] == [kept]
        busy = host.submit(host.request("gate", messages=[Message("user", "x")]))
        await until(lambda: host.status().running == 1)
        [instance] = [one.id for one in host.status().instances if one.model == "gate"]
        shown = await lllms(client, "unload", "gate", "kept")
        assert shown.stdout == (
            f"gate: {instance} will be unloaded once idle\nkept: {kept} stays, as min_instances says\n"
        )
        await busy.aclose()
        await until(lambda: [one.id for one in host.status().instances] == [kept])


def test_serve_prints_why_a_model_cannot_be_loaded(tmp_path: Path) -> None:
    """The output of `lllms serve` has one line with the model and the cause."""
    (tmp_path / "bad.gguf").write_bytes(b"no model" * 100)
    (tmp_path / "lllms.toml").write_text('[models.m]\nengine = "llamacpp"\nfile = "bad.gguf"\nisolation = "thread"\n')
    with serving(tmp_path) as (process, printed):
        answer = httpx.post(f"{address(printed)}{CHAT}", json={"model": "m", **SAID}, timeout=GUARD)
        cause = message(answer).partition("cannot be loaded: ")[2]
        assert process.stderr is not None
        lines = []
        while not lines or "cannot be loaded" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
    assert "m:" in lines[-1]
    assert f"cannot be loaded: {cause}; next try in 10 s (`lllms load m` tries at once)" in lines[-1]
