"""`/api/pull` against a hub on loopback: progress, the model that is served then, clients that leave, refusals."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from hubs_for_tests import hub
from programs_for_tests import Program
from servers_for_tests import Site, hang, instead
from stores_for_tests import TINY
from waits_for_tests import GUARD, until

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

COUNT = [{"role": "user", "content": "lets count to 10"}]
COUNTED = "Sure, let's count to 10 together: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10."
NAME = "hf.co/org/tiny-GGUF:Q8_0"
FILE = "/org/tiny-GGUF/tiny-Q8_0.gguf"
MODELS = {"mock": {"engine": "mock"}}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub with two sizes of one model."""
    data = TINY.read_bytes()
    with hub({FILE: data, "/org/tiny-GGUF/tiny-Q4_K_M.gguf": data, "/org/other/notes.txt": b""}) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site


def served(folder: Path, models: dict[str, Any] = MODELS, **server: object) -> Any:
    return running_server(models, models_dir=str(folder), **server)


def until_now(condition: Any) -> None:
    """Wait for a condition, in a test without an event loop."""
    asyncio.run(until(condition, 0.02))


def test_a_pulled_model_is_served_by_its_name(site: Site, tmp_path: Path) -> None:
    """The progress has the file's hash and sizes; then every API knows the model by the name that was pulled.

    So does the next server; what is here is not fetched again.
    """
    with served(tmp_path) as url, ollama.Client(url) as client:
        lines = list(client.pull(NAME, stream=True))
        assert (lines[0].status, lines[-1].status) == ("pulling manifest", "success")
        assert client.chat(NAME, COUNT, options={"temperature": 0}).message.content == COUNTED
        assert [model.model for model in client.list().models] == ["mock:latest", NAME]
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as other:
            said = other.chat.completions.create(model=NAME, messages=COUNT, temperature=0)  # type: ignore[arg-type]  # plain dicts
            assert said.choices[0].message.content == COUNTED
        requests = len(site.requests)
        assert client.pull("huggingface.co/org/tiny-GGUF:Q8_0").status == "success"
        assert len(site.requests) == requests
    with served(tmp_path) as url, ollama.Client(url) as client:
        assert [model.model for model in client.list().models] == ["mock:latest", NAME]
        assert client.show("org/tiny-GGUF:Q8_0").details is not None
        assert client.generate(NAME, COUNT[0]["content"], options={"temperature": 0}).response == COUNTED


@pytest.mark.parametrize("name", ["smollm2:360m", "SmolLM2:360M-instruct", "smollm2:360m:latest"])
def test_a_model_of_the_catalogue_is_pulled_by_its_short_name(site: Site, tmp_path: Path, name: str) -> None:
    """Names like Ollama's own mean the catalogue's models, which are served by the name that was pulled."""
    site.files = {"/HuggingFaceTB/SmolLM2-360M-Instruct-GGUF/smollm2-360m-instruct-q8_0.gguf": site.files[FILE]}
    with served(tmp_path) as url, ollama.Client(url) as client:
        assert client.pull(name).status == "success"
        assert client.chat(name, COUNT, options={"temperature": 0}).message.content == COUNTED


def test_progress_is_told_while_it_happens(site: Site, tmp_path: Path) -> None:
    """Lines say how many bytes of how many have arrived; a client that leaves ends the download, and the bytes stay."""
    site.faults = [lambda *_: None, lambda *_: None, hang(400_000)]
    size, digest = len(site.files[FILE]), hashlib.sha256(site.files[FILE]).hexdigest()
    with served(tmp_path) as url:
        with httpx.stream("POST", f"{url}/api/pull", json={"model": NAME}, timeout=GUARD) as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            lines = (json.loads(line) for line in answer.iter_lines())
            told = next(line for line in lines if line.get("completed"))
            assert (told["total"], told["digest"]) == (size, f"sha256:{digest}")
            assert told["status"] == f"pulling {digest[:12]}"
            assert 0 < told["completed"] <= 400_000
        until_now(lambda: httpx.get(f"{url}/api/v1/downloads").json()["data"] == [])
        site.release.set()
        with ollama.Client(url) as client:
            assert client.pull(NAME).status == "success"
    assert site.requests[-1][1] is not None, "the rest was asked for"


def test_a_configured_model_is_fetched(site: Site, tmp_path: Path) -> None:
    """Pulling a configured model fetches its files, whether or not clients may add models."""
    models = {"tiny": {"engine": "llamacpp", "hf": "org/tiny-GGUF:Q8_0"}}
    with served(tmp_path, models, pull=False) as url, ollama.Client(url) as client:
        assert client.pull("tiny:latest").status == "success"
        assert client.chat("tiny", COUNT, options={"temperature": 0}).message.content == COUNTED
        fetched = [path for path, _ in site.requests if "/cdn/" in path]
        assert len(fetched) == 1


@pytest.mark.parametrize(("name", "said"), [
    ("nobody/nothing", "does not exist"), ("org/other", "no GGUF file"), ("org/tiny-GGUF:Q2_K", "there are: Q4_K_M"),
])
def test_what_cannot_be_fetched_is_told(site: Site, tmp_path: Path, name: str, said: str) -> None:
    """A failure ends the stream as a line, and is a status without a stream; nothing is offered."""
    with served(tmp_path) as url, ollama.Client(url) as client:
        with pytest.raises(ollama.ResponseError, match=said):
            list(client.pull(name, stream=True))
        with pytest.raises(ollama.ResponseError, match=said) as caught:
            client.pull(name)
        assert caught.value.status_code == 503
        assert len(client.list().models) == 1


def test_a_hub_that_fails_is_told(site: Site, tmp_path: Path) -> None:
    """An answer that is no list of files ends the pull with the reason."""
    site.faults = [instead(500)] * 9
    with (
        served(tmp_path) as url, ollama.Client(url) as client,
        pytest.raises(ollama.ResponseError, match="could not query"),
    ):
        list(client.pull(NAME, stream=True))


@pytest.mark.parametrize("server", [{"pull": False}, {"allow_remote": True}])
def test_a_server_may_fetch_nothing_for_clients(site: Site, tmp_path: Path, server: dict[str, object]) -> None:
    """Unless configured otherwise, a server that other machines can reach fetches nothing, nor offers it later."""
    with served(tmp_path) as url, ollama.Client(url) as client:
        assert client.pull(NAME).status == "success"
    with served(tmp_path, **server) as url, ollama.Client(url) as client:
        with pytest.raises(ollama.ResponseError, match=r"server\.pull = true"):
            client.pull(NAME)
        assert [model.model for model in client.list().models] == ["mock:latest"]
    with served(tmp_path, **{**server, "pull": True}) as url, ollama.Client(url) as client:
        assert [model.model for model in client.list().models] == ["mock:latest", NAME]


def test_a_model_that_was_deleted_is_not_offered(site: Site, tmp_path: Path) -> None:
    """`lllms rm` knows the pulled name; the next server starts without the model, and it can be pulled again."""
    lllms = Program(tmp_path)
    lllms.environ["HF_ENDPOINT"] = site.url
    with served(lllms.models_dir) as url, ollama.Client(url) as client:
        client.pull(NAME)
    assert "hf:org/tiny-GGUF:Q8_0" in lllms.here("ls")
    assert "deleted hf:org/tiny-GGUF:Q8_0" in lllms.here("rm", "-y", NAME)
    with served(lllms.models_dir) as url, ollama.Client(url) as client:
        assert [model.model for model in client.list().models] == ["mock:latest"]
        assert client.pull(NAME).status == "success"
        assert len(client.list().models) == 2
