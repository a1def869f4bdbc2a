"""What `serve` says: a first request that works, models that cannot be loaded, and what it waits for at its end."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import lllms_llamacpp
import pytest
from programs_for_tests import Terminal, address, environment, serving
from waits_for_tests import GUARD

from lllms_core.apis import Abilities
from lllms_core.cli.farewell import farewell
from lllms_core.cli.first_request import curl, suggest
from lllms_core.config import ServerConfig, parse_config
from lllms_core.errors import ModelLoadFailed
from lllms_core.host import Host
from lllms_core.status import RequestStatus

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
LONG = """
[server]
shutdown_timeout = 600
[models.long]
engine = "mock"
[[models.long.options.script]]
replies = ["token"]
fault = "hang"
after = 1
"""


def shell(line: str, **environ: str) -> dict[str, object]:
    """Run a line as it is, and return the JSON that it prints."""
    assert shutil.which("curl"), "this test needs curl"
    done = subprocess.run(
        ["sh", "-c", f"{line} --silent --show-error"], env={**os.environ, **environ}, capture_output=True, text=True,
        timeout=GUARD, check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The output of a server with keys that offers the plugins' own models."""
    folder = tmp_path_factory.mktemp("announced")
    with serving(folder, environ={**environment(folder), "LLLMS_API_KEYS": "sk-home"}) as (_, printed):
        yield printed


def test_the_line_that_is_suggested_can_be_pasted(server: list[str]) -> None:
    """It asks tiny-chat, with the key from a variable, and a shell runs it as it stands."""
    line = server[-1].removeprefix("try: ")
    assert "tiny-chat" in line
    assert "sk-home" not in line
    answer = shell(line, LLLMS_API_KEY="sk-home")
    assert "1, 2, 3, 4, 5, 6, 7, 8, 9, 10" in json.dumps(answer)
    assert "error" in shell(line, LLLMS_API_KEY="sk-wrong")


@pytest.mark.parametrize(("task", "member"), [("chat", "choices"), ("text", "choices"), ("embed", "data")])
def test_each_task_has_its_line(server: list[str], task: str, member: str) -> None:
    """What is suggested for a chat, a completion or an embedding is answered."""
    config = ServerConfig(api_keys_file=Path("keys"))
    line = curl(config, address(server), "mock", task)  # type: ignore[arg-type]
    assert member in shell(line, LLLMS_API_KEY="sk-home")


@pytest.mark.parametrize(("tasks", "path"), [
    (None, "/v1/chat/completions"), (["text", "chat", "tokenize"], "/v1/chat/completions"),
    (["text", "tokenize"], "/v1/completions"), (["embed", "tokenize"], "/v1/embeddings"), (["rerank"], "/v1/rerank"),
])
async def test_the_task_is_one_of_the_models(monkeypatch, tasks, path):
    """The line asks for what the model can do, a chat first; a model of unknown abilities is asked to chat."""
    host = Host(parse_config({"models": {"bot": {"engine": "mock"}}}))
    told = able(tasks)
    monkeypatch.setattr(host, "abilities", lambda _: done(told))
    assert f"http://127.0.0.1:1{path} " in (await suggest(host, "http://0.0.0.0:1") or "")
    assert f"http://[::1]:1{path}" in (await suggest(host, "http://[::]:1") or "")


def able(tasks: list[str] | None) -> Abilities:
    known = None if tasks is None else frozenset(tasks)
    return Abilities(known, None, None, False, False, {})  # type: ignore[arg-type]


async def done(told: Abilities) -> Abilities:
    return told


async def test_a_model_that_cannot_be_loaded_is_not_suggested(monkeypatch):
    """The first model that may work is suggested; if none does, nothing is."""
    host = Host(parse_config({"models": {"bad": {"engine": "mock"}, "good": {"engine": "mock"}}}))
    refused = {"bad"}

    async def abilities(name: str) -> Abilities:
        if name in refused:
            raise ModelLoadFailed("it is broken")
        return able(None)

    monkeypatch.setattr(host, "abilities", abilities)
    assert '"model": "good"' in (await suggest(host, "http://x") or "")
    refused.add("good")
    assert await suggest(host, "http://x") is None


def test_ctrl_c_tells_what_is_waited_for_and_the_second_ends_it(tmp_path: Path) -> None:
    """The first Ctrl-C tells the running request and the limit; the second ends the server at once, with 0."""
    (tmp_path / "lllms.toml").write_text(LONG)
    terminal = Terminal()
    with (
        ThreadPoolExecutor(1) as threads,
        terminal.program("serve", "--port", "0", "--model", "long", folder=tmp_path) as process,
    ):
        url = terminal.until("listening on http://") and f"http://{terminal.until('  (').split()[0]}"
        answer = threads.submit(stream, url)
        terminal.until("curl")
        wait_for_running(url)
        process.send_signal(signal.SIGINT)
        terminal.until("stopping: 1 request is still running (chat with long for ")
        assert "waiting up to 600 s, Ctrl-C again" in terminal.until("ends at once")
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=GUARD) == 0
        assert time.monotonic() - begun < GUARD
        assert "token" in answer.result(GUARD)


def stream(url: str) -> str:
    """Ask for an answer that does not end, and return what came of it."""
    body = {"model": "long", "messages": [{"role": "user", "content": "go"}], "stream": True}
    text = ""
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=GUARD) as response:
            for piece in response.iter_text():
                text += piece
    except httpx.HTTPError as error:
        text += type(error).__name__
    return text


def wait_for_running(url: str) -> None:
    end = time.monotonic() + GUARD
    while not any(one["tokens"] for one in httpx.get(f"{url}/api/v1/requests").json()["data"]):
        assert time.monotonic() < end


def test_without_requests_nothing_is_waited_for(monkeypatch):
    """Only running requests are named, the first few of many, with their tasks and times."""
    host = Host(parse_config({"models": {"bot": {"engine": "mock"}}}))
    assert farewell(host) == "stopping"
    running = [RequestStatus(str(one), "bot", "chat", "answering", 61.0, instance="bot:1") for one in range(7)]
    queued = RequestStatus("x", "bot", "chat", "queued", 1.0)
    monkeypatch.setattr(host, "requests", lambda: (*running, queued))
    told = farewell(host)
    assert told.startswith("stopping: 7 requests are still running (chat with bot for 1 min 1 s, ")
    assert " and 2 more); waiting up to 10 s" in told
