"""A path that two APIs serve: the header that one of them names decides, and so do the shapes of their errors."""

from quart import Blueprint, Quart

from lllms_core.apis import Api, Fault, Server
from lllms_core.app import create_app, mount
from lllms_core.config import parse_config
from lllms_core.errors import InvalidRequest
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins

SPEAKS = {"x-dialect": "other"}


class Plain(Api):
    name = "zebra"  # the header decides, not the order of the names

    def blueprint(self, server: Server) -> Blueprint:
        return routes(self.name)


class Other(Api):
    name = "aardvark"
    header = "x-dialect"

    def blueprint(self, server: Server) -> Blueprint:
        made = routes(self.name)
        made.add_url_rule("/own", "own", lambda: "aardvark")
        return made

    def fault(self, fault: Fault) -> object:
        return {"oops": fault.code}

    def status(self, fault: Fault) -> int:
        return 418 if fault.code == "invalid_request" else fault.status


def routes(name: str) -> Blueprint:
    """The same paths for each API."""
    made = Blueprint(name, __name__)

    @made.get("/same/<path:one>")
    async def same(one: str) -> str:
        if one == "bad":
            raise InvalidRequest("bad")
        return f"{name} {one}"

    made.add_url_rule("/posted", "posted", lambda: name, methods=["POST"] if name == "zebra" else ["PUT"])
    return made


class Both:
    @hookimpl
    def lllms_apis(self) -> list[Api]:
        return [Plain(), Other()]


def host() -> Host:
    return Host(parse_config({}), Plugins.discover(environ={"LLLMS_PLUGINS": "mock"}, extra={"both": Both()}))


async def test_a_header_decides_who_answers() -> None:
    """Requests with the header reach the API that names it, and all others the one that names none."""
    client = create_app(host()).test_client()
    for headers, name in (({}, "zebra"), (SPEAKS, "aardvark"), ({"X-DIALECT": ""}, "aardvark")):
        answer = await client.get("/same/a/b", headers=headers)
        assert await answer.get_data(as_text=True) == f"{name} a/b"


async def test_a_path_of_one_api_needs_no_header() -> None:
    """Where only one API serves a path, or a method of it, that one answers whatever the headers say."""
    client = create_app(host()).test_client()
    for headers in ({}, SPEAKS):
        assert await (await client.get("/own", headers=headers)).get_data() == b"aardvark"
        assert await (await client.post("/posted", headers=headers)).get_data() == b"zebra"
        assert await (await client.put("/posted", headers=headers)).get_data() == b"aardvark"


async def test_faults_have_the_shape_of_the_dialect() -> None:
    """Faults of a route, of a check before it, and of requests that reach no route have the header's shape."""
    client = create_app(host()).test_client()
    asked = (("/same/bad", 400, 418), ("/nowhere", 404, 404), ("/same/a", 403, 403))
    for path, plain, other in asked:
        named = {"Host": "evil.example"} if plain == 403 else {}
        answer = await client.get(path, headers=named)
        assert (answer.status_code, set(await answer.get_json())) == (plain, {"error"})
        answer = await client.get(path, headers={**SPEAKS, **named})
        assert (answer.status_code, set(await answer.get_json())) == (other, {"oops"})
    answer = await client.delete("/same/a", headers=SPEAKS)
    assert (answer.status_code, await answer.get_json()) == (405, {"oops": "method_not_allowed"})


async def test_the_same_holds_in_an_application_of_ones_own() -> None:
    """Mounted under a prefix, the APIs share their paths, too; the application's own routes are left alone."""
    app = Quart("mine")
    app.add_url_rule("/same/<path:one>", "mine", lambda one: f"mine {one}")
    mount(app, host(), prefix="/llm")
    client = app.test_client()
    for path, headers, said in (
        ("/llm/same/x", {}, "zebra x"), ("/llm/same/x", SPEAKS, "aardvark x"), ("/same/x", SPEAKS, "mine x"),
    ):
        assert await (await client.get(path, headers=headers)).get_data(as_text=True) == said
