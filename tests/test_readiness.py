"""Whether the models that a server keeps loaded are ready, as `/health`, the status and `lllms ps` report it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import pytest
from click.testing import CliRunner
from engines_for_tests import ScriptedEngine
from serving_for_tests import published, serving
from waits_for_tests import GUARD

from lllms_core.cli import cli
from lllms_core.config import parse_config
from lllms_core.engines import Engine
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins

pytestmark = pytest.mark.slow

KEPT = {"engine": "mock", "isolation": "process", "min_instances": 1}
BROWSER = {"Accept": "text/html"}


@hookimpl
def lllms_engines() -> list[Engine]:
    return [ScriptedEngine()]


def make_host(**model: object) -> Host:
    plugin = SimpleNamespace(lllms_engines=lllms_engines)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"tests": plugin})
    kept = {"engine": "scripted", "isolation": "thread", "min_instances": 1, **model}
    return Host(parse_config({"models": {"kept": kept, "other": {"engine": "scripted"}}}), plugins)


@asynccontextmanager
async def asking(**model: object) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose model `kept` has these settings."""
    async with asyncio.timeout(GUARD), make_host(**model) as host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        yield client


async def test_readiness_follows_a_kept_model() -> None:
    """After the death of a kept model the server is alive but not ready, says why, and recovers automatically."""
    async with asyncio.timeout(GUARD), serving({"server": {"port": 0}, "models": {"kept": KEPT}}) as url, \
            httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/health?ready=true")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "lacking": []})
        [instance] = (await client.get("/")).json()["instances"]
        os.kill(instance["pid"], signal.SIGKILL)
        while (answer := await client.get("/health?ready=true")).status_code == 200:
            pass
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        [lack] = answer.json()["lacking"]
        assert (lack["model"], lack["ready"], lack["min_instances"]) == ("kept", 0, 1)
        assert "SIGKILL" in lack["problem"]
        alive = await client.get("/health")
        assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
        while (await client.get("/health?ready=true")).status_code == 503:  # noqa: ASYNC110  # as probes do
            await asyncio.sleep(0.05)
        [again] = (await client.get("/")).json()["instances"]
        assert again["pid"] != instance["pid"]


async def test_a_kept_model_that_cannot_load_is_told_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/health?ready=true`, page, JSON, `ps` and `health` name the missing model and the reason; most the next try."""
    monkeypatch.setattr("lllms_core.pool.setbacks.FIRST_COOLDOWN", 300.0)
    async with asking(options={"load": "refuse"}) as client:
        ready = await client.get("/health?ready=true")
        report = (await client.get("/")).json()
        page = (await client.get("/", headers=BROWSER)).text
        shown = await asyncio.to_thread(CliRunner().invoke, cli, ["ps", "--url", str(client.base_url)])
        alive = await asyncio.to_thread(CliRunner().invoke, cli, ["health", "--url", str(client.base_url)])
        health = await asyncio.to_thread(CliRunner().invoke, cli, ["health", "--ready", "--url", str(client.base_url)])
    assert ready.status_code == 503
    [lack], [told] = report["lacking"], ready.json()["lacking"]
    assert told["problem"] == lack["problem"] == "this file is no model"
    assert 300 - GUARD < lack["retry_seconds"] <= 300
    assert "has 0 of 1 kept instances: this file is no model; next try in " in page
    assert "model kept has 0 of 1 kept instances: this file is no model; next try in " in shown.output
    assert (alive.exit_code, health.exit_code) == (0, 1)
    assert "503" in health.stderr
    assert "this file is no model" in health.stderr


async def test_models_that_are_not_kept_need_not_be_there() -> None:
    """A server that keeps no models is ready as soon as it takes requests."""
    async with asking(min_instances=0) as client:
        assert (await client.get("/health?ready=true")).status_code == 200
        assert (await client.get("/health?ready=false")).json() == {"status": "ok"}


async def test_ready_takes_true_and_false_only() -> None:
    """A typo in a probe's address is reported, not taken for one or the other."""
    async with asking(min_instances=0) as client:
        answer = await client.get("/health?ready=" + "y" * 5000)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "ready"
    assert len(answer.text) < 500


async def test_a_load_without_end_is_a_503_that_names_the_key() -> None:
    """Over HTTP a load that takes too long is a 503, with the model, the limit and the key to raise."""
    limits = {"isolation": "process", "min_instances": 0, "load_timeout": 0.5, "options": {"load": "hang"}}
    async with asking(**limits) as client:
        answer = await client.post("/v1/completions", json={"model": "kept", "prompt": "x"})
    assert answer.status_code == 503
    message = answer.json()["error"]["message"]
    assert "model 'kept' cannot be loaded: it was not loaded within 0.5 s" in message
    assert "models.kept.load_timeout" in message


async def test_a_stuck_worker_is_a_500_that_names_the_key() -> None:
    """Over HTTP a request in a stuck worker ends as soon as that is noticed, with the key to raise."""
    limits = {"isolation": "process", "min_instances": 0, "watchdog": 0.5}
    async with asking(**limits) as client:
        answer = await client.post("/v1/completions", json={"model": "kept", "prompt": "stop"})
        after = await client.post("/v1/completions", json={"model": "kept", "prompt": "echo x"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_died"
    assert "models.kept.watchdog" in answer.json()["error"]["message"]
    assert after.json()["choices"][0]["text"] == "x"
