"""Real clients of every API, the newest of each, against a real server; `make clients` installs and runs them."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
INSTALLED = HERE.parent.parent / "build" / "clients"
"""Where `make clients` installs the clients: two environments of Python, and packages of node."""
MODELS = ("mock", "tiny-chat")
LIMIT = 240
"""Seconds that a client has for all of its checks."""

COMMON = ("chat", "stream", "tools", "structured", "history")
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "openai_client.py": (*COMMON, "parsed_tools"),
    "openai_responses_client.py": (*COMMON, "background"),
    "langchain_client.py": (*COMMON, "forced_tools", "agent", "responses"),
    "litellm_client.py": (*COMMON, "responses"),
    "pydantic_ai_client.py": (*COMMON, "responses"),
    "openai_agents_client.py": COMMON,
    "openai_agents_responses_client.py": COMMON,
    "instructor_client.py": COMMON,
    "llama_index_client.py": COMMON,
    "openai_client.mjs": (*COMMON, "runTools"),
    "ai_sdk_client.mjs": COMMON,
    "ollama_client.py": (*COMMON, "models"),
    "langchain_ollama_client.py": (*COMMON, "agent", "embeddings"),
    "litellm_ollama_client.py": COMMON,
    "ollama_client.mjs": (*COMMON, "models"),
    "ai_sdk_ollama_client.mjs": COMMON,
    "anthropic_client.py": (*COMMON, "tool_runner"),
    "langchain_anthropic_client.py": (*COMMON, "agent"),
    "litellm_anthropic_client.py": (*COMMON, "bridge"),
    "anthropic_client.mjs": (*COMMON, "toolRunner"),
    "ai_sdk_anthropic_client.mjs": COMMON,
    "ai_sdk_openai_client.mjs": COMMON,
}
"""Each with the checks that it makes with every model."""
BEFORE_OPENAI_3 = {"instructor_client.py", "llama_index_client.py"}


def command(program: str) -> list[str]:
    """How a client is run; those of node lie beside their packages."""
    if program.endswith(".mjs"):
        for name in ("asking.mjs", "asked.json", "ai_sdk.mjs", program):
            shutil.copy(HERE / name, INSTALLED / name)
        return ["node", str(INSTALLED / program)]
    python = INSTALLED / ("openai-2" if program in BEFORE_OPENAI_3 else "newest") / "bin" / "python"
    assert python.exists(), f"{python} is missing; run `make clients`"
    return [str(python), str(HERE / program)]


@cache
def faults(program: str, url: str) -> Mapping[tuple[str, str], str | None]:
    """What a client reports of its checks, by model and check."""
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    done = subprocess.run(
        [*command(program), url, *MODELS], cwd=INSTALLED, env={**os.environ, **quiet}, capture_output=True, text=True,
        timeout=LIMIT, check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(one["model"], one["check"]): one["fault"] for one in found}


@pytest.mark.parametrize(("program", "model", "check"), [
    (program, model, check) for program, checks in PROGRAMS.items() for model in MODELS for check in checks
])
def test_a_client_is_served(url: str, program: str, model: str, check: str) -> None:
    """What a client asks with its own methods and objects is answered so that it understands it."""
    fault = faults(program, url)[model, check]
    assert fault is None, fault


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_check_is_listed(url: str, program: str) -> None:
    """No check of a client is left out of the list."""
    assert {check for _, check in faults(program, url)} == {*PROGRAMS[program]}
