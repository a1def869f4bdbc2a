"""Codex, the newest from npm, against a real server: it calls its shell, and answers with the result."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

CODEX = Path(__file__).parent.parent.parent / "build" / "clients" / "node_modules" / ".bin" / "codex"
"""Where `make clients` installs it."""
LIMIT = 120
CONFIG = """
model_provider = "lllms"

[model_providers.lllms]
name = "lllms"
base_url = "{url}/v1"
wire_api = "responses"
"""
OLLAMA = pytest.mark.skipif(find_spec("lllms_ollama") is None, reason="lllms-ollama is not installed")


@pytest.mark.parametrize("how", [
    "plain", "lmstudio", pytest.param("ollama", marks=OLLAMA),
])
def test_codex_works(url: str, how: str, tmp_path: Path) -> None:
    """By its configuration, and as for LM Studio and Ollama (`--oss`): it lists a folder and reports."""
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    (folder / "only.txt").write_text("one", encoding="utf-8")
    flags: Sequence[str] = ()
    if how == "plain":
        (home / "config.toml").write_text(CONFIG.format(url=url), encoding="utf-8")
    else:
        flags = ("--oss", "--local-provider", how)
    items = run(folder, home, url, *flags)
    [command] = [one for one in items if one["type"] == "command_execution"]
    assert (command["aggregated_output"], command["exit_code"]) == ("only.txt\n", 0)
    [said] = [one["text"] for one in items if one["type"] == "agent_message"]
    assert said == "The folder holds one file."


def run(folder: Path, home: Path, url: str, *flags: str) -> list[Mapping[str, Any]]:
    """Return the items that a turn of Codex completes; the only command that it runs is the script's."""
    done = subprocess.run(
        [str(CODEX), "exec", "--model", "mock", *flags, "--json", "--ephemeral", "--skip-git-repo-check",
         "--sandbox", "danger-full-access", "Tell me what the folder holds."],
        cwd=folder, env={**os.environ, "CODEX_HOME": str(home), "CODEX_OSS_BASE_URL": f"{url}/v1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [one["item"] for one in events if one["type"] == "item.completed"]
