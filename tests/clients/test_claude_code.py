"""Claude Code, headless, against the mock: its 24 tools, a tool that it runs, and the answer to the result."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from programs_for_tests import address, serving

pytestmark = pytest.mark.clients

CLAUDE = Path(__file__).parent.parent.parent / "build" / "clients" / "node_modules" / ".bin" / "claude"
"""Where `make clients` installs it."""
LIMIT = 120
CONFIG = """
[models.bot]
engine = "mock"
aliases = ["claude-*"]

[models.bot.options]
context_length = 200000

[[models.bot.options.script]]
when = "secret word in"
calls = [{{ name = "Read", arguments = {{ file_path = "{note}" }} }}]
replies = ["The secret word is banana."]

[models.small]
engine = "mock"

[models.small.options]
context_length = 2000
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("claude")
    (made / "work").mkdir()
    (made / "home").mkdir()
    (made / "work" / "note.txt").write_text("the secret word is banana\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    config = folder / "lllms.toml"
    config.write_text(CONFIG.format(note=folder / "work" / "note.txt"), encoding="utf-8")
    with serving(folder, "--config", str(config)) as (_, printed):
        yield address(printed)


def ask(folder: Path, url: str, question: str, *arguments: str, **environment: str) -> Mapping[str, Any]:
    """What Claude Code reports in the end; it talks to no other server."""
    assert CLAUDE.exists(), f"{CLAUDE} is missing; run `make clients`"
    done = subprocess.run(
        [str(CLAUDE), "-p", question, "--output-format", "json", *arguments], cwd=folder / "work", timeout=LIMIT,
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={
            "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": "none", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1", **environment,
        },
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_it_runs_a_tool(folder: Path, url: str) -> None:
    """It asks for a model by a name of its own, runs the tool that is called, and shows the answer to the result."""
    told = ask(folder, url, "What is the secret word in note.txt?")
    assert (told["is_error"], told["num_turns"]) == (False, 2), told
    assert told["result"] == "The secret word is banana."
    assert told["stop_reason"] == "end_turn"
    assert told["usage"]["output_tokens"] > 5


def test_its_conversation_goes_on(folder: Path, url: str) -> None:
    """A session is continued: its history, with the call, its result and the system messages, is read again."""
    first = ask(folder, url, "What is the secret word in note.txt?")
    told = ask(folder, url, "Do you still know the secret word in it?", "--resume", first["session_id"])
    assert (told["is_error"], told["result"]) == (False, "The secret word is banana.")


def test_a_model_without_room_is_told(folder: Path, url: str) -> None:
    """If its prompt does not fit, it says so, in words by which it would compact a long conversation."""
    told = ask(folder, url, "Hello!", ANTHROPIC_MODEL="small")
    assert told["is_error"]
    assert "long" in told["result"], told
