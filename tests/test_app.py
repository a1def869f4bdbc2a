import asyncio
import re
from socket import gethostname
from typing import Any

import pytest
from quart import Blueprint, Quart

from lllms_core.apis import Api, Fault, Paths, Server
from lllms_core.app import create_app, is_own_name, mount
from lllms_core.config import ServerConfig, parse_config
from lllms_core.errors import Overloaded
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins


class Faulty(Api):
    name = "faulty"

    def blueprint(self, server: Server) -> Blueprint:
        routes = Blueprint("faulty", __name__)

        @routes.get("/faulty")
        async def fail() -> str:
            raise ValueError("a secret")

        return routes


class Broken(Api):
    name = "broken"

    def blueprint(self, server: Server) -> Blueprint:
        raise ValueError("no routes today")


class Shaped(Api):
    name = "shaped"

    def blueprint(self, server: Server) -> Blueprint:
        routes = Blueprint("shaped", __name__)

        @routes.get("/shaped")
        async def fail() -> str:
            raise Overloaded("come back later", 7)

        return routes

    def describe(self, server: Server) -> Paths:
        raise ValueError("beyond words")

    def fault(self, fault: Fault) -> object:
        return {"oops": fault.message}


class Extra:
    @hookimpl
    def lllms_apis(self) -> list[Api]:
        return [Faulty(), Broken(), Shaped()]


def make_host(**server: object) -> Host:
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "mock"}, extra={"extra": Extra()})
    return Host(parse_config({"server": server}), plugins)


async def get(host: Host, path: str, method: str = "GET", **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    client: Any = create_app(host).test_client()
    return await client.open(path, method=method, headers=names)


@pytest.mark.parametrize(
    "name",
    ["localhost", "localhost:3000", "LOCALHOST.", "my.localhost", "127.0.0.1:1", "127.1.2.3", "[::1]:3000", "[::1]",
     "host.docker.internal", "host.docker.internal:3000", "Host.Docker.Internal.", "gateway.internal", "box.local",
     "Box.local.:3000", "a.b.local", "workstation", "workstation:3000", "Workstation.corp.example."],
)
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
async def test_this_machines_names_are_answered(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for loopback, for this machine's name, and for names that no page can point at it, pass."""
    monkeypatch.setattr("lllms_core.app.gethostname", lambda: "workstation.Corp.example")
    assert (await get(make_host(), path, Host=name)).status_code != 403


async def test_the_name_of_the_real_machine_is_answered() -> None:
    """The name that the system reports is one of those."""
    assert (await get(make_host(), "/v1/models", Host=f"{gethostname()}:3000")).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["evil.example", "evil.example:3000", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "local.example",
     "box.local.evil.example", "evillocal", "internal", "docker.internal.example", "other.corp.example", "local",
     "xworkstation", "workstation.evil.example", "corp.example"],
)
@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere"])
async def test_other_names_are_refused(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page whose name was made to resolve to this machine reads nothing, and the owner learns what to do."""
    monkeypatch.setattr("lllms_core.app.gethostname", lambda: "workstation.corp.example")
    answer = await get(make_host(), path, Host=name)
    assert answer.status_code == 403
    assert "server.allowed_hosts" in (await answer.get_json())["error"]["message"]


def test_configured_names_are_answered() -> None:
    """`allowed_hosts` and the bound name pass, `*` lets all pass; a server bound to all addresses answers at each."""
    assert is_own_name("box.lan", ServerConfig(allowed_hosts=("Box.lan",)))
    assert not is_own_name("other.lan", ServerConfig(allowed_hosts=("box.lan",)))
    assert is_own_name("any.example", ServerConfig(allowed_hosts=("*",)))
    assert is_own_name("box.lan", ServerConfig(host="box.lan", allow_remote=True))
    assert is_own_name("10.0.0.1", ServerConfig(host="10.0.0.1", allow_remote=True))
    assert not is_own_name("10.0.0.2", ServerConfig(host="10.0.0.1", allow_remote=True))
    assert is_own_name("10.0.0.2", ServerConfig(host="0.0.0.0", allow_remote=True))
    assert not is_own_name("evil.example", ServerConfig(host="0.0.0.0", allow_remote=True))


async def test_no_page_may_call_unless_configured() -> None:
    """Without `cors_origins` no answer has a CORS header, not even one to a preflight."""
    for method in ("GET", "OPTIONS"):
        answer = await get(
            make_host(), "/v1/models", method, Origin="https://page.example", Access_Control_Request_Method="POST",
        )
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("origins", [["https://page.example"], ["*"]])
async def test_configured_pages_may_call(origins: list[str]) -> None:
    """A configured origin gets its CORS headers, even on refusals, and its preflight is answered."""
    host = make_host(cors_origins=origins)
    answer = await get(host, "/nowhere", Origin="https://page.example")
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (404, "https://page.example")
    answer = await get(
        host, "/v1/chat/completions", "OPTIONS", Origin="https://page.example", Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization,content-type",
    )
    assert answer.status_code == 204
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert answer.headers["Vary"] == "Origin"


async def test_other_pages_may_not_call() -> None:
    """An origin that is not configured gets no header that would let it read the answer."""
    answer = await get(make_host(cors_origins=["https://page.example"]), "/v1/models", Origin="https://evil.example")
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not_found"), ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
     ("POST", "/v1/nowhere", 404, "not_found")],
)
async def test_unknown_routes_are_told_in_json(method: str, path: str, status: int, code: str) -> None:
    """A wrong path or method is answered in the common shape of errors."""
    answer = await get(make_host(), path, method)
    assert (answer.status_code, (await answer.get_json())["error"]["code"]) == (status, code)
    assert status != 405 or "POST" in answer.headers["Allow"]


async def test_unexpected_errors_are_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in a route is a 500 without details; the log has the traceback."""
    answer = await get(make_host(), "/faulty")
    assert answer.status_code == 500
    assert b"secret" not in await answer.get_data()
    assert "a secret" in caplog.text


async def test_an_api_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The other APIs are served, and the log names the broken API and its plugin."""
    assert (await get(make_host(), "/v1/models")).status_code == 200
    assert "API 'broken' of plugin 'extra' is left out" in caplog.text
    assert "no routes today" in caplog.text


async def test_the_app_starts_and_closes_the_host() -> None:
    """The application starts and closes the host with its own lifespan."""
    host = make_host()
    async with create_app(host).test_app() as running:
        assert (await running.test_client().get("/health")).status_code == 200
        assert host.ready
    assert not host.ready


async def test_a_started_host_is_left_alone() -> None:
    """A host that was already started is left for its starter to close."""
    async with make_host() as host:
        async with create_app(host).test_app():
            pass
        assert host.ready


async def test_the_apis_fit_into_another_application() -> None:
    """`mount` adds the routes below a prefix, beside the application's own routes."""
    app = Quart("mine")

    @app.get("/")
    async def home() -> str:
        return "mine"

    async with make_host() as host:
        mount(app, host, prefix="/llm")
        client = app.test_client()
        assert await (await client.get("/")).get_data() == b"mine"
        assert (await client.get("/llm/v1/models")).status_code == 200
        body = {"model": "mock", "messages": [{"role": "user", "content": "Hi"}]}
        answer = await client.post("/llm/v1/chat/completions", json=body)
        assert (await answer.get_json())["choices"][0]["finish_reason"] == "stop"
        answer = await client.post("/llm/v1/chat/completions", json={})
        assert (await answer.get_json())["error"]["param"] == "messages"


async def test_what_is_mounted_below_a_prefix_tells_right_paths() -> None:
    """The description and the status page name the paths at which this server answers, prefix included."""
    app = Quart("mine")
    host = make_host()
    mount(app, host, prefix="/llm")
    client = app.test_client()
    paths = (await (await client.get("/llm/openapi.json")).get_json())["paths"]
    assert {"/llm/v1/models", "/llm/api/v1/sessions"} <= set(paths)
    assert all(path.startswith("/llm/") for path in paths)
    served = {re.sub(r"<(\w+:)?(\w+)>", "{}", rule.rule) for rule in app.url_map.iter_rules()}
    assert {re.sub(r"\{\w+\}", "{}", path) for path in paths} <= served  # also of APIs with prefixes of their own
    page = await (await client.get("/llm/", headers={"Accept": "text/html"})).get_data(as_text=True)
    assert "<code>/llm/v1/chat/completions</code>" in page
    plain = await (await get(host, "/", Accept="text/html")).get_data(as_text=True)
    assert "<code>/v1/chat/completions</code>" in plain


async def test_errors_have_the_shape_of_their_api() -> None:
    """Errors have the shape that their API defines, wherever it is mounted; a broken description excludes only it."""
    host = make_host()
    app = Quart("mine")
    mount(app, host, prefix="/llm")
    client = app.test_client()
    answer = await client.get("/llm/shaped")
    assert (answer.status_code, await answer.get_json()) == (503, {"oops": "come back later"})
    assert answer.headers["Retry-After"] == "7"
    answer = await client.get("/llm/health?ready=perhaps")
    assert (answer.status_code, (await answer.get_json())["error"]["param"]) == (400, "ready")
    described = await (await client.get("/llm/openapi.json")).get_json()
    assert "/llm/v1/models" in described["paths"]


async def test_only_very_long_bodies_are_refused_unread() -> None:
    """A body beyond the limit is refused after it was read, one far beyond it at once; neither is kept."""
    from lllms_core.web.body import DISCARD, PatientBody

    body = PatientBody(None, 10)
    waiting = asyncio.ensure_future(_read(body))
    for size in (11, 100, DISCARD):
        await asyncio.sleep(0)
        assert not waiting.done()
        body.append(b" " * size)
    assert await waiting == "too large"
    assert body._data == b""


async def _read(body: Any) -> str:
    from werkzeug.exceptions import RequestEntityTooLarge

    with pytest.raises(RequestEntityTooLarge):
        await body
    return "too large"
