"""`run` and `serve` with a model of a local hub, without any configuration."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hubs_for_tests import hub
from openai import OpenAI
from programs_for_tests import Program, address, serving
from servers_for_tests import Site, hang
from stores_for_tests import TINY

pytestmark = pytest.mark.slow

QUESTION = "lets count to 10"
ANSWER = "Sure, let's count to 10 together: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10."


@pytest.fixture
def site() -> Iterator[Site]:
    with hub({f"/org/tiny-GGUF/tiny-{quant}.gguf": TINY.read_bytes() for quant in ("Q4_K_M", "Q8_0")}) as site:
        yield site


@pytest.fixture
def lllms(site: Site, tmp_path: Path) -> Program:
    """`lllms` in a folder without configuration, using the local hub."""
    program = Program(tmp_path)
    program.environ["HF_ENDPOINT"] = site.url
    return program


@contextmanager
def client_of(lllms: Program, *arguments: str) -> Iterator[OpenAI]:
    with (
        serving(lllms.folder, *arguments, environ=lllms.environ) as (_, printed),
        OpenAI(base_url=f"{address(printed)}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def answer(client: OpenAI, model: str) -> str | None:
    messages = [{"role": "user", "content": QUESTION}]
    done = client.chat.completions.create(model=model, messages=messages, temperature=0)  # type: ignore[arg-type]  # plain dicts
    return done.choices[0].message.content


@pytest.mark.parametrize(
    ("source", "file", "name", "alias"),
    [
        ("hf:org/tiny-GGUF:Q8_0", "tiny-Q8_0.gguf", "tiny", "hf:org/tiny-GGUF:Q8_0"),
        ("{hub}/org/tiny-GGUF", "tiny-Q4_K_M.gguf", "tiny", "hf:org/tiny-GGUF"),
        ("{hub}/org/tiny-GGUF/blob/main/tiny-Q8_0.gguf", "tiny-Q8_0.gguf", "tiny-Q8_0",
         "hf:org/tiny-GGUF/tiny-Q8_0.gguf"),
    ],
)
def test_serve_from_the_hub(lllms: Program, site: Site, source: str, file: str, name: str, alias: str) -> None:
    """`serve --model` with a source offers its model by name and by source, and fetches it for the first request."""
    with client_of(lllms, "--model", source.replace("{hub}", site.url)) as client:
        assert site.requests == [], "on demand: nobody has asked yet"
        assert name in [model.id for model in client.models.list()]
        assert [answer(client, one) for one in (name, alias)] == [ANSWER] * 2
    assert lllms.files() == [file]
    asked = len(site.requests)
    with client_of(lllms, "--model", source.replace("{hub}", site.url), "--offline") as client:
        assert answer(client, name) == ANSWER
    assert len(site.requests) == asked


def test_a_stream_that_waits_for_the_hub(lllms: Program, site: Site) -> None:
    """A streamed request gets its answer, however long the download before it takes."""
    site.faults = [lambda *_: None, lambda *_: None, hang(400_000)]
    with client_of(lllms, "--model", "hf:org/tiny-GGUF:Q8_0") as client:
        threading.Thread(target=lambda: (site.reached.wait(60), site.release.set())).start()
        stream = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": QUESTION}], temperature=0, stream=True,
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == ANSWER


def test_run_from_the_hub(lllms: Program, site: Site) -> None:
    """`run` with a source fetches, reports its choice, and answers; the next time, even offline, it needs no hub.

    The hub is asked only for the list of files and for the file.
    """
    assert lllms("run", "hf:org/tiny-GGUF", QUESTION, "--temperature", "0") == f"{ANSWER}\n"
    assert "Q4_K_M" in lllms.errors
    assert lllms.files() == ["tiny-Q4_K_M.gguf"]
    listing, file, data = (path.partition("?")[0] for path, _ in site.requests)
    assert (listing, data) == ("/api/models/org/tiny-GGUF/revision/main", "/cdn/org/tiny-GGUF/tiny-Q4_K_M.gguf")
    assert re.fullmatch("/org/tiny-GGUF/resolve/[0-9a-f]{40}/tiny-Q4_K_M.gguf", file)
    asked = len(site.requests)
    for source in ("hf:org/tiny-GGUF", f"{site.url}/org/tiny-GGUF"):
        assert lllms("run", source, QUESTION, "--temperature", "0", "--offline") == f"{ANSWER}\n"
    assert len(site.requests) == asked
    for variable in ("LLLMS_OFFLINE", "HF_HUB_OFFLINE"):
        lllms.environ[variable] = "1"
        assert "offline mode is on" in lllms("run", "hf:org/tiny-GGUF:Q8_0", QUESTION, code=1)
        assert "offline mode is on" in lllms("pull", "hf:org/tiny-GGUF:Q8_0", code=1)
        del lllms.environ[variable]
    assert len(site.requests) == asked


def test_two_programs_fetch_a_model_once(lllms: Program, site: Site) -> None:
    """A `run` during a `pull` of the same file waits for it, and answers from its file."""
    site.faults = [lambda *_: None, lambda *_: None, hang(400_000)]
    pull = lllms.start("pull", "hf:org/tiny-GGUF:Q8_0")
    assert site.reached.wait(60)
    run = lllms.start("run", "hf:org/tiny-GGUF:Q8_0", QUESTION, "--temperature", "0")
    assert run.stderr is not None
    while "another process is fetching it" not in (line := run.stderr.readline()):
        assert line
    site.release.set()
    _, errors = pull.communicate(timeout=60)
    assert pull.returncode == 0, errors
    assert run.communicate(timeout=60)[0] == f"{ANSWER}\n"
    assert sum("/cdn/" in path for path, _ in site.requests) == 2, "one, and the rest after the drop"
