"""Automatic sizes within a server's memory limit, with real workers."""

import asyncio
import json
import logging
from contextlib import aclosing

import pytest
from attrs import evolve
from click.testing import CliRunner
from sized_models_for_tests import TINY, write_sized

from lllms_core.cli import cli
from lllms_core.config import parse_config
from lllms_core.errors import ModelTooLarge
from lllms_core.host import Host
from lllms_core.types import TextRequest

pytestmark = pytest.mark.slow

MIB = 2**20
BUSY = {"engine": "mock", "memory": 235 * MIB, "options": {"first_token": 3600}}


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """A small model that was trained for 32,768 tokens, each of which takes 2 KiB."""
    shape = evolve(TINY, layers=2, width=128, heads=2, kv_heads=2, inner=128)
    return write_sized(tmp_path_factory.mktemp("long") / "long.gguf", shape)


def config(models, limit):
    return parse_config({"server": {"memory_limit": limit}, "sessions": {"store": "none"}, "models": models})


def model(file, **options):
    return {"engine": "llamacpp", "file": str(file), "options": {"threads": 1, **options}}


async def answered(host, name):
    answer = await host.submit(TextRequest(name, "long", prompt=(5, 6, 7), max_tokens=1)).gather()
    return answer.finish.usage.completion_tokens == 1


@pytest.mark.asyncio
async def test_a_busy_neighbour_leaves_less_context(long_file, caplog):
    """Beside a busy model, an automatic context is shorter; the load says so, and so do the model's facts."""
    models = {"long": model(long_file), "busy": BUSY}
    async with Host(config(models, 390 * MIB)) as host:
        expected = (await host.abilities("long")).context_length
        assert await answered(host, "first")
        whole = host.pool.info("long").context_length
        assert whole == expected
        await host.unload("long")
        stream = host.submit(TextRequest("stuck", "busy", prompt="a"))
        async with aclosing(stream), asyncio.timeout(120):
            await host.load("busy")
            with caplog.at_level(logging.INFO, logger="lllms"):
                assert await answered(host, "second")
            assert {one.model for one in host.status().instances} == {"busy", "long"}
            less = (await host.abilities("long")).context_length
            assert 4096 <= less < whole < 32_768
            assert f'a request may hold {less} tokens (context_length is "auto")' in caplog.text
            assert "but no more fit into" in caplog.text
            used = host.status().memory
            assert used.used <= used.limit


@pytest.mark.asyncio
async def test_what_can_never_fit_is_told_with_what_would(long_file, tmp_path):
    """The refusal, and `lllms check`, name the context and the slots with which the model would fit; they do fit."""
    def limited(**options):
        return {"long": model(long_file, **options)}

    limit = 200 * MIB
    with pytest.raises(ModelTooLarge) as refused:
        async with Host(config(limited(context_length=32_768), limit)) as host:
            await answered(host, "never")
    assert "it would fit with options.context_length = " in refused.value.message
    assert ", or with options.slots = " in refused.value.message
    file = tmp_path / "lllms.toml"
    text = f'[server]\nmemory_limit = {limit}\n[sessions]\nstore = "none"\n[models.long]\nengine = "llamacpp"\n'
    file.write_text(f"{text}file = {json.dumps(str(long_file))}\noptions.context_length = 32768\n")
    checked = await asyncio.to_thread(CliRunner().invoke, cli, ["check", "--config", str(file)])
    ways = refused.value.message.partition("it would fit with ")[2].partition(": set that")[0]
    assert checked.exit_code == 1
    assert f"it would fit with {ways}: set that" in checked.output
    for way in ways.split(", or with "):
        name, _, value = way.removeprefix("options.").partition(" = ")
        async with Host(config(limited(**{"context_length": 32_768, name: int(value)}), limit)) as host:
            assert await answered(host, way)
