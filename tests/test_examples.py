import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from waits_for_tests import GUARD

from lllms_core import Config, parse_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def test_embed_pool() -> None:
    """The pool answers two questions inside a program, without HTTP."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "embed_pool.py"], capture_output=True, text=True, timeout=60, check=True,
    )
    assert sorted(done.stdout.splitlines()) == [
        "What is 3 plus 4? -> 3 plus 4 is 7. (8 tokens)",
        "lets count to 10 -> Sure, let's count to 10 together: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10. (43 tokens)",
    ]


def test_server_tools() -> None:
    """The host runs the program's tool, and the model answers with its result."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "server_tools.py"], capture_output=True, text=True, timeout=60, check=True,
    )
    assert done.stdout.splitlines() == [
        'get_weather({"city": "Paris"})', '-> {"weather": "sunny", "temperature": 21}',
        "It is sunny in Paris, 21 degrees.",
    ]


async def test_mount_app() -> None:
    """One app serves its own routes and the OpenAI API."""
    app = runpy.run_path(str(EXAMPLES / "mount_app.py"))["make_app"]()
    async with app.test_app() as running:
        client = running.test_client()
        hello = await (await client.get("/hello", headers={"Host": "localhost"})).get_json()
        models = await (await client.get("/v1/models", headers={"Host": "localhost"})).get_json()
    assert hello["models"] == [model["id"] for model in models["data"]]
    assert "tiny-chat" in hello["models"]


def answered(example: str, route: str, body: dict[str, object], folder: Path) -> list[Any]:
    """The lines that a serving script answers to one request; it must end without a traceback on Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / example],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env={**os.environ, "LLLMS_PORT": "0"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        request = urllib.request.Request(
            f"{address}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            lines = [json.loads(line) for line in response]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in errors
    assert process.returncode == 0
    return lines


def test_custom_engine(tmp_path: Path) -> None:
    """A script that defines an engine serves it, from a worker process."""
    body: dict[str, object] = {"model": "parrot", "messages": [{"role": "user", "content": "Pieces of eight!"}]}
    [answer] = answered("custom_engine.py", "/v1/chat/completions", body, tmp_path)
    assert answer["choices"][0]["message"]["content"] == "Pieces of eight!"


def test_batching_engine(tmp_path: Path) -> None:
    """The numpy model continues patterns, several in one batch, and shares their common prompt prefix."""
    prompts = ["tick tock tick tock tick", "one, two, one, two, one"]
    body: dict[str, object] = {"model": "induction", "prompt": prompts, "max_tokens": 10, "temperature": 0, "n": 2}
    [answer] = answered("batching_engine.py", "/v1/completions", body, tmp_path)
    assert [choice["text"] for choice in answer["choices"]] == [*2 * [" tock tick"], *2 * [", two, one"]]


def test_dialect(tmp_path: Path) -> None:
    """A script that defines a dialect serves it, beside the others."""
    body: dict[str, object] = {"model": "mock", "question": "Hi!"}
    *said, end = answered("dialect.py", "/lines", body, tmp_path)
    assert all(set(one) == {"text"} for one in said)
    assert (end["end"], end["tokens"]) == ("stop", len(said))


@pytest.mark.parametrize(("example", "imported"), [
    ("dialect.py", "running_server"), ("batching_engine.py", "load_model"),
])
def test_recipes_of_contributing_work(example: str, imported: str, tmp_path: Path) -> None:
    """A copy of an example, in the package of CONTRIBUTING's recipe, passes the test that the recipe has for it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (project,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (test,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if imported in block]
    told = tomllib.loads(project)["project"]
    (group, points), = told["entry-points"].items()
    ((name, module),) = points.items()
    source, last, _ = (EXAMPLES / example).read_text().partition('if __name__ == "__main__"')
    assert last
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(source)
    (tmp_path / "test_copy.py").write_text(test)
    installed = tmp_path / f"{module}-{told['version']}.dist-info"  # as pip writes it, without its build
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    (installed / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], capture_output=True, text=True, timeout=GUARD, cwd=tmp_path,
        env=variables, check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_readme_host_runs(tmp_path: Path) -> None:
    """The README's program with a `Host` runs as printed."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "async with Host()" in block]
    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True,
    )
    assert done.stdout == "pong"


def test_readme_configuration_is_accepted() -> None:
    """The README's configuration is valid, and its [server] shows the defaults."""
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    config = parse_config(tomllib.loads(block))
    assert config.server == Config().server
    assert config.models["phi3"].options == {"context_length": 4096, "slots": 4}
