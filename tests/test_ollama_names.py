"""Ollama's models by the names that it has for them: `ollama:NAME`."""

import hashlib
import json
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs_for_tests import Program, address, serving
from stores_for_tests import TINY

from lllms_core.builtin.downloaders.ollama import OllamaDownloader
from lllms_core.errors import InvalidSource
from lllms_core.store.ollama_manifests import fitting_name, left_out, ollama_name, ollama_weights, whole_name

pytestmark = pytest.mark.slow

KIND = "application/vnd.ollama.image."
DATA = TINY.read_bytes()
QUESTION = "lets count to 10"
ANSWER = "Sure, let's count to 10 together: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.\n"


def put_model(folder: Path, name: str, *others: str, data: bytes = DATA) -> Path:
    """Put a model into Ollama's folder, with other layers beside the weights; returns the blob of its weights."""
    model, tag = name.split(":")
    digest = hashlib.sha256(data).hexdigest()
    layers = [{"mediaType": f"{KIND}{kind}", "digest": f"sha256:{'0' * 64}"} for kind in (*others, "template")]
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / model / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    weights = {"mediaType": f"{KIND}model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [*layers, weights]}))
    blob = folder / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(data)
    return blob


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ollama"


@pytest.fixture
def lllms(tmp_path: Path, folder: Path) -> Program:
    program = Program(tmp_path)
    program.environ["OLLAMA_MODELS"] = str(folder)
    return program


def test_run_and_pull_by_name(lllms, folder):
    """`run ollama:NAME` answers from Ollama's file, offline too; `pull` fetches nothing, `rm` deletes nothing."""
    blob = put_model(folder, "tiny:1b")
    assert lllms("run", "ollama:tiny:1b", QUESTION, "--temperature", "0", "--offline") == ANSWER
    assert lllms.here("pull", "ollama:tiny:1b") == f"ollama:tiny:1b: {blob}, 1.5 MB\n"
    assert lllms.files() == []
    assert "was not fetched by lllms: delete it yourself" in lllms.here("rm", "-y", "ollama:tiny:1b", code=1)
    assert blob.exists()
    assert "is intact" in lllms.here("verify", "ollama:tiny:1b")
    for source in ("ollama:tiny:1b", "ollama:library/tiny:1b", "ollama:TINY:1B"):
        assert f"file: {blob}" in lllms.here("show", source)


def test_serve_by_name(lllms, folder):
    """`serve --model ollama:NAME` offers the model by Ollama's name and by the source, and tells what it leaves out."""
    put_model(folder, "tiny:latest", "projector", "params")
    with serving(lllms.folder, "--model", "ollama:tiny", environ=lllms.environ) as (_, printed):
        assert any("Ollama's projector (mmproj) for images, parameters: left out" in line for line in printed)
        for name in ("tiny", "ollama:tiny:latest", "ollama:tiny"):
            body = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
            answer = httpx.post(f"{address(printed)}/v1/chat/completions", json=body, timeout=60).json()
            assert answer["choices"][0]["message"]["content"] == ANSWER.strip()


@pytest.mark.parametrize("key", ["file", "url"])
def test_configured_by_name(lllms, folder, key):
    """A configuration names Ollama's models in `file`, or as a `url`; `ls` and `check` know the file."""
    config = lllms.folder / "lllms.toml"
    config.write_text(f'[models.mine]\nengine = "llamacpp"\n{key} = "ollama:tiny"\n')
    blob = put_model(folder, "tiny:latest")
    [listed] = json.loads(lllms.here("ls", "--json"))
    assert (listed["source"], listed["path"], listed["on_disk"]) == ("ollama:tiny:latest", str(blob), True)
    assert "everything is fine" in lllms.here("check")
    assert f"file: {blob}" in lllms.here("show", "mine")
    config.write_text(f'[models.mine]\nengine = "llamacpp"\n{key} = "ollama:other"\n')
    told = lllms.here("check", code=1)
    assert f"models.mine.{key}: Ollama has no GGUF model 'other:latest' here; there are: ollama:tiny:latest" in told


def test_a_hash_is_checked(lllms, folder):
    """With `sha256` the file is read once, and must have that hash."""
    blob = put_model(folder, "tiny:latest")
    config = lllms.folder / "lllms.toml"
    text = '[models.mine]\nengine = "llamacpp"\nfile = "ollama:tiny"\nsha256 = "%s"\n'
    config.write_text(text % hashlib.sha256(DATA).hexdigest())
    assert lllms.here("pull", "mine") == f"mine: {blob}, 1.5 MB\n"
    assert lllms.files() == []
    config.write_text(text % ("0" * 64))
    assert "SHA-256" in lllms.here("pull", "mine", code=1)


def test_what_there_is_is_told(lllms, folder):
    """A name that Ollama does not have is an error at once, with the names that it has."""
    put_model(folder, "tiny:1b")
    put_model(folder, "tiny:3b")
    for command in (["run", "ollama:tiny", "hi"], ["serve", "--model", "ollama:tiny:7b"], ["pull", "ollama:nope"]):
        assert "there are: ollama:tiny:1b, ollama:tiny:3b" in lllms.here(*command, code=1)
    assert "ollama:NAME" in lllms.here("run", "ollama:", "hi", code=1)


def test_the_only_tag(lllms, folder):
    """Without a tag, a model that has no `latest` is found by its only tag, and that is said."""
    put_model(folder, "tiny:1b", "adapter")
    assert "model: tiny" in lllms.here("show", "ollama:tiny")
    assert "tiny:1b, the only one; Ollama's adapter (LoRA): left out" in lllms.errors


def test_a_tag_that_moves(folder, monkeypatch):
    """After Ollama has fetched another version, the name leads to that, even while the old file is still here."""
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    old = put_model(folder, "tiny:latest")
    new = put_model(folder, "tiny:latest", data=DATA + b"x")
    found = OllamaDownloader().find("ollama:tiny")
    assert old.exists()
    assert found is not None
    assert [file.path for file in found.files] == [new]


def test_a_model_in_another_form(folder, monkeypatch):
    """A manifest without GGUF weights is not offered."""
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "big" / "latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": [{"mediaType": f"{KIND}tensor", "digest": f"sha256:{'1' * 64}"}]}))
    with pytest.raises(InvalidSource, match="no GGUF model 'big:latest' here; there are: none"):
        OllamaDownloader().resolve(OllamaDownloader().canonical("ollama:big"))


PARTS = st.text("ab.X-", min_size=1)


@given(st.lists(PARTS, min_size=1, max_size=2), PARTS)
def test_names_lead_to_their_manifests(path, tag):
    """The name of a manifest is a whole name, and fits itself; a source with it keeps its canonical form."""
    name = ollama_name(("registry.ollama.ai", *(["library"] if len(path) == 1 else []), *path, tag))
    assert whole_name(name) == name
    assert fitting_name(whole_name(name), [name]) == name
    canonical = OllamaDownloader().canonical(f"ollama:{name}")
    assert canonical == OllamaDownloader().canonical(canonical) == f"ollama:{name}"
    assert OllamaDownloader().canonical(f"ollama:registry.ollama.ai/library/{name}") == canonical


@given(st.lists(st.from_regex(r"[abAB]:(latest|1b|3B)", fullmatch=True), unique=True), st.sampled_from("abAB"),
       st.sampled_from(["latest", "1b", "3b"]))
def test_a_name_fits_at_most_one(names, model, tag):
    """An exact name wins; another case, or a missing tag, fits only if there is no doubt."""
    wanted = f"{model}:{tag}"
    found = fitting_name(wanted, names)
    if wanted in names:
        assert found == wanted
    elif found is not None:
        assert found in names
        assert found.casefold().split(":")[0] == model.casefold()
        assert tag == "latest" or found.casefold() == wanted.casefold()


LAYERS = st.lists(st.fixed_dictionaries({}, optional={
    "mediaType": st.sampled_from([f"{KIND}{one}" for one in ("model", "projector", "adapter", "license")]) | st.none(),
    "digest": st.just("sha256:" + "a" * 64) | st.text(),
}) | st.none())


@given(st.fixed_dictionaries({"layers": LAYERS | st.none()}) | st.none() | st.text())
def test_any_manifest_is_judged(manifest):
    """Whatever a manifest holds, what is left out are known words, each once."""
    told = left_out(manifest)
    assert len(told) == len({*told})
    assert ollama_weights(manifest) in (None, "sha256:" + "a" * 64)
