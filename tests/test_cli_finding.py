"""From a word to a model: the catalogue, `search`, and what an unknown name says, asks and fetches."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hubs_for_tests import hub
from programs_for_tests import Program, Terminal, address, serving
from servers_for_tests import Site, instead
from stores_for_tests import TINY

pytestmark = pytest.mark.slow

QUESTION = "lets count to 10"
ANSWER = "Sure, let's count to 10 together: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.\n"
SOURCE = "hf:bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M"
FILE = "Llama-3.2-3B-Instruct-Q4_K_M.gguf"


@pytest.fixture
def site() -> Iterator[Site]:
    """A hub with one model of the catalogue, and others."""
    data = TINY.read_bytes()
    with hub({
        f"/bartowski/Llama-3.2-3B-Instruct-GGUF/{FILE}": data,
        "/org/Llama-3.2-Zoo-GGUF/zoo-Q4_K_M.gguf": data, "/org/Huge-Llama-3.2-GGUF/huge-F32.gguf": data,
        "/org/gated-llama-3.2/g-Q8_0.gguf": data,
    }) as site:
        yield site


@pytest.fixture
def lllms(site: Site, tmp_path: Path) -> Program:
    """`lllms` without a configuration, with the local hub, on a machine with 8 GB for models."""
    program = Program(tmp_path)
    program.environ |= {"HF_ENDPOINT": site.url, "LLLMS_MEMORY_LIMIT": "8GB", "OLLAMA_MODELS": str(tmp_path / "ollama")}
    return program


def put_ollama(folder: Path, name: str) -> None:
    """Put a model into Ollama's folder."""
    model, tag = name.split(":")
    digest = "a" * 64
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / model / tag
    manifest.parent.mkdir(parents=True)
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}]
    manifest.write_text(json.dumps({"layers": layers}))
    blob = folder / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(TINY.read_bytes())


def fetched(site: Site) -> list[str]:
    """The files that were asked for."""
    return [path.rpartition("/")[2] for path, _ in site.requests if path.startswith("/cdn/")]


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_the_catalogue_is_listed(lllms, site):
    """`models --catalog` lists all models, what fits the memory limit, and what is here: fetched, or of Ollama."""
    put_ollama(lllms.folder / "ollama", "gemma3:latest")
    put_ollama(lllms.folder / "ollama", "bge-m3:latest")
    lllms.here("pull", SOURCE)
    asked = len(site.requests)
    listed = {one["name"]: one for one in json.loads(lllms.here("models", "--catalog", "--json"))}
    assert len(listed) >= 15
    assert {name for name, one in listed.items() if one["here"]} == {"llama3.2:3b", "gemma3:4b", "bge-m3"}
    assert listed["gemma3:4b"]["here"] == "ollama:gemma3:latest"
    assert listed["llama3.2:3b"]["source"] == SOURCE
    assert listed["llama3.2:3b"]["command"] == "lllms chat llama3.2:3b"
    assert listed["bge-m3"]["command"] == "lllms serve --model ollama:bge-m3:latest", "nobody can chat with it"
    assert listed["gemma3:1b"]["command"] == "lllms pull hf:ggml-org/gemma-3-1b-it-GGUF:Q4_K_M"
    assert listed["gemma3:1b"]["license"] == "Gemma Terms of Use"
    assert [listed[name]["fits"] for name in ("qwen3:8b", "qwen3:14b")] == [True, False]
    lines = lllms.here("ls", "--catalog").splitlines()
    [line] = [line for line in lines if line.startswith("qwen3:14b")]
    assert line.split()[1:8] == ["about", "9.0", "GB", "14.8B", "32768", "no", "-"]
    assert "models may use 7.9 GB of memory here" in lllms.errors
    assert len(site.requests) == asked, "all of it without the network"
    assert "one of them" in lllms.here("ls", "--catalog", "--found", code=2)
    lllms.environ["LLLMS_MEMORY_LIMIT"] = "100GB"
    assert all(one["fits"] for one in json.loads(lllms.here("models", "--catalog", "--json")))


# -- search ------------------------------------------------------------------------------------------------------------


def test_a_search_goes_everywhere(lllms, site):
    """`search` shows the catalogue, then what is here, then the hub; of each what fits first; nothing twice."""
    put_ollama(lllms.folder / "ollama", "llama3.2:latest")
    lllms.here("pull", "hf:org/Llama-3.2-Zoo-GGUF")
    found = json.loads(lllms("search", "llama3.2", "--json"))
    assert [(one["where"], one["name"]) for one in found] == [
        ("catalog", "llama3.2:3b"), ("catalog", "llama3.2:1b"),
        ("catalog", "llama3.1:8b"), ("catalog", "llama3.3:70b"),
        ("here", "hf:org/Llama-3.2-Zoo-GGUF"), ("ollama", "llama3.2:latest"),
        ("hub", "org/Huge-Llama-3.2-GGUF:F32"), ("hub", "org/gated-llama-3.2:Q8_0"),
    ]
    by_name = {one["name"]: one for one in found}
    assert by_name["llama3.2:latest"]["command"] == "lllms chat ollama:llama3.2:latest"
    assert by_name["org/gated-llama-3.2:Q8_0"]["note"] == "its terms must be accepted first"
    assert by_name["org/Huge-Llama-3.2-GGUF:F32"] == {
        "where": "hub", "name": "org/Huge-Llama-3.2-GGUF:F32", "source": "hf:org/Huge-Llama-3.2-GGUF:F32",
        "size": 4 * 10**9, "about": True, "parameters": 10**9, "context_length": 4096, "license": "apache-2.0",
        "good_at": None, "fits": True, "here": None, "note": None,
        "command": "lllms pull hf:org/Huge-Llama-3.2-GGUF:F32",
    }
    assert [one["fits"] for one in found[:4]] == [True, True, True, False]
    lllms.environ["LLLMS_MEMORY_LIMIT"] = "3GB"
    found = json.loads(lllms.here("search", "llama3.2", "--json"))
    assert [(one["name"], one["fits"]) for one in found if one["where"] == "hub"] == [
        ("org/gated-llama-3.2:Q8_0", True), ("org/Huge-Llama-3.2-GGUF:F32", False),
    ]


def test_a_search_in_words(lllms):
    """The table names size, context, licence and the command; several words narrow the search."""
    lines = lllms.here("search", "small", "code", "--limit", "0").splitlines()
    assert [line.split() for line in lines] == [
        ["name", "where", "size", "context", "licence", "fits", "command"],
        ["qwen2.5-coder:1.5b", "catalog", "about", "1.1", "GB", "32768", "Apache-2.0", "yes", "lllms", "pull",
         "hf:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF:Q4_K_M"],
    ]
    rows = [line.split() for line in lllms.here("search", "tiny-chat", "--limit", "0").splitlines()]
    assert [row[:2] for row in rows if "here" in row] == [["tiny-chat", "here"]]
    assert lllms.here("search", "zebra") == ""
    assert "nothing found: 'zebra'" in lllms.errors


def test_a_search_without_a_hub(lllms, site):
    """Offline, or with a hub that fails, `search` says so and shows the rest."""
    offline = "offline mode is on"
    for variable, told in (("LLLMS_OFFLINE", offline), ("HF_HUB_OFFLINE", offline), ("", "503")):
        if variable:
            lllms.environ[variable] = "1"
        else:
            site.faults = [instead(503)]
        assert lllms.here("search", "gemma").splitlines()[1].startswith("gemma3:4b")
        assert told in lllms.errors
        assert [path for path, _ in site.requests if variable] == []
        lllms.environ.pop(variable, None)
    assert len(site.requests) == 1


# -- unknown names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "line"), [
    (["run", "llama3.2", "hi"],
     f"  lllms run {SOURCE} PROMPT  (llama3.2:3b, about 2.0 GB, Llama 3.2 Community License)"),
    (["chat", "llama-3.2"], f"  lllms chat {SOURCE}  (llama3.2:3b, about 2.0 GB, Llama 3.2 Community License)"),
    (["serve", "--model", "llama3.2"],
     f"  lllms serve --model {SOURCE}  (llama3.2:3b, about 2.0 GB, Llama 3.2 Community License)"),
    (["pull", "llama3.2"], f"  lllms pull {SOURCE}  (llama3.2:3b, about 2.0 GB, Llama 3.2 Community License)"),
    (["show", "llama3.2"], f"  lllms pull {SOURCE}  (llama3.2:3b, about 2.0 GB, Llama 3.2 Community License)"),
    (["run", "gemma", "hi"],
     "  lllms run hf:ggml-org/gemma-3-4b-it-GGUF:Q4_K_M PROMPT  (gemma3:4b, about 2.5 GB, Gemma Terms of Use)"),
    (["run", "bge", "hi"],
     "  lllms serve --model hf:gpustack/bge-m3-GGUF:Q8_0  (bge-m3, about 635.0 MB, MIT)"),
    (["run", "zebra", "hi"], "  lllms run hf:Qwen/Qwen3-4B-GGUF:Q4_K_M PROMPT  (qwen3:4b, about 2.5 GB, Apache-2.0)"),
])
def test_an_unknown_name_leads_to_a_model(lllms, site, command, line):
    """The error names the models that are here, models that fit this machine with their commands, and the search."""
    told = lllms.here(*command, code=1).splitlines()
    word = command[-1] if command[0] != "run" else command[1]
    assert told[0].startswith(f"Error: no model '{word}', and it is neither a file nor a source")
    assert told[0].endswith("there are: mock, tiny-chat")
    assert told[1:3] == ["models to fetch that fit this machine:", line]
    assert told[-1] == f"more: lllms search {word}, lllms models --catalog"
    agrees = command[0] in {"run", "chat", "pull"} and "llama" in word
    assert ("--yes fetches llama3.2:3b without asking" in told) == agrees
    assert site.requests == []


def test_what_is_close_and_what_others_have_is_told(lllms):
    """A misspelt name of a model that is here is recognised, and so are the names of other programs' models."""
    put_ollama(lllms.folder / "ollama", "gemma3:latest")
    assert "did you mean 'tiny-chat'?" in lllms.here("run", "tiny-cat", "hi", code=1)
    told = lllms.here("run", "gemma3", "hi", code=1).splitlines()
    assert "on this machine, of ollama: lllms run ollama:gemma3:latest PROMPT" in told
    told = lllms.here("chat", "org/repo:Q8_0", code=1).splitlines()
    assert "if that is a repository of the Hugging Face Hub: lllms chat hf:org/repo:Q8_0" in told


def test_what_does_not_fit_is_told(lllms):
    """A model of the catalogue that is too large is said to be so, and those that fit are named."""
    told = lllms.here("pull", "llama3.3", code=1).splitlines()
    assert "llama3.3:70b does not fit: it takes about 47.8 GB of memory, and models may use 7.9 GB here" in told
    assert any("llama3.1:8b" in line for line in told)
    assert not any("--yes" in line for line in told)


def test_the_core_alone_says_what_is_missing(lllms):
    """Without an engine for GGUF files, the error says how to get one; a disabled plugin is not to be installed."""
    code = (
        "import importlib.metadata as metadata; metadata.entry_points = lambda **_: ()\n"
        "from lllms_core.cli import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, "run", "llama3.2", "hi", "--yes"], capture_output=True, text=True, check=False,
        timeout=60, env=lllms.environ, cwd=lllms.folder, stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert SOURCE in done.stderr
    assert "no engine here loads such files: pip install lllms-llamacpp adds one" in done.stderr
    (lllms.folder / "lllms.toml").write_text('[plugins]\ndisable = ["llamacpp", "gpt4all"]\n')
    for model in ("llama3.2", SOURCE):
        assert "plugin 'llamacpp' is disabled" in lllms.here("run", model, "hi", code=1)


def test_an_api_names_the_command(lllms, site):
    """A request for a model of the catalogue is a 404 whose message has the command; nothing is fetched for clients."""
    with serving(lllms.folder, "--model", "mock", environ=lllms.environ) as (_, printed):
        def error(model: str) -> dict[str, str]:
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            answer = httpx.post(f"{address(printed)}/v1/chat/completions", json=body)
            assert answer.status_code == 404
            return answer.json()["error"]

        told = error("llama3.2")
        assert told["code"] == "model_not_found"
        assert told["message"] == (
            f"no model 'llama3.2'; there are: mock; on the server, lllms serve --model {SOURCE} offers it"
        )
        assert error("gpt-4o")["message"] == "no model 'gpt-4o'; there are: mock"
    assert site.requests == []


# -- fetching by name --------------------------------------------------------------------------------------------------


def test_a_script_agrees_by_a_flag(lllms, site):
    """`--yes` fetches the catalogue's model; after that its names need no hub and no question, also in `serve`."""
    assert lllms("run", "llama3.2", QUESTION, "--temperature", "0", "--yes") == ANSWER
    assert f"from {SOURCE}" in lllms.errors
    assert fetched(site) == [FILE]
    asked = len(site.requests)
    assert lllms.here("pull", "llama3.2").startswith(f"llama3.2: {lllms.models_dir}")
    for name in ("llama3.2", "llama-3.2:3b", "llama3.2:latest"):
        assert f"source: {SOURCE}" in lllms.here("show", name, "--offline")
    with serving(lllms.folder, "--model", "llama3.2", environ=lllms.environ) as (_, printed):
        names = [one["id"] for one in httpx.get(f"{address(printed)}/v1/models").json()["data"]]
        assert names == ["llama3.2"]
        assert any(f"llama3.2, Llama-3.2-3B-Instruct, {SOURCE}: " in line for line in printed)
    assert len(site.requests) == asked
    assert lllms.here("rm", "-y", "llama3.2").startswith(SOURCE)
    assert lllms.files() == []
    assert "offline mode is on" in lllms.here("run", "llama3.2", QUESTION, "--yes", "--offline", code=1)


def test_pull_agrees_by_a_flag(lllms, site):
    """`pull NAME --yes` fetches the catalogue's model; without it, and without a terminal, nothing is fetched."""
    assert "--yes fetches" in lllms("pull", "llama3.2", code=1)
    assert site.requests == []
    assert FILE in lllms.here("pull", "llama3.2", "--yes")
    assert fetched(site) == [FILE]


def test_a_terminal_is_asked(lllms, site):
    """On a terminal `run` asks before it fetches, with size, licence and source; after a yes it answers."""
    put_ollama(lllms.folder / "ollama", "llama3.2:latest")
    terminal = Terminal()
    with terminal.program(
        "run", "llama3.2", QUESTION, "--temperature", "0", folder=lllms.folder, environ=lllms.environ,
    ) as process:
        shown = terminal.until("Fetch it? [y/N]")
        assert "llama3.2:3b, about 2.0 GB, Llama 3.2 Community License," in shown
        assert f"from {SOURCE}" in shown
        assert "Ollama has this model: ollama:llama3.2:latest can be used" in shown
        assert site.requests == []
        terminal.type("y\n")
        assert ANSWER.strip() in terminal.rest()
        assert process.wait(60) == 0
    assert fetched(site) == [FILE]


def test_a_no_means_no(lllms, site):
    """`chat` asks as well, warns about a model that does not fit, and ends without fetching after a no."""
    terminal = Terminal()
    with terminal.program("chat", "llama3.3", folder=lllms.folder, environ=lllms.environ) as process:
        shown = terminal.until("Fetch it? [y/N]")
        assert "Warning: llama3.3:70b does not fit: it takes about 47.8 GB" in shown.replace("\r\n", " ")
        terminal.type("n\n")
        assert "Aborted" in terminal.rest()
        assert process.wait(60) == 1
    assert site.requests == []


def test_own_models_come_first(lllms, site):
    """A configured model with a name of the catalogue is that model."""
    (lllms.folder / "lllms.toml").write_text('[models."llama3.2"]\nengine = "mock"\n')
    assert lllms.here("run", "llama3.2", "hi")
    assert site.requests == []
