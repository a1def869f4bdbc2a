"""What clients, `lllms ps` and the status learn of requests that have no answer yet."""

import asyncio
import runpy
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from click.testing import CliRunner
from gates_for_tests import Gate, gated
from openai import AsyncOpenAI
from serving_for_tests import published, serving
from waits_for_tests import GUARD, until

from lllms_core.apis import streaming
from lllms_core.builtin.openai import OpenAiApi
from lllms_core.cli import cli
from lllms_core.config import parse_config
from lllms_core.engines import Feed
from lllms_core.engines.tokens import Interrupted
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.types import Message
from lllms_core.worker import loop
from lllms_core.worker.wire import Reading

pytestmark = pytest.mark.slow

SAID = [Message("user", "Hi")]
CHAT = "/v1/chat/completions"
TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "batching_engine.py"))


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(autouse=True)
def prompt_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look often at what their requests wait for."""
    monkeypatch.setattr(streaming, "LOOK", 0.01)


@asynccontextmanager
async def asking(host: Host) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose streams begin at once."""
    api = host.plugins.apis["openai"].object
    assert isinstance(api, OpenAiApi)
    api.patience = 0.01
    async with asyncio.timeout(GUARD), published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        yield client


@asynccontextmanager
async def streamed(client: httpx.AsyncClient, model: str = "gate", **body: object) -> AsyncIterator[Any]:
    """A streamed chat, or text, whose lines the test reads with `anext`."""
    path = "/v1/completions" if "prompt" in body else CHAT
    said = {} if "prompt" in body else {"messages": [{"role": "user", "content": "Hi"}]}
    async with client.stream("POST", path, json={"model": model, "stream": True, **said, **body}) as answer:
        assert answer.status_code == 200
        yield (line async for line in answer.aiter_lines() if line)


async def hears(lines: Any, comment: str) -> None:
    """Read until a comment begins like this."""
    async for line in lines:
        assert line.startswith(":"), f"an answer came before the comment {comment}: {line}"
        if line.startswith(f": {comment}"):
            return
    raise AssertionError(f"the stream ended without the comment {comment}")


async def test_the_place_in_the_queue_is_told(gate: Gate) -> None:
    """A stream that waits for its turn says which place it has, and says so again when that changes."""
    gate.load.set()
    async with gated(gate, concurrency=1) as host, asking(host) as client, streamed(client) as running:
        await hears(running, "reading the prompt")
        async with AsyncExitStack() as stack:
            before = await stack.enter_async_context(streamed(client))
            await hears(before, "queued 1")
            async with streamed(client) as last:
                await hears(last, "queued 2")
                await stack.aclose()
                await hears(last, "queued 1")


async def test_the_progress_of_a_load_is_told_everywhere(gate: Gate) -> None:
    """A stream, `GET /`, `GET /api/v1/requests`, `lllms ps` and the page say how far the load is, in the same words."""
    async with gated(gate) as host, asking(host) as client, streamed(client) as lines:
        await hears(lines, "loading 0 %")
        gate.loaded = 0.4
        await hears(lines, "loading 40 %")
        [listed] = (await client.get("/api/v1/requests")).json()["data"]
        status = (await client.get("/")).json()
        page = (await client.get("/", headers={"Accept": "text/html"})).text
        shown = await asyncio.to_thread(CliRunner().invoke, cli, ["ps", "--url", str(client.base_url)])
        assert (listed["state"], listed["position"], listed["progress"]) == ("loading", 1, 0.4)
        assert (listed["model"], listed["task"], listed["text"]) == ("gate", "chat", "loading 40 %")
        told = {"state": "loading", "position": 1, "progress": 0.4, "reason": None, "text": "loading 40 %"}
        assert status["waiting"] == [{"model": "gate", "requests": 1, **told}]
        [instance] = status["instances"]
        assert 0 <= instance["load_seconds"] < instance["load_timeout"] == 300
        assert (instance["watchdog"], instance["silent_seconds"]) == (30, 0)
        assert "waiting for model gate: loading 40 %" in shown.output
        assert "of at most 300 s" in shown.output
        assert "1 waiting: loading 40 %" in page


async def test_missing_memory_and_its_holders_are_told(gate: Gate) -> None:
    """A stream that waits for memory says what it needs and who holds it, and so does `lllms ps`."""
    gate.load.set()
    models = {name: {"engine": "gate", "memory": "1GB"} for name in ("first", "second")}
    async with gated(gate, models=models, memory_limit="1.5GB") as host, asking(host) as client:
        running = host.submit(host.request("first", messages=SAID))
        await until(lambda: host.status().running == 1)
        async with streamed(client, "second") as lines:
            await hears(lines, "queued 1, waits for memory: it needs about 1.0 GB")
            [listed] = [one for one in (await client.get("/api/v1/requests")).json()["data"] if one["position"]]
            shown = await asyncio.to_thread(CliRunner().invoke, cli, ["ps", "--url", str(client.base_url)])
            assert listed["state"] == "memory"
            assert "first (1.0 GB, busy)" in listed["reason"]
            assert f"waiting for model second: {listed['text']}" in shown.output
        await running.aclose()


@pytest.mark.parametrize(("limit", "reason"), [
    ("concurrency", "1 of 1 requests (server.concurrency) are running"),
    ("max_instances", "its model needs one of 1 places (server.max_instances), and all are taken"),
])
async def test_other_reasons_are_told(gate: Gate, limit: str, reason: str) -> None:
    """A request without an instance learns whether it waits for other requests, or for a place for its model."""
    gate.load.set()
    models = {name: {"engine": "gate"} for name in ("first", "second")}
    async with gated(gate, models=models, **{limit: 1}) as host:
        running = host.submit(host.request("first", messages=SAID))
        await until(lambda: host.status().running == 1)
        waiting = host.submit(host.request("second", messages=SAID))
        await until(lambda: str(host.waiting(waiting.request)) == f"queued 1, {reason}")
        await waiting.aclose()
        await running.aclose()


STEPS = threading.Semaphore(0)
"""The decodes that a model may still do."""


class Patient(EXAMPLE["Induction"]):  # type: ignore[misc]  # the example is run, not imported
    """Reads 512 tokens of a prompt with each permission."""

    def decode(self, feeds: Sequence[Feed]) -> Sequence[int]:
        while not STEPS.acquire(timeout=0.01):
            if self.interrupt.is_set():
                raise Interrupted
        return super().decode(feeds)  # type: ignore[no-any-return]  # as above


class PatientEngine(EXAMPLE["InductionEngine"]):  # type: ignore[misc]  # as above
    name = "patient"
    isolation = "thread"

    def load(self, spec: Any, progress: Any) -> Patient:
        return Patient(spec.options)


async def test_the_reading_of_a_long_prompt_is_told(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream says how much of its prompt has been read, without what was reused; after its first piece no more."""
    monkeypatch.setattr(loop, "LONG_PROMPT", 0.0)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
    plugin = SimpleNamespace(lllms_engines=hookimpl(lambda: [PatientEngine()]))
    models = {"patient": {"engine": "patient"}}
    async with gated(gate, {"patient": plugin}, models=models) as host, asking(host) as client:
        body = {"model": "patient", "max_tokens": 2, "temperature": 0}
        async with streamed(client, **body, prompt="tick tock " * 102 + "tic") as lines:  # 1,023 tokens
            await hears(lines, "reading the prompt")
            STEPS.release()
            await hears(lines, "reading the prompt 50 %")
            [listed] = (await client.get("/api/v1/requests")).json()["data"]
            assert (listed["state"], listed["position"], listed["progress"]) == ("prompt", None, 0.5)
            STEPS.release(2)
            rest = [line async for line in lines]
        assert [line for line in rest if line.startswith(":")] == []
        assert rest[-1] == "data: [DONE]"
        async with streamed(client, **body, prompt="tick tock " * 102 + "tick tock " * 102 + "tic") as lines:
            STEPS.release()
            await hears(lines, "reading the prompt 50 %")
            STEPS.release(4)
            assert [line async for line in lines][-1] == "data: [DONE]"


async def test_a_real_model_reports_its_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's model tells after each batch how much of a prompt is read; nothing once the answer has begun."""
    monkeypatch.setattr(loop, "LONG_PROMPT", 0.0)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
    options = {"context_length": 512, "batch_size": 64}
    model = {"engine": "llamacpp", "file": str(TINY), "isolation": "thread", "options": options}
    async with asyncio.timeout(GUARD), Host(parse_config({"models": {"tiny": model}})) as host:
        await host.load("tiny")
        [instance] = host.pool._dispatcher.instances.values()
        heard: list[float] = []
        pieces = 0
        take = instance.message

        def spy(message: Any) -> None:
            if isinstance(message, Reading):
                assert not pieces, "a prompt was reported after its answer had begun"
                heard.extend(message.shares.values())
            take(message)

        monkeypatch.setattr(instance, "message", spy)
        monkeypatch.setattr(instance._worker, "_events", SimpleNamespace(message=spy, ended=instance.ended))
        request = host.request("tiny", prompt="one two three " * 75, parameters={"max_tokens": 20, "temperature": 0})
        async with host.submit(request) as stream:
            async for _ in stream:
                pieces += 1
        assert heard == sorted(set(heard))
        assert len(heard) >= 3
        assert 0 < heard[0] < 0.5 <= heard[-1] < 1


async def test_quick_prompts_are_not_reported(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose first piece comes at once costs no message; a busy model asks nothing of its prompts."""
    asked: list[object] = []
    monkeypatch.setattr(EXAMPLE["Induction"], "prompt_progress", asked.append)
    plugin = SimpleNamespace(lllms_engines=hookimpl(lambda: [EXAMPLE["InductionEngine"]()]))
    models = {"x": {"engine": "induction", "isolation": "thread"}}
    async with gated(gate, {"x": plugin}, models=models) as host:
        request = host.request("x", prompt="tick tock tick", parameters={"max_tokens": 200, "temperature": 0})
        async with host.submit(request) as stream:
            assert (await stream.gather()).finish.usage.completion_tokens == 200
    assert asked == []


async def test_openais_client_does_not_notice() -> None:
    """The real client reads a stream with comments in it like any other."""
    models = {"tiny": {"engine": "llamacpp", "file": str(TINY), "options": {"context_length": 512}}}
    async with asyncio.timeout(GUARD), serving({"server": {"port": 0, "concurrency": 1}, "models": models}) as url:
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        async def ask() -> str:
            stream = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "Hi"}], stream=True, temperature=0, max_tokens=40,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*(ask() for _ in range(4)))
        await client.close()
    assert len(set(answers)) == 1
    assert answers[0]
