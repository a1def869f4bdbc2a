"""Models whose load would fail: told before anybody asks for them."""

import asyncio
import logging
import shutil
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from programs_for_tests import serving
from reloading_for_tests import Source, hosting
from serving_for_tests import published
from stores_for_tests import TINY
from waits_for_tests import GUARD, until

from lllms_core.cli import cli
from lllms_core.config import parse_config
from lllms_core.host import Host

pytestmark = pytest.mark.slow

BOT = {"engine": "mock"}
BROWSER = {"Accept": "text/html"}


def bad_file(folder: Path) -> Path:
    file = folder / "weights.gguf"
    file.write_bytes(b"no model" * 100)
    return file


async def test_a_broken_file_is_told_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model with a broken file is a problem everywhere before its first load, and none once the file is mended."""
    caplog.set_level(logging.WARNING)
    file = bad_file(tmp_path)
    models = {"m": {"engine": "llamacpp", "file": str(file), "aliases": ["em"]}, "bot": BOT}
    async with (
        asyncio.timeout(GUARD), Host(parse_config({"models": models})) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        assert (await client.get("/")).json()["problems"] == []
        await host.examine()
        [problem] = (await client.get("/")).json()["problems"]
        page = (await client.get("/", headers=BROWSER)).text
        shown = await asyncio.to_thread(CliRunner().invoke, cli, ["ps", "--url", url])
        for name in ("m", "em"):
            health = await client.get(f"/health?model={name}")
            assert (health.status_code, health.json()["problem"]) == (503, problem["problem"])
        assert problem == {"model": "m", "problem": f"'{file}' is not a GGUF file"}
        assert "is not a GGUF file" in page
        assert f"model m cannot be served: '{file}' is not a GGUF file" in shown.output
        [warning] = [one for one in caplog.messages if "will not load" in one]
        assert warning == f"model m will not load: '{file}' is not a GGUF file"
        fine = await client.get("/health?model=bot&ready=true")
        assert (fine.status_code, fine.json()) == (
            200, {"status": "ok", "model": "bot", "ready": 0, "problem": None, "lacking": []},
        )
        assert (await client.get("/health?model=none")).status_code == 404
        shutil.copyfile(TINY, file)
        assert (await client.get("/")).json()["problems"] == []
        assert (await client.get("/health?model=m")).status_code == 200


async def test_health_of_a_model_looks_by_itself(tmp_path: Path) -> None:
    """A monitor that asks for one model learns of its broken file without anybody else having looked; then of loads."""
    models = {"m": {"engine": "llamacpp", "file": str(bad_file(tmp_path)), "isolation": "thread"}, "bot": BOT}
    async with (
        asyncio.timeout(GUARD), Host(parse_config({"models": models})) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        assert "is not a GGUF file" in (await client.get("/health?model=m")).json()["problem"]
        await client.post("/api/v1/models/m/load")
        assert [one["model"] for one in (await client.get("/")).json()["failed_loads"]] == ["m"]
        assert (await client.get("/")).json()["problems"] == []  # said once
        assert (await client.get("/health?model=m")).status_code == 503
        await client.post("/api/v1/models/bot/load")
        assert (await client.get("/health?model=bot")).json()["ready"] == 1


async def test_a_model_too_large_for_the_memory_is_told_at_once() -> None:
    """What can never fit into the memory limit is a problem from the start, with the key that would change it."""
    models = {"huge": {**BOT, "options": {"memory": 10**15}}, "bot": BOT}
    async with Host(parse_config({"server": {"memory_limit": "1GB"}, "models": models})) as host:
        await host.examine()
        [problem] = host.problems()
        assert (problem.name, problem.configured) == ("huge", True)
        assert "server.memory_limit" in problem.text
        assert await host.problem("huge") == problem.text
        assert await host.problem("bot") == ""


async def test_models_of_a_new_configuration_are_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that a reload adds is a problem as soon as that is in force; those told before are not told again."""
    caplog.set_level(logging.WARNING)
    broken = {"engine": "llamacpp", "file": str(bad_file(tmp_path))}
    source = Source(models={"bot": BOT, "old": broken})
    async with asyncio.timeout(GUARD), hosting(source) as host:
        await host.examine()
        source.table = {"models": {"bot": BOT, "old": broken, "new": broken}}
        await host.reload()
        await until(lambda: {one.name for one in host.problems()} == {"old", "new"})
    told = [one.split()[1] for one in caplog.messages if "will not load" in one]
    assert sorted(told) == ["new", "old"]


def test_serve_says_so(tmp_path: Path) -> None:
    """The output of `lllms serve` names the model and the cause without any request for it."""
    file = bad_file(tmp_path)
    (tmp_path / "lllms.toml").write_text(
        f'[models.bot]\nengine = "mock"\n[models.m]\nengine = "llamacpp"\nfile = "{file}"\n',
    )
    with serving(tmp_path, "--config", str(tmp_path / "lllms.toml")) as (process, _):
        assert process.stderr is not None
        for line in process.stderr:
            if "model m will not load" in line:
                assert "is not a GGUF file" in line
                break
        else:
            pytest.fail("it ended without a word")
