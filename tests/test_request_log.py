"""The log line of each request, from a real server with a real model in a process of its own, in both formats."""

import asyncio
import io
import json
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from gates_for_tests import Gate, gated
from programs_for_tests import address
from programs_for_tests import serving as program
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core import log
from lllms_core.config import parse_config
from lllms_core.host import Host

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
CHAT = "/v1/chat/completions"
SAID = [{"role": "user", "content": "sEcReT prompt of a client"}]
FIELD = re.compile(r"(\w+)=(\S*)")


class Lines:
    """The log, as it is written, and its lines about requests."""

    def __init__(self, style: str) -> None:
        self.style = style
        self.stream = io.StringIO()

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of the lines about this event."""
        if self.style == "json":
            every = [json.loads(line) for line in self.stream.getvalue().splitlines()]
            return [{key: value for key, value in one.items() if value is not None}
                    for one in every if one["logger"] == "lllms.requests" and one["event"] == event]
        lines = [line for line in self.stream.getvalue().splitlines() if re.search(rf"\] {event} \w+=", line)]
        return [{key: json.loads(value) if re.fullmatch(r"\d+(\.\d+)?", value) and "id" not in key else value
                 for key, value in FIELD.findall(line)} for line in lines]


@pytest.fixture(params=["console", "json"])
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    root, ours = logging.getLogger(), logging.getLogger("lllms")
    before = root.handlers, root.level, ours.level
    lines = Lines(request.param)
    monkeypatch.setattr(sys, "stderr", lines.stream)
    log.configure_logging("debug", request.param)
    yield lines
    root.handlers[0].close()
    root.handlers = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@asynccontextmanager
async def tiny() -> AsyncIterator[tuple[Host, httpx.AsyncClient]]:
    models = {"tiny": {"engine": "llamacpp", "file": str(TINY), "options": {"context_length": 512, "threads": 1}}}
    async with asyncio.timeout(GUARD), Host(parse_config({"models": models})) as host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        yield host, client


def asked(**more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": SAID, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}


def same(line: Mapping[str, Any], **fields: object) -> None:
    assert {name: line.get(name) for name in fields} == fields


async def test_each_request_has_one_line(lines: Lines) -> None:
    """With what its client knows of it: ids, model, instance, tokens, finish, status; and where its time went."""
    async with tiny() as (host, client):
        first = await client.post(CHAT, json=asked(), headers={"X-Request-Id": "front-1"})
        [instance] = host.status().instances
        second = await client.post(CHAT, json=asked())
        streamed = await client.post(CHAT, json=asked(stream=True))
        wrong = await client.post(CHAT, json=asked(temperature="sEcReT"), headers={"X-Request-Id": "front-2"})
        unknown = await client.post(CHAT, json={**asked(), "model": "sEcReT"})
        long = await client.post(CHAT, json=asked(messages=[{"role": "user", "content": "sEcReT " * 400}]))
        vain = await client.get("/v1/models", headers={"X-Request-Id": "sEcReT with spaces"})
    assert (first.headers["x-request-id"], wrong.headers["x-request-id"]) == ("front-1", "front-2")
    assert "x-request-id" not in vain.headers
    loaded, again, flowing, refused = lines.of("request")
    usage = first.json()["usage"]
    same(
        loaded, id=first.json()["id"].rpartition("-")[2], client_id="front-1", model="tiny", task="chat",
        instance=instance.id, prompt_tokens=usage["prompt_tokens"], cached_tokens=0, tokens=8, finish="length",
        status=200, key=None,
    )
    assert loaded["load_ms"] > 0
    times = [loaded[f"{name}_ms"] for name in ("queued", "load", "prompt", "decode")]
    assert sum(times) <= loaded["total_ms"] + 4
    same(again, id=second.headers["x-request-id"], client_id=None, load_ms=0, tokens=8, status=200)
    assert again["cached_tokens"] == usage["prompt_tokens"] - 1
    same(flowing, id=streamed.headers["x-request-id"], tokens=8, finish="length")
    assert flowing["tokens_per_second"] > 0
    same(refused, id=long.headers["x-request-id"], finish="context_length_exceeded", status=400, tokens=0)
    at_door = lines.of("refused")
    assert [(one.get("client_id"), one["method"], one["route"], one["status"]) for one in at_door] == [
        ("front-2", "POST", CHAT, wrong.status_code), (None, "POST", CHAT, unknown.status_code),
    ]
    assert [one["id"] for one in lines.of("submitted")] == [one["id"] for one in (loaded, again, flowing, refused)]
    assert len(lines.of("assigned")) == 4
    assert len(lines.of("answering")) == 3
    assert "sEcReT" not in lines.stream.getvalue()


async def test_requests_without_an_answer_have_their_line(lines: Lines) -> None:
    """A client that leaves, a cancelled request that waited, and an engine that fails: each has one line."""
    gate = Gate()
    gate.load.set()
    async with asyncio.timeout(GUARD), gated(gate, concurrency=1) as host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        body = {"model": "gate", "messages": SAID}
        async with client.stream("POST", CHAT, json={**body, "stream": True}) as stream:
            gate.pieces.put("one")
            reading = stream.aiter_lines()
            await anext(reading)
            waiting = asyncio.create_task(client.post(CHAT, json=body, headers={"X-Request-Id": "mine"}))
            await until(lambda: host.status().waiting == 1)
            assert (await client.delete("/api/v1/requests/mine")).status_code == 200
            assert (await waiting).status_code == 499
        await until(lambda: len(lines.of("request")) == 2)
        failing = asyncio.create_task(client.post(CHAT, json=body))
        await until(lambda: gate.answering)
        gate.pieces.put(ValueError("sEcReT"))
        assert (await failing).status_code == 500
    cancelled, left, failed = lines.of("request")
    same(cancelled, client_id="mine", finish="cancelled", status=499, instance=None)
    same(left, finish="cancelled", status=499, tokens=1)
    same(failed, finish="engine_died", status=500)
    assert "sEcReT" not in lines.stream.getvalue()


def test_verbose_tells_each_step(tmp_path: Path) -> None:
    """`lllms serve --verbose` logs when a request comes, gets its slot, begins to answer, and ends."""
    (tmp_path / "lllms.toml").write_text('[models.bot]\nengine = "mock"\n')
    with program(tmp_path, "--verbose") as (process, printed):
        body = {"model": "bot", "messages": SAID}
        assert httpx.post(f"{address(printed)}{CHAT}", json=body, timeout=GUARD).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        written = process.stderr.read()
    assert re.findall(r"\] (\w+) id=", written) == ["submitted", "assigned", "answering", "request"]


async def test_a_key_is_logged_by_its_name_and_sees_its_own_models(lines: Lines) -> None:
    """The line names the key, also of a refusal; a key for some models learns nothing of requests for others."""
    config = {
        "server": {"api_keys": [{"name": "alice", "key": "sEcReT-alice-key"},
                                {"name": "bob", "key": "sEcReT-bob-key", "models": ["other"]}]},
        "models": {name: {"engine": "mock", "isolation": "thread"} for name in ("bot", "other")},
    }
    async with asyncio.timeout(GUARD), Host(parse_config(config)) as host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        alice, bob = ({"Authorization": f"Bearer sEcReT-{name}-key"} for name in ("alice", "bob"))
        done = await client.post(CHAT, json={"model": "bot", "messages": SAID}, headers=alice)
        assert (await client.post(CHAT, json={"model": "bot", "messages": SAID}, headers=bob)).status_code == 404
        assert (await client.post(CHAT, json={"model": "bot", "messages": SAID})).status_code == 401
        path = f"/api/v1/requests/{done.headers['x-request-id']}"
        assert [(await client.get(path, headers=who)).status_code for who in (alice, bob, {})] == [200, 404, 401]
        assert (await client.get("/api/v1/requests", headers=bob)).json()["ended"] == []
        assert [(await client.get("/metrics", headers=who)).status_code for who in (alice, bob, {})] == [200, 403, 401]
    assert [one["key"] for one in lines.of("request")] == ["alice"]
    posts = [one for one in lines.of("refused") if one["method"] == "POST"]
    assert [(one.get("key"), one["status"]) for one in posts] == [("bob", 404), (None, 401)]
    assert "sEcReT" not in lines.stream.getvalue()
