import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gates_for_tests import Gate, gated, posting
from quart import Quart
from waits_for_tests import until

from lllms_core.app import create_app
from lllms_core.builtin.openai import OpenAiApi
from lllms_core.errors import EngineFailed
from lllms_core.host import Host
from lllms_core.types import Message

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
MESSAGES = [Message("user", "Hi")]


@pytest.fixture
def gate() -> Gate:
    return Gate()


def patient_app(host: Host, patience: float, interval: float) -> Quart:
    app = Quart(__name__)
    app.register_blueprint(OpenAiApi(patience, interval).blueprint(host))
    return app


@asynccontextmanager
async def asking(app: Quart, *, stream: bool) -> AsyncIterator[Any]:
    """Send a chat and yield the connection while it is answered."""
    body = {"model": "gate", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    async with posting(app, CHAT, body) as connection:
        yield connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["queue", "load", "prefill", "decode"])
async def test_a_client_that_leaves_cancels_its_request(gate: Gate, phase: str, stream: bool) -> None:
    """Whatever its state, a request ends when its client disconnects, and leaves its place to others."""
    async with gated(gate, concurrency=1) as host:
        if phase != "load":
            gate.load.set()
        other = None
        if phase == "queue":
            other = host.submit(host.request("gate", messages=MESSAGES))
            await until(lambda: host.status().running == 1)
        async with asking(create_app(host), stream=stream) as connection:
            if phase in {"queue", "load"}:
                await until(lambda: host.status().waiting == 1)
            else:
                await until(lambda: host.status().running == 1)
            if phase == "decode":
                gate.pieces.put("one")
                await (connection.receive() if stream else until(gate.pieces.empty))
            await connection.disconnect()
        await until(lambda: host.status().waiting == 0)
        await until(lambda: host.status().running == (1 if other else 0))
        if other is not None:
            await other.aclose()


async def test_a_client_that_leaves_while_headers_are_sent_cancels_its_request(gate: Gate) -> None:
    """The same holds between the view and the first byte of the body, when no code of the answer has run yet."""
    gate.load.set()
    gate.pieces.put("one")
    async with gated(gate) as host:
        app = create_app(host)
        body = json.dumps({"model": "gate", "messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
        left = asyncio.Event()
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Mapping[str, Any]:
            for message in messages:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            assert message["type"] == "http.response.start"
            left.set()
            await asyncio.get_running_loop().create_future()  # the client's connection is full

        async with app.test_app():
            await app(_scope(), receive, send)  # type: ignore[arg-type]  # plain dicts stand for typed ones
        await until(lambda: host.status().running == 0)


async def test_one_who_waits_gets_headers_and_comments(gate: Gate) -> None:
    """While a model loads, the client of a stream sees signs of life, then the whole answer."""
    async with gated(gate) as host, asking(patient_app(host, 0.01, 0.01), stream=True) as connection:
        for _ in range(3):
            assert await connection.receive() == b": loading 0 %\n\n"
        for piece in ("one", " two", None):
            gate.pieces.put(piece)
        gate.load.set()
    answer = await connection.as_response()
    data = [line for line in (await answer.get_data()).decode().split("\n\n") if line and not line.startswith(":")]
    assert (answer.status_code, data[-1]) == (200, "data: [DONE]")
    chunks = [json.loads(line.removeprefix("data: ")) for line in data[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "one two"
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert chunks[0]["id"].startswith("chatcmpl-gate:")


async def test_a_slow_stream_gets_comments(gate: Gate) -> None:
    """A pause between two pieces is filled with comments."""
    gate.load.set()
    gate.pieces.put("one")
    async with gated(gate) as host, asking(patient_app(host, 10, 0.01), stream=True) as connection:
        assert b'"one"' in await connection.receive()
        assert await connection.receive() == b": waiting\n\n"
        gate.pieces.put(None)


async def test_an_error_after_the_headers_is_an_event(gate: Gate) -> None:
    """After the headers, a refusal comes as the last event, without an end mark."""
    async with gated(gate) as host:
        async with asking(patient_app(host, 0.01, 0.01), stream=True) as connection:
            assert await connection.receive() == b": loading 0 %\n\n"
            gate.pieces.put(EngineFailed("out of ink"))
            gate.load.set()
        answer = await connection.as_response()
    last = (await answer.get_data()).decode().rstrip().split("\n\n")[-1]
    expected = {"message": "out of ink", "type": "server_error", "param": None, "code": "engine_failed"}
    assert json.loads(last.removeprefix("data: ")) == {"error": expected}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_says_when_to_come_back(gate: Gate, stream: bool) -> None:
    """More requests than may wait: 429 with Retry-After."""
    async with gated(gate, concurrency=1, queue_size=1) as host:
        gate.load.set()
        running = host.submit(host.request("gate", messages=MESSAGES))
        await until(lambda: host.status().running == 1)
        waiting = host.submit(host.request("gate", messages=MESSAGES))
        async with asking(create_app(host), stream=stream) as connection:
            pass
        answer = await connection.as_response()
        assert (answer.status_code, (await answer.get_json())["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
        await waiting.aclose()
        await running.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_waiting_too_long_is_told(gate: Gate, stream: bool) -> None:
    """A request that waits longer than the server allows gets a 503 with Retry-After."""
    async with gated(gate, queue_timeout=0.05) as host:
        async with asking(create_app(host), stream=stream) as connection:
            pass
        answer = await connection.as_response()
        assert (answer.status_code, (await answer.get_json())["error"]["code"]) == (503, "waited_too_long")
        assert "Retry-After" in answer.headers


async def test_a_stopping_server_refuses(gate: Gate) -> None:
    """After the host is closed, requests get a 503."""
    async with gated(gate) as host:
        await host.close(0)
        async with asking(create_app(host), stream=True) as connection:
            pass
        answer = await connection.as_response()
        assert (answer.status_code, (await answer.get_json())["error"]["code"]) == (503, "shutting_down")


async def test_generation_has_no_time_limit_of_its_own(gate: Gate) -> None:
    """Quart's time limit for responses, which cuts them silently, does not apply."""
    gate.load.set()
    async with gated(gate) as host:
        app = create_app(host)
        app.config["RESPONSE_TIMEOUT"] = 0
        gate.pieces.put("one")
        async with asking(app, stream=True) as connection:
            await connection.receive()
            gate.pieces.put(" two")
            gate.pieces.put(None)
        answer = await connection.as_response()
        assert (await answer.get_data()).endswith(b"data: [DONE]\n\n")


def _scope() -> Any:
    return {
        "type": "http", "method": "POST", "scheme": "http", "path": CHAT, "query_string": b"", "root_path": "",
        "http_version": "1.1", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": None, "server": None, "extensions": {}, "asgi": {"spec_version": "2.1", "version": "3.0"},
    }
