"""A request can be ended in every phase and in every way: nothing of it is left, and its client is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define
from gates_for_tests import Gate, GatePlugin, gated
from servers_for_tests import hang, served
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.builtin.openai import OpenAiApi
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.types import Message

pytestmark = pytest.mark.slow

PHASES = ("queued", "downloading", "loading", "prompt", "answering")
CHAT, EMBED, REQUESTS = "/v1/chat/completions", "/v1/embeddings", "/api/v1/requests"
SAID = [{"role": "user", "content": "a secret"}]
SOON = 0.3
"""Seconds of the time limit that ends a request."""


@define
class Case:
    """A request in its phase, on a real server."""

    host: Host
    client: httpx.AsyncClient
    gate: Gate
    reading: "asyncio.Task[httpx.Response]"
    id: str


@pytest.fixture
def weights() -> Iterator[str]:
    """The address of weights that never arrive."""
    with served({"/x.bin": b"weights" * 10_000}) as site:
        site.faults = [hang(35_000)]
        yield f"{site.url}/x.bin"


@asynccontextmanager
async def reached(
    phase: str, weights: str, folder: Path, path: str = CHAT, *, stream: bool = True, limited: bool = False,
) -> AsyncIterator[Case]:
    """A request that is in this phase; `limited`: it is about to run out of time there."""
    gate = Gate()
    model: dict[str, object] = {"engine": "gate"}
    server: dict[str, object] = {"concurrency": 1, "models_dir": str(folder)}
    if phase == "downloading":
        model["url"] = weights
    if limited and phase in {"queued", "downloading"}:
        server["queue_timeout"] = SOON
    elif limited:
        model["load_timeout" if phase == "loading" else "timeout"] = SOON
    if phase != "loading":
        gate.load.set()
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"gate": GatePlugin(gate)})
    api = plugins.apis["openai"].object
    assert isinstance(api, OpenAiApi)
    api.patience = api.interval = 0.05
    host = Host(parse_config({"server": server, "models": {"gate": model}}), plugins)
    await host.start()
    try:
        async with asyncio.timeout(GUARD), published(host) as url, \
                httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
            other = host.submit(host.request("gate", messages=[Message("user", "x")])) if phase == "queued" else None
            if other is not None:
                await until(lambda: host.status().running == 1)
            body: Mapping[str, object] = (
                {"messages": SAID, "stream": stream} if path == CHAT else {"input": ["a secret"] * 2000}
            )
            reading = asyncio.create_task(client.post(path, json={"model": "gate", **body}))
            if phase == "answering":
                gate.pieces.put("one")
            request_id = await in_phase(client, phase, other)
            yield Case(host, client, gate, reading, request_id)
            if other is not None:
                await other.aclose()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    finally:
        gate.load.set()
        await host.close(0)


async def in_phase(client: httpx.AsyncClient, phase: str, other: Any) -> str:
    """Wait until a request is in this phase; return its id."""
    while True:
        listed = (await client.get(REQUESTS)).json()["data"]
        assert "secret" not in json.dumps(listed)
        found = [one for one in listed if other is None or one["id"] != other.request.id]
        if found and found[0]["state"] == phase:
            return str(found[0]["id"])
        await asyncio.sleep(0.005)


async def nothing_left(case: Case) -> None:
    """Wait until no request runs or waits, in the pool and in the model."""
    others = [one for one in case.host.requests() if one.id != case.id and one.task == "chat"]
    await until(lambda: case.host.status().waiting == 0 and case.host.status().running == len(others))
    await until(lambda: case.gate.answering == len(others))
    if case.host.status().instances and not others and case.gate.load.is_set():
        await until(lambda: all(one.state != "loading" for one in case.host.status().instances))
        assert [one.running for one in case.host.status().instances] == [0] * len(case.host.status().instances)


def told(answer: httpx.Response) -> str:
    """The code of the error in an answer, or, at the end of a stream, the reason why it ended."""
    if answer.headers["content-type"] == "application/json":
        assert answer.status_code >= 400
        return str(answer.json()["error"]["code"])
    last = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")][-1]
    if "error" in last:
        assert "[DONE]" not in answer.text
        return str(last["error"]["code"])
    assert answer.text.endswith("data: [DONE]\n\n")
    return str(last["choices"][0]["finish_reason"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_deleted_request_is_told_so(phase: str, stream: bool, weights: str, tmp_path: Path) -> None:
    """`DELETE` ends the request wherever it is; its client gets an error with the code `cancelled`, not an answer."""
    async with reached(phase, weights, tmp_path, stream=stream) as case:
        answer = await case.client.delete(f"{REQUESTS}/{case.id}")
        assert (answer.status_code, answer.json()) == (200, {"deleted": [case.id]})
        ended = await case.reading
        assert told(ended) == "cancelled"
        assert ended.headers["x-request-id"] == case.id
        if not stream:
            assert (ended.status_code, ended.headers["x-should-retry"]) == (499, "false")
        assert (await case.client.delete(f"{REQUESTS}/{case.id}")).status_code == 404
        await nothing_left(case)


@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_leaves(phase: str, weights: str, tmp_path: Path) -> None:
    """When its client disconnects, a request ends, wherever it is."""
    async with reached(phase, weights, tmp_path) as case:
        case.reading.cancel()
        await until(lambda: case.id not in {one.id for one in case.host.requests()})
        await nothing_left(case)


LATE = {
    "queued": "waited_too_long", "downloading": "waited_too_long", "loading": "model_not_available",
    "prompt": "length", "answering": "length",
}


@pytest.mark.parametrize("phase", PHASES)
async def test_time_that_runs_out(phase: str, weights: str, tmp_path: Path) -> None:
    """The limits of queue, load and answer end a request, each in its phase; a begun answer is complete, but cut."""
    async with reached(phase, weights, tmp_path, limited=True) as case:
        assert told(await case.reading) == LATE[phase]
        await nothing_left(case)


@pytest.mark.parametrize("phase", PHASES)
async def test_a_shutdown(phase: str, weights: str, tmp_path: Path) -> None:
    """A server that shuts down ends every request with an error that says so."""
    async with reached(phase, weights, tmp_path) as case:
        await case.host.close(0)
        assert told(await case.reading) == "shutting_down"
        await until(lambda: not case.host.requests() and not case.host.status().instances)


@pytest.mark.parametrize("way", ["delete", "leave", "timeout", "shutdown"])
async def test_a_query(way: str, weights: str, tmp_path: Path) -> None:
    """Vectors that are being computed end in the same ways; a part of them would be of no use."""
    async with reached("prompt", weights, tmp_path, EMBED, limited=way == "timeout") as case:
        if way == "leave":
            case.reading.cancel()
            await until(lambda: case.id not in {one.id for one in case.host.requests()})
        else:
            if way == "delete":
                await case.client.delete(f"{REQUESTS}/{case.id}")
            elif way == "shutdown":
                await case.host.close(0)
            expected = {"delete": "cancelled", "timeout": "timeout", "shutdown": "shutting_down"}[way]
            assert told(await case.reading) == expected
        await nothing_left(case)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_to_several_prompts(stream: bool) -> None:
    """A prompt is a request; if one of those that share an answer is deleted, the whole answer ends with that error."""
    options = {"slots": 2, "tokens_per_second": 5, "script": [{"replies": ["one two three four five"] * 4}]}
    host = Host(parse_config({"models": {"bot": {"engine": "mock", "options": options}}}))
    async with asyncio.timeout(GUARD), host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        body = {"model": "bot", "prompt": ["a", "b", "c", "d"], "max_tokens": 90, "stream": stream}
        reading = asyncio.create_task(client.post("/v1/completions", json=body))
        await until(lambda: host.status().running == 2)
        listed = (await client.get(REQUESTS)).json()["data"]
        assert sorted(one["task"] for one in listed) == ["text"] * 4
        await client.delete(f"{REQUESTS}/{listed[1]['id']}")
        assert told(await reading) == "cancelled"
        await until(lambda: host.requests() == ())
        await until(lambda: (host.status().running, host.status().waiting) == (0, 0))


async def test_answers_name_their_requests() -> None:
    """The header `X-Request-Id` has the id of the request, in whole answers, streams and errors; others have none."""
    gate = Gate()
    gate.load.set()
    async with gated(gate, cors_origins=["http://page.example"]) as host, asyncio.timeout(GUARD), \
            published(host) as url, httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        for piece in ("one", None):
            gate.pieces.put(piece)
        whole = await client.post(CHAT, json={"model": "gate", "messages": SAID})
        assert whole.json()["id"].endswith(f"-{whole.headers['x-request-id']}")
        vectors = await client.post(EMBED, json={"model": "gate", "input": "x"})
        failed = await client.post("/v1/completions", json={"model": "gate", "prompt": "x"})
        assert (vectors.status_code, failed.status_code) == (200, 400)
        ids = {one.headers["x-request-id"] for one in (whole, vectors, failed)}
        gate.pieces.put("one")
        headers = {"Origin": "http://page.example"}
        async with client.stream(
            "POST", CHAT, json={"model": "gate", "messages": SAID, "stream": True}, headers=headers,
        ) as stream:
            ids.add(stream.headers["x-request-id"])
            assert [one.id for one in host.requests()] == [stream.headers["x-request-id"]]
            assert "X-Request-Id" in stream.headers["access-control-expose-headers"]
        assert len(ids) == 4
        for path in ("/v1/models", "/", REQUESTS):
            assert "x-request-id" not in (await client.get(path)).headers
