"""API keys over HTTP: who gets in, what a key may do, and that no trace of it stays, for every dialect."""

import asyncio
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import anthropic
import httpx
import openai
import pytest
from gates_for_tests import Gate, gated
from quart import Blueprint, Quart, jsonify, websocket
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.apis import Api, Fault, Server
from lllms_core.app import create_app, mount
from lllms_core.caller import CALLER, Caller
from lllms_core.config import parse_config
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.testing import running_server
from lllms_core.types import Message
from lllms_core.web import key_check
from lllms_core.web.failed_keys import FIRST, FREE

pytestmark = pytest.mark.slow

BOT = {"engine": "mock", "isolation": "thread", "options": {"script": [{"replies": ["one two"]}]}}
MODELS = {"tiny": {**BOT, "aliases": ["gpt-4"]}, "large": {**BOT, "aliases": ["claude-*"]}}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
KEYS = ["everything: sk-all", {"name": "little", "key": "sk-little", "models": ["tiny"]}]


OPEN = {
    "/health", "/", "/api/v1/status/page.js", "/api/v1/status/page.css", "/api/v1/client.js", "/api/v1/react.js",
}
"""`/` is an empty page then; as JSON it needs a key."""


class Strange(Api):
    """A plugin's dialect that knows nothing of keys."""

    name = "strange"

    def blueprint(self, server: Server) -> Blueprint:
        routes = Blueprint("strange", __name__)

        @routes.route("/strange", methods=["GET", "POST"])
        async def show() -> Any:
            return jsonify([card.name for card in server.models()], CALLER.get().client)

        @routes.websocket("/talk")
        async def talk() -> None:
            await websocket.accept()
            await websocket.send_json([card.name for card in server.models()])

        return routes

    def fault(self, fault: Fault) -> object:
        return {"oops": fault.message, "why": fault.code}


class StrangePlugin:
    @hookimpl
    def lllms_apis(self) -> list[Api]:
        return [Strange()]


def make_host(**server: object) -> Host:
    plugins = Plugins.discover(extra={"strange": StrangePlugin()})
    return Host(parse_config({"server": {"api_keys": KEYS, **server}, "models": MODELS}), plugins)


async def ask(
    app: Any, path: str, method: str = "GET", headers: Mapping[str, str] = MappingProxyType({}), **more: Any,
) -> Any:
    return await app.test_client().open(path, method=method, headers=headers, **more)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


# -- who gets in ------------------------------------------------------------------------------------------------------


async def test_every_route_needs_a_key() -> None:
    """Each route, each unknown path and each of our own is closed, except for those that show nothing of models."""
    app = create_app(make_host())

    @app.get("/own")
    async def own() -> str:
        return "mine"

    paths = {(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    assert len(paths) > 50
    paths |= {("/nowhere", "GET"), ("/v1/nowhere", "POST"), ("/health/x", "GET"), ("/healthy", "GET")}
    for path, method in sorted(paths):
        written = path.replace("<path:", "<").replace("<", "").replace(">", "")
        answer = await ask(app, written, method, {"Accept": "text/html"})
        if path in OPEN and method in {"GET", "HEAD"}:
            assert answer.status_code in {200, 503}, (path, method)
        else:
            assert answer.status_code == 401, (path, method)
            assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [
    bearer("sk-all"), {"Authorization": "bearer  sk-all "}, {"X-Api-Key": "sk-all"}, {"api-key": "sk-all"},
    {**bearer("placeholder"), "X-Api-Key": "sk-all"},
])
async def test_a_key_opens(headers: Mapping[str, str]) -> None:
    """A key is accepted as a bearer token and in the headers of Anthropic's clients and of Azure's."""
    app = create_app(make_host())
    assert (await ask(app, "/v1/models", headers=headers)).status_code == 200
    assert (await ask(app, "/nowhere", headers=headers)).status_code == 404


@pytest.mark.parametrize("headers", [
    {}, bearer(""), bearer("sk-al"), bearer("sk-all2"), bearer("SK-ALL"), {"Authorization": "sk-all"},
    {"Authorization": "Basic sk-all"}, {"X-Api-Key": ""}, bearer("sk-all,sk-all"), bearer("é" * 3000),
    {"Cookie": "key=sk-all"},
])
async def test_nothing_else_opens(headers: Mapping[str, str]) -> None:
    """Neither parts of a key, nor other forms of it open; nor does a key in the URL, which logs would show."""
    app = create_app(make_host())
    answer = await ask(app, "/v1/models?key=sk-all&api_key=sk-all", headers=headers)
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    assert "sk-al" not in error["message"]


async def test_each_dialect_refuses_in_its_shape() -> None:
    """A refusal has the shape of the API whose path was asked for, of plugins too, and of Anthropic's clients."""
    app = create_app(make_host())
    strange = await (await ask(app, "/strange")).get_json()
    assert strange["why"] == "invalid_api_key"
    assert "x-api-key" in strange["oops"]
    version = {"anthropic-version": "1"}
    for path, headers in (("/v1/messages", {}), ("/v1/models", version), ("/x", version)):
        answer = await ask(app, path, "POST" if path.endswith("messages") else "GET", headers)
        told = await answer.get_json()
        assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")


async def test_a_websocket_needs_a_key() -> None:
    """The WebSocket of a plugin opens with a key, for what the key may see, and is refused without one."""
    app = create_app(make_host())
    async with app.test_client().websocket("/talk", headers=bearer("sk-little")) as talk:
        assert await talk.receive_json() == ["tiny"]
    with pytest.raises(Exception, match="401"):
        async with app.test_client().websocket("/talk") as talk:
            await talk.receive_json()


async def test_a_browsers_preflight_needs_no_key() -> None:
    """A browser asks without a key whether a page may call; the page can read the refusal of a call without one."""
    app = create_app(make_host(cors_origins=["https://page.example"]))
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert (await ask(app, "/v1/chat/completions", "OPTIONS", headers)).status_code == 204
    answer = await ask(app, "/v1/chat/completions", "POST", {"Origin": "https://page.example"}, json=CHAT)
    assert answer.status_code == 401
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"


async def test_health_tells_strangers_no_names() -> None:
    """Without a key `/health` tells only whether the server is well, also about kept models; with one, the rest."""
    models = {"shy-model": {"engine": "mock", "min_instances": 1, "options": {"script": []}}}
    host = Host(parse_config({"server": {"api_keys": KEYS}, "models": models}))
    app = create_app(host, manage_host=False)  # which is not started, so that it lacks an instance
    for headers, shown in (({}, False), (bearer("wrong"), False), (bearer("sk-all"), True)):
        answer = await ask(app, "/health?ready=true", headers=headers)
        assert answer.status_code == 503
        assert ("shy-model" in await answer.get_data(as_text=True)) is shown


async def test_the_page_is_empty_for_strangers() -> None:
    """Without a key the page at `/` names no model, neither in its HTML nor to programs, and no key is in a cookie."""
    async with make_host() as host:
        await host.load("large")
        app = create_app(host, manage_host=False)
        for headers in ({}, bearer("sk-wrong")):
            page = await ask(app, "/", headers={"Accept": "text/html", **headers})
            text = await page.get_data(as_text=True)
            assert (page.status_code, "large" in text, "tiny" in text) == (200, False, False)
            assert "API key" in text
            assert "Set-Cookie" not in page.headers
            for path in ("/", "/api/v1/status/events", "/health?model=large", "/health?model=nothing"):
                assert (await ask(app, path, headers={"Accept": "application/json", **headers})).status_code == 401
        page = await ask(app, "/", headers={"Accept": "text/html", **bearer("sk-little")})
        text = await page.get_data(as_text=True)
        assert ("large" in text, "tiny" in text) == (False, True)


async def test_wrong_keys_wait_and_right_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that sends wrong keys waits for each further refusal, at `/health` too; its right keys never do."""
    waits: list[float] = []
    free = asyncio.Event()

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        await free.wait()

    monkeypatch.setattr(key_check, "pause", pause)
    monkeypatch.setattr(key_check, "MOST_WAITING", 2)
    app = create_app(make_host())
    here, elsewhere = ({"scope_base": {"client": (address, 1)}} for address in ("192.0.2.7", "192.0.2.8"))

    async def status(path: str, secret: str | None, where: Mapping[str, Any] = here) -> int:
        return int((await ask(app, path, headers={} if secret is None else bearer(secret), **where)).status_code)

    async with asyncio.timeout(GUARD):
        for number in range(FREE):
            assert await status("/v1/models", f"wrong-{number}") == 401
        assert waits == []
        slowed = []
        for path in ("/v1/models", "/health"):
            slowed.append(asyncio.create_task(status(path, "wrong")))
            await until(lambda: len(waits) == len(slowed))
        assert waits == pytest.approx([FIRST, 2 * FIRST], rel=0.1)
        assert await status("/v1/models", "sk-all") == 200
        assert await status("/v1/models", None) == 401  # without a key, nothing is guessed
        assert await status("/v1/models", "wrong", elsewhere) == 401
        assert await status("/v1/models", "wrong") == 401  # no more than so many are held: they take memory
        assert len(waits) == 2
        assert not any(task.done() for task in slowed)
        free.set()
        assert [await task for task in slowed] == [401, 503]
        assert await status("/v1/models", "wrong") == 401
        assert len(waits) == 3


async def test_mounted_routes_need_keys_too() -> None:
    """In an application of somebody else, the mounted routes are closed, its own are open."""
    app = Quart("mine")

    @app.get("/own")
    async def own() -> str:
        return "mine"

    mount(app, make_host(), prefix="/llm")
    assert (await ask(app, "/own")).status_code == 200
    assert (await ask(app, "/llm/health")).status_code == 503
    for path in ("/llm/api/v1/status/page.js", "/llm/api/v1/client.js"):
        assert (await ask(app, path)).status_code == 200
    for path in ("/llm/v1/models", "/llm/openapi.json", "/llm/strange", "/llm/"):
        assert (await ask(app, path)).status_code == 401, path
        assert (await ask(app, path, headers=bearer("sk-all"))).status_code == 200
    told = await (await ask(app, "/llm/strange", headers=bearer("sk-little"))).get_json()
    assert told == [["tiny"], "little"]


async def test_without_keys_nothing_changes() -> None:
    """A server without keys takes requests with any key or none, as clients send placeholders."""
    app = create_app(make_host(api_keys=[]))
    for headers in ({}, bearer("placeholder")):
        assert (await ask(app, "/v1/models", headers=headers)).status_code == 200


# -- models -----------------------------------------------------------------------------------------------------------


async def test_other_models_are_unknown_to_a_key() -> None:
    """A key sees and uses only its models: names, aliases, suggestions, lists and states of others do not show."""
    async with make_host() as host:
        await host.load("large")
        await host.load("tiny")
        app = create_app(host, manage_host=False)
        for path in ("/v1/models", "/", "/openapi.json", "/anthropic/v1/models", "/strange", "/api/tags", "/api/ps"):
            shown = await (await ask(app, path, headers=bearer("sk-little"))).get_data(as_text=True)
            assert "tiny" in shown, path
            assert "large" not in shown, path
            assert "large" in await (await ask(app, path, headers=bearer("sk-all"))).get_data(as_text=True)
        for name in ("large", "claude-9", "larg", "nothing"):
            answers = [
                await ask(app, f"/v1/models/{name}", headers=bearer("sk-little")),
                await ask(app, "/v1/chat/completions", "POST", bearer("sk-little"), json={**CHAT, "model": name}),
                await ask(app, "/api/v1/tokenize", "POST", bearer("sk-little"), json={"model": name, "text": "x"}),
                await ask(app, "/v1/embeddings", "POST", bearer("sk-little"), json={"model": name, "input": "x"}),
                await ask(app, f"/api/v1/sessions?model={name}", headers=bearer("sk-little")),
            ]
            for answer in answers:
                text = await answer.get_data(as_text=True)
                assert (answer.status_code, json.loads(text)["error"]["code"]) == (404, "model_not_found"), text
                assert "there are: tiny" in text
                assert "large" not in text.replace(f"no model '{name}'", "")
        for name in ("tiny", "gpt-4"):
            body = {**CHAT, "model": name}
            assert (await ask(app, "/v1/chat/completions", "POST", bearer("sk-little"), json=body)).status_code == 200
        assert CALLER.get() == Caller()
        assert [card.name for card in host.models()] == ["tiny", "large"]


async def test_a_large_request_is_no_way_around() -> None:
    """A body so large that a thread reads it is refused the model just the same."""
    async with make_host() as host:
        app = create_app(host, manage_host=False)
        body = {"model": "large", "messages": [{"role": "user", "content": "x" * 200_000}]}
        for path in ("/v1/chat/completions", "/v1/messages"):
            answer = await ask(app, path, "POST", bearer("sk-little"), json={**body, "max_tokens": 5})
            assert answer.status_code == 404, await answer.get_data(as_text=True)


async def test_sessions_of_other_models_are_unknown() -> None:
    """A key lists and forgets only the sessions of its models."""
    script = {"script": [{"replies": ["la"], "tokens": 40}], "sessions": True}
    models = {name: {"engine": "mock", "isolation": "thread", "options": script} for name in ("tiny", "large")}
    server = {"api_keys": KEYS}
    async with Host(parse_config({"server": server, "models": models, "sessions": {"min_tokens": 1}})) as host:
        for name in models:
            async with host.submit(host.request(name, messages=[Message("user", f"Hi {name}")])) as stream:
                await stream.gather()
        app = create_app(host, manage_host=False)

        async def listed(secret: str) -> dict[str, str]:
            told = await (await ask(app, "/api/v1/sessions", headers=bearer(secret))).get_json()
            return {one["id"]: one["model"] for one in told["data"]}

        everything = await listed("sk-all")
        assert set(everything.values()) == {"tiny", "large"}
        assert set((await listed("sk-little")).values()) == {"tiny"}
        hidden = [name for name, model in everything.items() if model == "large"]
        for path in (f"/api/v1/sessions/{hidden[0]}", f"/api/v1/sessions/{hidden[0]}?text=true"):
            assert (await ask(app, path, headers=bearer("sk-little"))).status_code == 404
        assert (await ask(app, f"/api/v1/sessions/{hidden[0]}", "DELETE", bearer("sk-little"))).status_code == 404
        assert (await ask(app, "/api/v1/sessions", "DELETE", bearer("sk-little"))).status_code == 200
        assert set((await listed("sk-all")).values()) == {"large"}


async def test_requests_for_other_models_are_unknown() -> None:
    """A key neither sees nor cancels the requests for models that it may not use."""
    gate = Gate()
    gate.load.set()
    keys = [{"name": "gate", "key": "sk-gate", "models": ["gate"]}, {"name": "x", "key": "sk-x", "models": ["x"]}]
    async with asyncio.timeout(GUARD), gated(gate, api_keys=keys) as host:
        app = create_app(host, manage_host=False)
        async with host.submit(host.request("gate", messages=[Message("user", "Hi")])) as stream:
            path = f"/api/v1/requests/{stream.request.id}"
            for secret, seen in (("sk-x", 0), ("sk-gate", 1)):
                listed = await (await ask(app, "/api/v1/requests", headers=bearer(secret))).get_json()
                assert len(listed["data"]) == seen
            assert (await ask(app, path, "DELETE", bearer("sk-x"))).status_code == 404
            assert host.requests()
            assert (await ask(app, path, "DELETE", bearer("sk-gate"))).status_code == 200
            await until(lambda: not host.requests())


async def test_a_key_keeps_its_responses_to_itself() -> None:
    """A stored response is found, continued and deleted with the key that asked for it, and with no other."""
    keys = ["one: sk-one", "two: sk-two"]
    async with make_host(api_keys=keys) as host:
        app = create_app(host, manage_host=False)
        body = {"model": "tiny", "input": "Hi"}
        made = await (await ask(app, "/v1/responses", "POST", bearer("sk-one"), json=body)).get_json()
        path = f"/v1/responses/{made['id']}"
        more = {**body, "previous_response_id": made["id"]}
        assert (await ask(app, path, headers=bearer("sk-two"))).status_code == 404
        assert (await ask(app, path, "DELETE", bearer("sk-two"))).status_code == 404
        assert (await ask(app, "/v1/responses", "POST", bearer("sk-two"), json=more)).status_code == 400
        assert (await ask(app, "/v1/responses", "POST", bearer("sk-one"), json=more)).status_code == 200
        assert (await ask(app, path, headers=bearer("sk-one"))).status_code == 200
        assert (await ask(app, path, "DELETE", bearer("sk-one"))).status_code == 200


async def test_a_limited_key_adds_no_models() -> None:
    """A key with a list of models cannot let the server fetch others; of its own it may fetch missing files."""
    async with make_host(pull=True) as host:
        app = create_app(host, manage_host=False)
        for name, status in (("hf:org/repo", 404), ("large", 400), ("nothing", 400)):
            answer = await ask(app, "/api/pull", "POST", bearer("sk-little"), json={"model": name, "stream": False})
            assert answer.status_code == status, await answer.get_data(as_text=True)
        answer = await ask(app, "/api/pull", "POST", bearer("sk-little"), json={"model": "tiny", "stream": False})
        assert answer.status_code == 200


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_a_rate_is_answered_429() -> None:
    """Beyond its rate a key gets 429 with a time, in every dialect's shape; lists cost nothing, other keys go on."""
    keys = [{"name": "slow", "key": "sk-slow", "requests_per_minute": 2}, "other: sk-other"]
    async with make_host(api_keys=keys) as host:
        app = create_app(host, manage_host=False)
        for _ in range(2):
            answer = await ask(app, "/v1/chat/completions", "POST", bearer("sk-slow"), json=CHAT)
            assert answer.status_code == 200
        answer = await ask(app, "/v1/chat/completions", "POST", bearer("sk-slow"), json=CHAT)
        error = (await answer.get_json())["error"]
        assert (answer.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(answer.headers["Retry-After"]) <= 30
        assert "'slow' allows 2 requests a minute" in error["message"]
        strange = await ask(app, "/strange", "POST", bearer("sk-slow"))
        assert (strange.status_code, (await strange.get_json())["why"]) == (429, "rate_limit_exceeded")
        told = await (await ask(app, "/v1/messages", "POST", bearer("sk-slow"), json=CHAT)).get_json()
        assert told["error"]["type"] == "rate_limit_error"
        assert (await ask(app, "/v1/models", headers=bearer("sk-slow"))).status_code == 200
        answer = await ask(app, "/v1/chat/completions", "POST", bearer("sk-other"), json=CHAT)
        assert answer.status_code == 200


async def test_places_count_running_and_waiting_requests() -> None:
    """Running and waiting requests take places, until the whole answer is sent or the client has left."""
    gate = Gate()
    gate.load.set()
    keys = [{"name": "two", "key": "sk-two", "concurrency": 2}, "other: sk-other"]
    body = {"model": "gate", "messages": [{"role": "user", "content": "Hi"}]}
    async with (
        asyncio.timeout(GUARD), gated(gate, concurrency=1, api_keys=keys) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD, headers=bearer("sk-two")) as client,
    ):
        async def refused() -> bool:
            answer = await client.post("/v1/embeddings", json={"model": "nothing", "input": "x"})
            if answer.status_code == 429:
                assert answer.headers["Retry-After"] == "1"
                assert "'two' allows 2 requests at once" in answer.json()["error"]["message"]
            return answer.status_code == 429

        gate.pieces.put("la")
        async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as running:
            lines = running.aiter_lines()
            await anext(lines)
            assert not await refused()
            waiting = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            await until(lambda: host.status().waiting == 1)
            assert await refused()
            assert (await client.get("/v1/models")).status_code == 200
            other = await client.post("/v1/embeddings", json={"model": "x", "input": "x"}, headers=bearer("sk-other"))
            assert other.status_code == 404
            waiting.cancel()
            await asyncio.wait([waiting])
            await until(lambda: host.status().waiting == 0)
            while await refused():  # the server is about to end the task of the client that left
                pass
            gate.pieces.put(None)
            assert "[DONE]" in [line.removeprefix("data: ") async for line in lines]
        for _ in range(2):  # both places are free
            left = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            await until(lambda: host.status().running == 1)
            assert not await refused()
            left.cancel()
            await asyncio.wait([left])
            await until(lambda: host.status().running == 0)


async def test_a_key_is_the_queues_client() -> None:
    """The queue knows requests by the name of their key, from any address; the priority of a trusted key counts."""
    host = make_host(trusted_clients=["little"])
    app = create_app(host)
    for address in ("192.0.2.1", "192.0.2.2"):
        answer = await ask(app, "/strange", headers=bearer("sk-all"), scope_base={"client": (address, 1)})
        assert (await answer.get_json())[1] == "everything"
    for secret, ignored in (("sk-all", "X-Priority"), ("sk-little", None)):
        answer = await ask(app, "/strange", headers={**bearer(secret), "X-Priority": "high"})
        assert answer.headers.get("x-lllms-ignored") == ignored


# -- clients ----------------------------------------------------------------------------------------------------------


def test_real_clients_use_keys() -> None:
    """OpenAI's client and Anthropic's raise their errors of authentication, permission and rate, and work with keys."""
    keys = [*KEYS, {"name": "slow", "key": "sk-slow", "requests_per_minute": 1}]
    with running_server(MODELS, api_keys=keys) as url:
        def open_ai(secret: str) -> openai.OpenAI:
            return openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)

        def claude(secret: str) -> anthropic.Anthropic:
            return anthropic.Anthropic(base_url=url, api_key=secret, max_retries=0)

        with open_ai("wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(**CHAT)
        assert refused.value.code == "invalid_api_key"
        with open_ai("sk-little") as client:
            assert [model.id for model in client.models.list()] == ["tiny"]
            assert client.chat.completions.create(**CHAT).choices[0].message.content == "one two"
            with pytest.raises(openai.NotFoundError) as unknown:
                client.chat.completions.create(**{**CHAT, "model": "large"})
            assert unknown.value.code == "model_not_found"
        with open_ai("sk-slow") as client:
            client.chat.completions.create(**CHAT)
            with pytest.raises(openai.RateLimitError) as limited:
                client.chat.completions.create(**CHAT)
            assert limited.value.code == "rate_limit_exceeded"
        with claude("wrong") as other, pytest.raises(anthropic.AuthenticationError):
            other.messages.create(**CHAT, max_tokens=5)
        with claude("sk-all") as other:
            assert other.messages.create(**CHAT, max_tokens=5).content[0].text
        with claude("sk-slow") as other, pytest.raises(anthropic.RateLimitError):
            other.messages.create(**CHAT, max_tokens=5)


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("server", "host", "origin", "passes"), [
    ({}, "localhost:3000", "http://localhost:3000", True),
    ({}, "localhost:3000", "http://127.0.0.1:5173", True),
    ({}, "127.0.0.1:3000", "https://evil.example", False),
    ({}, "127.0.0.1:3000", "http://localhost.evil.example", False),
    ({}, "127.0.0.1:3000", "null", False),
    ({}, "127.0.0.1:3000", "", False),
    ({}, "127.0.0.1:3000", "http://", False),
    ({}, "127.0.0.1:3000", "vscode-webview://1a2b", True),
    ({"cors_origins": ["https://evil.example"]}, "127.0.0.1", "https://evil.example", True),
    ({"cors_origins": ["null"]}, "127.0.0.1", "null", True),
    ({"cors_origins": ["*"]}, "127.0.0.1", "https://evil.example", True),
    ({"allowed_hosts": ["chat.example"]}, "chat.example", "https://chat.example", True),
    ({"allowed_hosts": ["*"]}, "any.example:8443", "https://any.example:8443", True),
    ({"allowed_hosts": ["*"]}, "any.example", "https://evil.example", False),
    ({"host": "0.0.0.0"}, "10.0.0.1:3000", "http://10.0.0.1:3000", True),
    ({"host": "0.0.0.0"}, "10.0.0.1:3000", "http://203.0.113.5", False),
    ({"host": "unix:/x"}, "any.example", "https://any.example", True),
    ({"host": "unix:/x"}, "any.example", "https://evil.example", False),
])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_foreign_pages_are_refused(
    server: Mapping[str, object], host: str, origin: str, passes: bool, method: str,
) -> None:
    """A request for a page of another origin is refused; pages of this server, configured ones and programs pass."""
    app = create_app(make_host(api_keys=[], insecure=True, **server))
    answer = await ask(app, "/strange", method, {"Host": host, "Origin": origin})
    assert answer.status_code == (200 if passes else 403)
    if not passes:
        assert "server.cors_origins" in (await answer.get_json())["oops"]
