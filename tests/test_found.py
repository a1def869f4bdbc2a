import json
import os
import subprocess
import sys
from pathlib import Path

import lllms_llamacpp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.store.other_programs import (
    find_models,
    huggingface_folder,
    llamacpp_folder,
    ollama_folders,
    ollama_name,
    ollama_weights,
)

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
HOME = Path("/home/me")


def put(file: Path, data: bytes | str = b"GGUF") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return file


def found(home: Path, platform: str = "darwin", **environ: str) -> dict[str, tuple[str, Path, int]]:
    """What is found, by name; darwin has no folder outside the home directory."""
    findings = find_models(environ, home, platform)
    assert findings.problems == ()
    return {model.name: (model.place, model.path, model.size) for model in findings.models}


def ollama(folder: Path, *manifest: str, data: bytes = b"GGUF", digest: str = "ab" * 32) -> Path:
    """Put a model into Ollama's folder; returns its blob."""
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "00" * 32},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
    ]
    put(folder.joinpath("manifests", *manifest), json.dumps({"schemaVersion": 2, "layers": layers}))
    return put(folder / "blobs" / f"sha256-{digest}", data)


def test_nothing_is_found_where_nothing_is(tmp_path):
    """Without any of the folders there are no models, and no problems."""
    assert found(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_ollama(tmp_path):
    """Ollama's manifests give names as Ollama shows them, and the blobs with the weights."""
    folder = tmp_path / ".ollama" / "models"
    small = ollama(folder, "registry.ollama.ai", "library", "llama3.2", "1b", data=b"GGUF1", digest="1" * 64)
    own = ollama(folder, "registry.ollama.ai", "me", "mine", "latest", digest="2" * 64)
    hub = ollama(folder, "hf.co", "org", "repo", "Q4_K_M", digest="3" * 64)
    put(folder / "manifests" / "registry.ollama.ai" / "library" / ".DS_Store")
    assert found(tmp_path) == {
        "llama3.2:1b": ("ollama", small, 5), "me/mine:latest": ("ollama", own, 4),
        "hf.co/org/repo:Q4_K_M": ("ollama", hub, 4),
    }
    elsewhere = ollama(tmp_path / "elsewhere", "registry.ollama.ai", "library", "phi3", "latest")
    assert found(tmp_path, OLLAMA_MODELS=str(tmp_path / "elsewhere")) == {"phi3:latest": ("ollama", elsewhere, 4)}


def test_huggingface(tmp_path):
    """In the hub's cache the files of the current revision are found, as the links that lead to the blobs."""
    repo = tmp_path / ".cache" / "huggingface" / "hub" / "models--org--a--b"
    for revision, data in (("0old", b"GGUFold"), ("1new", b"GGUF")):
        blob = put(repo / "blobs" / revision, data)
        link = repo / "snapshots" / revision / "q4" / "model.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to(blob)
        put(repo / "snapshots" / revision / "config.json")
    put(repo / "refs" / "main", "1new\n")
    put(repo.parent / "datasets--org--data" / "snapshots" / "1" / "data.gguf")
    expected = {"org/a--b/q4/model.gguf": ("huggingface", repo / "snapshots" / "1new" / "q4" / "model.gguf", 4)}
    assert found(tmp_path) == expected
    assert found(tmp_path, HF_HUB_CACHE=str(repo.parent)) == expected
    assert found(tmp_path, HF_HOME=str(tmp_path)) == {}


def test_llamacpp_and_parts(tmp_path):
    """A model in parts counts once, with all its bytes; projectors are not models."""
    folder = tmp_path / "llama"
    put(folder / "org_repo_tiny.gguf")
    first = put(folder / "big-00001-of-00002.gguf", b"GGUF12345")
    put(folder / "big-00002-of-00002.gguf", b"GGUF1")
    put(folder / "mmproj-model-f16.gguf")
    put(folder / "model.mmproj-Q8_0.gguf")
    put(folder / "imatrix.gguf")
    put(folder / "mtp-tiny.gguf")
    put(folder / "notes.txt")
    assert found(tmp_path, LLAMA_CACHE=str(folder)) == {
        "org_repo_tiny.gguf": ("llama.cpp", folder / "org_repo_tiny.gguf", 4),
        "big-00001-of-00002.gguf": ("llama.cpp", first, 14),
    }


def test_lmstudio(tmp_path):
    """LM Studio's folder is where its settings say, else the default, also via its pointer file."""
    default = put(tmp_path / ".lmstudio" / "models" / "org" / "repo" / "a.gguf")
    assert found(tmp_path) == {"org/repo/a.gguf": ("lmstudio", default, 4)}
    moved = put(tmp_path / "moved" / "org" / "repo" / "b.gguf")
    put(tmp_path / ".lmstudio" / "settings.json", json.dumps({"downloadsFolder": str(tmp_path / "moved")}))
    assert found(tmp_path) == {"org/repo/b.gguf": ("lmstudio", moved, 4)}
    pointed = put(tmp_path / "other" / "models" / "c.gguf")
    put(tmp_path / ".lmstudio-home-pointer", f"{tmp_path / 'other'}\n")
    assert found(tmp_path) == {"c.gguf": ("lmstudio", pointed, 4)}


def test_what_is_broken_is_told_and_the_rest_is_found(tmp_path):
    """An invalid manifest, a missing blob or part, a broken link: each is named, and the rest is found."""
    folder = tmp_path / ".ollama" / "models"
    good = ollama(folder, "registry.ollama.ai", "library", "good", "latest", digest="1" * 64)
    ollama(folder, "registry.ollama.ai", "library", "gone", "latest", digest="2" * 64).unlink()
    put(folder / "manifests" / "registry.ollama.ai" / "library" / "bad" / "latest", "{")
    put(tmp_path / ".lmstudio" / "models" / "big-00001-of-00002.gguf")
    put(tmp_path / ".lmstudio" / "models" / "headless-00002-of-00002.gguf")
    (tmp_path / ".lmstudio" / "models" / "link.gguf").symlink_to(tmp_path / "nowhere")
    findings = find_models({}, tmp_path, "darwin")
    assert [model.path for model in findings.models] == [good]
    for name in ("sha256-" + "2" * 64, "bad", "big-00002-of-00002.gguf", "link.gguf", "headless-00001-of"):
        assert any(name in problem for problem in findings.problems)


@pytest.mark.parametrize(("environ", "platform", "expected"), [
    ({}, "linux", ["/home/me/.cache/huggingface/hub", "/home/me/.cache/llama.cpp", "/home/me/.ollama/models"]),
    ({"XDG_CACHE_HOME": "/c"}, "linux", ["/c/huggingface/hub", "/c/llama.cpp", "/home/me/.ollama/models"]),
    ({}, "darwin", ["/home/me/.cache/huggingface/hub", "/home/me/Library/Caches/llama.cpp", "/home/me/.ollama/models"]),
    ({"LOCALAPPDATA": "/l"}, "win32", ["/home/me/.cache/huggingface/hub", "/l/llama.cpp", "/home/me/.ollama/models"]),
    ({"HF_HOME": "~/hf", "LLAMA_CACHE": "/x", "OLLAMA_MODELS": "/o"}, "linux", ["/home/me/hf/hub", "/x", "/o"]),
    ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/hub", "OLLAMA_MODELS": ""}, "linux",
     ["/hub", "/home/me/.cache/llama.cpp", "/home/me/.ollama/models"]),
])
def test_folders_follow_their_variables(environ, platform, expected):
    """Each program's folder is the one that its variables name, else the default of that system."""
    folders = [
        huggingface_folder(environ, HOME), llamacpp_folder(environ, HOME, platform),
        ollama_folders(environ, HOME, platform)[0],
    ]
    assert [folder.as_posix() for folder in folders] == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["application/vnd.ollama.image.model"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["layers", "mediaType", "digest", "x"]), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_manifest_is_read(manifest):
    """Whatever a manifest holds, its digest is safe as a file name, or None."""
    digest = ollama_weights(manifest)
    assert digest is None or (len(digest) == 71 and "/" not in digest)


@given(st.lists(st.text("ab.", min_size=1), min_size=3, max_size=6))
def test_names_of_ollama_differ(parts):
    """Different manifests have different names, with the tag at the end."""
    name = ollama_name(tuple(parts))
    assert name.endswith(f":{parts[-1]}")
    assert name.count("/") == len(parts) - 2


def test_found_models_run(tmp_path):
    """`ls --found` lists a model of Ollama, and `run` takes its path, although the file has no extension."""
    blob = ollama(tmp_path, "registry.ollama.ai", "library", "tiny", "latest", data=TINY.read_bytes())
    environ = {**os.environ, "OLLAMA_MODELS": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}

    def lllms(*arguments: str) -> str:
        command = [sys.executable, "-m", "lllms_core", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=environ, cwd=tmp_path, timeout=60,
        ).stdout

    listed = {one["name"]: one for one in json.loads(lllms("ls", "--found", "--json"))}
    assert listed["tiny:latest"] == {
        "place": "ollama", "name": "tiny:latest", "path": str(blob), "size": TINY.stat().st_size,
    }
    [line] = [line for line in lllms("ls", "--found").splitlines() if "tiny:latest" in line]
    assert line.split() == ["ollama", "tiny:latest", "1.5", "MB", str(blob)]
    assert lllms("run", str(blob), "Count to 3.", "--temperature", "0").strip()


def test_nothing_found_is_said(tmp_path):
    """If no other program has models, `ls --found` says so, and prints no empty table."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "lllms_core", "ls", "--found"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ, cwd=tmp_path, timeout=60)
    assert (done.stdout, done.stderr) == (
        "", "no models of Hugging Face, llama.cpp, LM Studio or Ollama are on this disk\n",
    )
