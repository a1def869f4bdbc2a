"""`/v1/models` says what clients look for, without loading a model: context, tasks, aliases, state."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import openai
import pytest
from attrs import evolve
from gates_for_tests import Gate, gated
from hypothesis import given
from hypothesis import strategies as st
from lllms_llamacpp import LlamaCppEngine
from serving_for_tests import published
from waits_for_tests import until

from lllms_core.apis import Abilities, ModelCard, state_of
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.status import DownloadStatus, InstanceStatus

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
TEXT = ["chat", "detokenize", "render", "text", "tokenize"]
MODELS: dict[str, Any] = {
    "tiny": {"engine": "llamacpp", "file": str(TINY), "aliases": ["gpt-4o", "gpt-4o-mini"], "options": {"threads": 1}},
    "short": {"engine": "llamacpp", "file": str(TINY), "options": {"context_length": 300}},
    "vectors": {"engine": "llamacpp", "file": str(TINY), "options": {"embeddings": True, "pooling": "mean"}},
    "bot": {"engine": "mock", "options": {"context_length": 77}},
    "away": {"engine": "llamacpp", "hf": "org/repo:Q4_K_M", "prepare": "on-demand"},
}


@asynccontextmanager
async def serving(models: dict[str, Any], folder: Path) -> AsyncIterator[tuple[Host, openai.AsyncOpenAI]]:
    config = parse_config({"server": {"models_dir": str(folder)}, "models": models})
    async with (
        Host(config) as host, published(host) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield host, client


async def told(client: openai.AsyncOpenAI, name: str) -> dict[str, Any]:
    """What the list says of a model beyond OpenAI's own fields."""
    [model] = [model async for model in client.models.list() if model.id == name]
    return dict(model.model_extra or {})


async def test_models_are_described_without_a_load(tmp_path: Path) -> None:
    """The official client reads context, tasks, aliases and state of each model, listed or by name; none is loaded."""
    async with serving(MODELS, tmp_path) as (host, client):
        listed = {model.id: model for model in (await client.models.list()).data}
        found = {name: model.model_extra or {} for name, model in listed.items()}
        assert {name: model.owned_by for name, model in listed.items()} == {
            "tiny": "llamacpp", "short": "llamacpp", "vectors": "llamacpp", "bot": "mock", "away": "llamacpp",
        }
        lengths = {name: (one["context_length"], one["max_model_len"]) for name, one in found.items()}
        assert lengths == {
            "tiny": (1024, 1024), "short": (300, 300), "vectors": (1024, 1024), "bot": (77, 77), "away": (None, None),
        }
        assert {name: one["tasks"] for name, one in found.items()} == {
            "tiny": TEXT, "short": TEXT, "vectors": ["detokenize", "embed", "tokenize"],
            "bot": ["chat", "detokenize", "embed", "text", "tokenize"], "away": None,
        }
        assert found["tiny"]["aliases"] == ["gpt-4o", "gpt-4o-mini"]
        assert found["bot"]["aliases"] == []
        states = {name: one["state"] for name, one in found.items()}
        assert states == {**dict.fromkeys(MODELS, "unloaded"), "away": "absent"}
        one = await client.models.retrieve("gpt-4o")
        assert {**found["tiny"], "id": one.id} == {**{key: getattr(one, key) for key in found["tiny"]}, "id": "tiny"}
        assert host.status().instances == ()


async def test_what_a_loaded_model_tells_is_the_same(tmp_path: Path) -> None:
    """After a load the state says so, and everything else is as predicted."""
    models = {name: {**MODELS[name], "isolation": "thread"} for name in ("tiny", "vectors", "bot")}
    async with serving(models, tmp_path) as (host, client):
        for name in models:
            before = await told(client, name)
            await host.load(name)
            assert await told(client, name) == {**before, "state": "loaded"}
            await host.unload(name)
            assert await told(client, name) == before


async def test_a_load_is_seen() -> None:
    """While a model loads, its state says so; what its engine cannot tell in advance is null."""
    gate = Gate()
    async with gated(gate) as host, published(host) as url, httpx.AsyncClient(base_url=url) as http:
        loading = asyncio.create_task(host.load("gate"))
        await until(lambda: [one.state for one in host.status().instances] == ["loading"])
        [model] = (await http.get("/v1/models")).json()["data"]
        assert (model["state"], model["tasks"]) == ("loading", None)
        gate.load.set()
        await loading
        [model] = (await http.get("/v1/models")).json()["data"]
        assert model["state"] == "loaded"


async def test_a_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests come, at once or later, each file is read once, until it is replaced."""
    file = tmp_path / "model.gguf"
    shutil.copy(TINY, file)
    looks = []
    inspect = LlamaCppEngine.inspect

    def counted(self: LlamaCppEngine, spec: Any) -> Any:
        looks.append(spec.name)
        return inspect(self, spec)

    monkeypatch.setattr(LlamaCppEngine, "inspect", counted)
    async with serving({"m": {"engine": "llamacpp", "file": str(file)}}, tmp_path) as (_, client):
        for _ in range(3):
            found = await asyncio.gather(*(told(client, "m") for _ in range(8)))
            assert {one["context_length"] for one in found} == {1024}
        assert looks == ["m"]
        other = tmp_path / "other.gguf"
        key = b"llama.context_length\x04\x00\x00\x00%b"
        old, new = (key % length.to_bytes(4, "little") for length in (1024, 512))
        other.write_bytes(TINY.read_bytes().replace(old, new))
        other.replace(file)
        assert (await told(client, "m"))["context_length"] == 512
        assert looks == ["m", "m"]


async def test_a_broken_file_breaks_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that can never be loaded, and one on which its engine fails, are listed as such, beside the others."""
    file = tmp_path / "model.gguf"
    shutil.copy(TINY, file)
    models = {"m": {"engine": "llamacpp", "file": str(file)}, "bot": MODELS["bot"]}
    async with serving(models, tmp_path) as (_, client):
        for data in (b"GGUF and no more", b"PK"):
            file.write_bytes(data)
            broken = {"aliases": [], "context_length": None, "max_model_len": None, "tasks": None, "state": "broken"}
            assert await told(client, "m") == broken
            assert (await client.models.retrieve("m")).model_extra is not None
            assert (await told(client, "bot"))["state"] == "unloaded"
        file.unlink()
        assert (await told(client, "m"))["state"] == "broken"
        shutil.copy(TINY, file)
        assert (await told(client, "m"))["state"] == "unloaded"
        monkeypatch.setattr(LlamaCppEngine, "inspect", lambda *_: 1 / 0)
        shutil.copy(TINY, file)
        assert (await told(client, "m"))["state"] == "broken"


CARD = ModelCard("m", (), "e", "p", "", "fp", frozenset(), frozenset(), None, 1, here=True, download_id=None)
ABLE = Abilities(None, None, None, calls_tools=False, sees_images=False, details={})
INSTANCES = st.lists(st.tuples(st.sampled_from(["m", "other"]), st.sampled_from(["loading", "ready", "closing"])))
DOWNLOADS = st.lists(st.tuples(st.sampled_from(["d", "e"]), st.sampled_from(["downloading", "verifying", "failed"])))


@given(INSTANCES, DOWNLOADS, st.booleans(), st.booleans(), st.sampled_from(["d", None]))
def test_states_follow_what_the_server_knows(
    instances: list[tuple[str, Any]], downloads: list[tuple[str, Any]], here: bool, able: bool, source: str | None,
) -> None:
    """A ready instance takes precedence over a load, a load over the files; each state is given only for its reason."""
    state = state_of(
        evolve(CARD, here=here, download_id=source), ABLE if able else None,
        [InstanceStatus("i", model, state, 0, 0, 1, 0, 0, None, None) for model, state in instances],
        [DownloadStatus(one, "", state, "", "", 0, 0, None, 0, None) for one, state in downloads],
    )
    own = {state for model, state in instances if model == "m"}
    assert (state == "loaded") == ("ready" in own)
    assert (state == "loading") == ("loading" in own and "ready" not in own)
    if state in {"unloaded", "broken"}:
        assert here
        assert (state == "broken") == (not able)
    if state in {"absent", "fetching"}:
        assert not here
        going = any(one == source and state != "failed" for one, state in downloads)
        assert (state == "fetching") == going
