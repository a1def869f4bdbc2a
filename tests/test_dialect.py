"""The example dialect: what every dialect gets from `lllms_core.apis` without code of its own."""

import asyncio
import json
import runpy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from gates_for_tests import Gate, gated, posting
from quart import Quart
from test_architecture import FOR_PLUGINS, imports, room
from waits_for_tests import until

from lllms_core.apis import Encoder, Fault, bodies, streaming
from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.errors import EngineFailed
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.types import Delta

EXAMPLE = Path(__file__).parent.parent / "examples" / "dialect.py"
DIALECT = runpy.run_path(str(EXAMPLE))
QUESTION = {"model": "gate", "question": "Hi"}
JSON = {"Content-Type": "application/json"}


class Dialect:
    """The plugin, as an object."""

    @hookimpl
    def lllms_apis(self) -> list[Any]:
        return [DIALECT["LinesApi"]()]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@asynccontextmanager
async def speaking(gate: Gate, *, patience: float = 10, interval: float = 10) -> AsyncIterator[tuple[Host, Quart]]:
    timed = partial(streaming.stream_answer, patience=patience, interval=interval)
    async with asyncio.timeout(600), gated(gate, {"lines": Dialect()}) as host:
        with patch.object(streaming, "stream_answer", timed):
            app = create_app(host)
        yield host, app


async def lines(connection: Any) -> list[Any]:
    """The rest of an answer."""
    answer = await connection.as_response()
    return [json.loads(line) for line in (await answer.get_data()).splitlines()]


async def test_an_answer_comes_line_by_line(gate: Gate) -> None:
    """The pieces arrive as they are written, then the end with its reason."""
    gate.load.set()
    async with speaking(gate) as (_, app):
        async with posting(app, "/lines", QUESTION) as connection:
            gate.pieces.put("one")
            assert await connection.receive() == b'{"text":"one"}\n'
            gate.pieces.put(" two")
            gate.pieces.put(None)
        answer = await connection.as_response()
        assert answer.content_type == "application/x-ndjson"
        assert (await lines(connection))[-2:] == [{"text": " two"}, {"end": "stop", "tokens": 2}]


@pytest.mark.parametrize(("body", "status", "said"), [
    ({"model": "gate"}, 400, "question"), ({"model": "door", "question": "Hi"}, 404, "no model 'door'"),
    ({**QUESTION, "mood": "bad"}, 400, "mood"), ([], 400, "must be a JSON object"),
])
async def test_a_refused_request_has_its_status(gate: Gate, body: object, status: int, said: str) -> None:
    """A request that cannot be served is refused with a status, in the dialect's own shape."""
    async with speaking(gate) as (_, app):
        answer = await app.test_client().post("/lines", json=body)
        assert answer.status_code == status
        assert said in (await answer.get_json())["error"]


async def test_an_engine_that_refuses_has_its_status(gate: Gate) -> None:
    """The same holds for refusals by the engine before the first token: no headers have been sent by then."""
    gate.load.set()
    gate.pieces.put(EngineFailed("out of ink"))
    async with speaking(gate) as (_, app):
        answer = await app.test_client().post("/lines", json=QUESTION)
        assert (answer.status_code, await answer.get_json()) == (500, {"error": "out of ink"})


async def test_a_failure_in_mid_answer_is_told(gate: Gate) -> None:
    """The text written before the failure arrives, then the error, and the answer is over."""
    gate.load.set()
    gate.pieces.put("one")
    async with speaking(gate) as (_, app):
        async with posting(app, "/lines", QUESTION) as connection:
            assert await connection.receive() == b'{"text":"one"}\n'
            gate.pieces.put(EngineFailed("out of ink"))
        assert (await lines(connection))[-1] == {"error": "out of ink"}


async def test_a_slow_first_token_cuts_nothing(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first token after 80 s of simulated time is not cut by Quart's 60 s limit; signs of life precede it."""
    loop, turned = asyncio.get_running_loop(), [0.0]
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + turned[0])
    async with speaking(gate, patience=5, interval=15) as (_, app):
        assert app.config["RESPONSE_TIMEOUT"] == 60
        async with posting(app, "/lines", QUESTION) as connection:
            for seconds in (5, 15, 15, 15, 15, 15):
                await asyncio.sleep(0)
                turned[0] += seconds
                assert json.loads(await connection.receive()) == {"waiting": "loading 0 %"}
            gate.pieces.put("one")
            gate.pieces.put(None)
            gate.load.set()
        assert (await lines(connection))[-2:] == [{"text": "one"}, {"end": "stop", "tokens": 1}]


async def test_a_dialect_may_have_no_sign_of_life(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that writes no `ping` inherits one that says nothing; one without an end is refused when made."""
    monkeypatch.delattr(DIALECT["LineEncoder"], "ping")
    async with speaking(gate, patience=0, interval=0.001) as (host, app):
        async with posting(app, "/lines", QUESTION) as connection:
            await until(lambda: bool(host.status().waiting))
            gate.pieces.put("one")
            gate.pieces.put(None)
            gate.load.set()
        assert await lines(connection) == [{"text": "one"}, {"end": "stop", "tokens": 1}]

    class Endless(Encoder):
        content_type = "text/plain"

        def delta(self, delta: Delta) -> bytes:
            return delta.text.encode()

        def fault(self, fault: Fault) -> bytes:
            return fault.message.encode()

    with pytest.raises(TypeError, match="end"):
        Endless()  # type: ignore[abstract]


async def test_a_large_request_is_read_like_a_small_one(gate: Gate) -> None:
    """Members that nobody takes are refused also in a body that is read in a thread."""
    gate.load.set()
    gate.pieces.put(None)
    async with speaking(gate) as (_, app):
        large = {**QUESTION, "question": "Hi" * bodies.LARGE}
        answer = await app.test_client().post("/lines", json={**large, "mood": "bad"})
        assert (answer.status_code, await answer.get_json()) == (400, {"error": "Unknown parameter: 'mood'."})
        answer = await app.test_client().post("/lines", json=large)
        assert json.loads(await answer.get_data()) == {"end": "stop", "tokens": 0}


@pytest.mark.parametrize("phase", ["load", "prefill", "decode"])
async def test_a_client_that_leaves_cancels_its_request(gate: Gate, phase: str) -> None:
    """In every phase, a request ends when its client disconnects."""
    if phase != "load":
        gate.load.set()
    async with speaking(gate) as (host, app):
        async with posting(app, "/lines", QUESTION) as connection:
            await until(lambda: bool(host.status().waiting if phase == "load" else host.status().running))
            if phase == "decode":
                gate.pieces.put("one")
                await connection.receive()
            await connection.disconnect()
        await until(lambda: host.status().waiting == host.status().running == 0)


async def test_the_description_names_what_is_mounted(gate: Gate) -> None:
    """`/openapi.json` includes a third-party dialect, and no disabled API."""
    async with speaking(gate) as (_, app):
        paths = (await (await app.test_client().get("/openapi.json")).get_json())["paths"]
        told = paths["/lines"]["post"]
        assert told["requestBody"]["content"]["application/json"]["schema"]["required"]
        assert set(told["responses"]["200"]["content"]) == {"application/x-ndjson"}
        assert told["responses"]["default"]["content"]["application/json"]["schema"]["required"] == ["error"]
        assert "/api/v1/tokenize" in paths
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "mock"}, disable=["chat", "native", "openai"])
    client = create_app(Host(parse_config({}), plugins)).test_client()
    paths = (await (await client.get("/openapi.json")).get_json())["paths"]
    assert set(paths) == {
        "/health", "/metrics", "/api/v1/status/events", "/api/v1/downloads", "/api/v1/downloads/{id}",
        "/api/v1/sessions", "/api/v1/sessions/{id}",
        "/api/v1/models/{name}/load", "/api/v1/models/{name}/unload", "/api/v1/requests", "/api/v1/requests/{id}",
    }


def test_a_dialect_imports_what_plugins_may(tmp_path: Path) -> None:
    """All its imports, except those to run as a script, are in the rooms for plugins."""
    plugin = tmp_path / "dialect.py"
    plugin.write_text(EXAMPLE.read_text().partition('if __name__ == "__main__"')[0])
    rooms = {room(name) for name in imports(plugin) if name.startswith("lllms_core")}
    assert "apis" in rooms <= FOR_PLUGINS
