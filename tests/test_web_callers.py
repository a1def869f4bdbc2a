"""Clients as the queue knows them: addresses, keys, priorities and patience, for every dialect over HTTP."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from gates_for_tests import Gate, gated
from quart import Blueprint, Quart, jsonify
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.apis import Api, Fault, Server
from lllms_core.app import create_app, mount
from lllms_core.caller import CALLER, Caller
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.types import Message

pytestmark = pytest.mark.slow

NAMES = "Supported values are: 'low', 'normal', 'high'."


class Mirror(Api):
    """A plugin's dialect that does nothing about callers: its route shows what the queue would know."""

    name = "mirror"

    def blueprint(self, server: Server) -> Blueprint:
        routes = Blueprint("mirror", __name__)

        @routes.get("/caller")
        async def show() -> Any:
            caller = CALLER.get()
            return jsonify([caller.client, caller.priority, caller.patience])

        return routes

    def fault(self, fault: Fault) -> object:
        return {"oops": fault.message}


class MirrorPlugin:
    @hookimpl
    def lllms_apis(self) -> list[Api]:
        return [Mirror()]


async def mirrored(
    host: Host, address: str = "192.0.2.1", headers: Mapping[str, str] = MappingProxyType({}),
    *, app: Quart | None = None,
) -> Any:
    client: Any = (app or create_app(host, manage_host=False)).test_client()
    return await client.get("/caller", headers=headers, scope_base={"client": (address, 1234)})


async def known(host: Host, address: str = "192.0.2.1", **headers: str) -> list[Any]:
    answer = await mirrored(host, address, {name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status_code == 200
    told: list[Any] = await answer.get_json()
    return told


async def test_a_client_is_an_address_and_a_key() -> None:
    """Requests with one address and one key have one client; keys are in it only as a hash with a secret."""
    async with gated(Gate(), {"mirror": MirrorPlugin()}) as host:
        names = [
            (await known(host, address, **headers))[0]
            for address in ("192.0.2.1", "192.0.2.2") for headers in (
                {}, {"Authorization": "Bearer open sesame"}, {"Authorization": "Bearer other"}, {"X-Api-Key": "sesame"},
            )
        ]
        again = (await known(host, Authorization="Bearer open sesame"))[0]
    assert len(set(names)) == 8
    assert names[0] == "192.0.2.1"
    assert again == names[1]
    assert not any("sesame" in name or "Bearer" in name for name in names)


async def test_nothing_of_a_request_stays_behind_it() -> None:
    """Outside of a request there is no caller, so that a program that embeds the host is one client."""
    async with gated(Gate(), {"mirror": MirrorPlugin()}, trusted_clients=["192.0.2.1"]) as host:
        assert await known(host, X_Priority="high", X_Queue_Timeout="2.5") == ["192.0.2.1", "high", 2.5]
        assert CALLER.get() == Caller()
        assert await known(host) == ["192.0.2.1", None, None]


@pytest.mark.parametrize(("trusted", "address", "expected"), [
    ([], "127.0.0.1", None),
    (["192.0.2.1"], "192.0.2.1", "high"),
    (["192.0.2.1"], "192.0.2.2", None),
    (["10.0.0.0/8", "fd00::/8"], "10.1.2.3", "high"),
    (["10.0.0.0/8"], "::ffff:10.1.2.3", "high"),
    (["10.0.0.0/8", "fd00::/8"], "fd00::1", "high"),
    (["fe80::/10"], "fe80::1%eth0", "high"),
    (["0.0.0.0/0", "::/0"], "<local>", None),
])
async def test_only_trusted_clients_set_a_priority(trusted: Sequence[str], address: str, expected: str | None) -> None:
    """The header works from trusted addresses and networks; elsewhere it has no effect, and the answer names it."""
    async with gated(Gate(), {"mirror": MirrorPlugin()}, trusted_clients=trusted) as host:
        answer = await mirrored(host, address, {"X-Priority": "HIGH"})
        assert (await answer.get_json())[1] == expected
    assert answer.headers.get("x-lllms-ignored") == (None if expected else "X-Priority")


async def test_a_wrong_header_is_refused_in_the_words_of_the_dialect() -> None:
    """A wrong priority of a trusted client, or a wrong time, is a 400 that names the values; not that of others."""
    async with gated(Gate(), {"mirror": MirrorPlugin()}, trusted_clients=["192.0.2.1"]) as host:
        wrong = await mirrored(host, headers={"X-Priority": "9"})
        assert (wrong.status_code, await wrong.get_json()) == (400, {"oops": f"Invalid value: '9'. {NAMES}"})
        assert (await mirrored(host, "192.0.2.2", {"X-Priority": "9"})).status_code == 200
        for seconds in ("soon", "-1", "nan", "inf", ""):
            wrong = await mirrored(host, headers={"X-Queue-Timeout": seconds})
            assert wrong.status_code == 400
            assert f"but got '{seconds}' instead" in (await wrong.get_json())["oops"]


async def test_mounted_routes_know_their_callers_too() -> None:
    """In an application of somebody else, the mounted routes know their callers as in one of our own."""
    async with gated(Gate(), {"mirror": MirrorPlugin()}) as host:
        app = Quart(__name__)
        mount(app, host)
        answer = await mirrored(host, app=app)
        assert await answer.get_json() == ["192.0.2.1", None, None]


# -- a real server ----------------------------------------------------------------------------------------------------


class Line:
    """Sends chats to a server whose model has one slot, and notes the order in which they are answered."""

    def __init__(self, host: Host, gate: Gate, client: httpx.AsyncClient) -> None:
        self.host, self.gate, self.client = host, gate, client
        self.answers: dict[str, httpx.Response] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, name: str, path: str = "/v1/chat/completions", **headers: str) -> None:
        """Send a request, and return once it runs or waits."""
        body = {"model": "gate", "messages": [{"role": "user", "content": "Hi"}]}

        async def ask() -> None:
            given = {key.replace("_", "-"): value for key, value in headers.items()}
            self.answers[name] = await self.client.post(path, json=body, headers=given)

        before = self.host.status().waiting + self.host.status().running
        self._tasks.append(asyncio.create_task(ask()))
        await until(lambda: self.host.status().waiting + self.host.status().running > before)

    async def answer_all(self) -> list[str]:
        """Let the model answer one after the other; return the names in the order of the answers."""
        for _ in self._tasks:
            done = len(self.answers)
            self.gate.pieces.put(None)
            await until(lambda done=done: len(self.answers) > done)  # type: ignore[misc]
        await asyncio.gather(*self._tasks)
        return list(self.answers)


async def in_line(asked: Sequence[tuple[str, Mapping[str, str]]], **server: object) -> Line:
    """Send these requests, named, in this order to one slot, and return all answers."""
    gate = Gate()
    gate.load.set()
    async with (
        asyncio.timeout(GUARD), gated(gate, concurrency=1, **server) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        line = Line(host, gate, client)
        for name, headers in asked:
            await line.ask(name, **headers)
        await line.answer_all()
    return line


async def test_keys_take_turns() -> None:
    """A request with another key does not wait for all that were sent before it with one key."""
    many, single = {"Authorization": "Bearer many"}, {"Authorization": "Bearer single"}
    line = await in_line([*((f"m{number}", many) for number in range(5)), ("s", single)])
    assert list(line.answers) == ["m0", "s", "m1", "m2", "m3", "m4"]


async def test_a_trusted_priority_is_heard() -> None:
    """Of the waiting requests of a trusted client, `high` is answered first and `low` last; no answer says ignored."""
    asked = [("first", {}), ("low", {"X-Priority": "low"}), ("normal", {}), ("high", {"X-Priority": "high"})]
    line = await in_line(asked, trusted_clients=["127.0.0.0/8"])
    assert list(line.answers) == ["first", "high", "normal", "low"]
    assert not any("x-lllms-ignored" in answer.headers for answer in line.answers.values())


@pytest.mark.parametrize("stream", [False, True])
async def test_an_ignored_priority_is_named_beside_parameters(stream: bool) -> None:
    """An answer, streamed or not, names the priority of an untrusted client after the parameters without effect."""
    gate = Gate()
    gate.load.set()
    gate.pieces.put(None)
    body = {"model": "gate", "messages": [{"role": "user", "content": "Hi"}], "user": "me", "stream": stream}
    async with gated(gate) as host:
        client: Any = create_app(host, manage_host=False).test_client()
        answer = await client.post("/v1/chat/completions", json=body, headers={"X-Priority": "high"})
    assert answer.status_code == 200
    assert answer.headers["x-lllms-ignored"] == "user, X-Priority"


async def test_patience_ends_with_a_503() -> None:
    """A request that has waited for as long as its header allows is refused with 503 and a time; others still wait."""
    gate = Gate()
    gate.load.set()
    async with (
        asyncio.timeout(GUARD), gated(gate, concurrency=1) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        line = Line(host, gate, client)
        await line.ask("runs")
        await line.ask("waits")
        body = {"model": "gate", "messages": [{"role": "user", "content": "Hi"}]}
        refused = await client.post("/v1/chat/completions", json=body, headers={"X-Queue-Timeout": "0.05"})
        assert await line.answer_all() == ["runs", "waits"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "waited_too_long")
    assert "0.05 s" in refused.json()["error"]["message"]
    assert "X-Queue-Timeout" in refused.json()["error"]["message"]
    assert int(refused.headers["Retry-After"]) >= 1


async def test_status_and_log_show_no_key(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the status, nor the page, nor the log holds a key of a request that runs or waits."""
    gate = Gate()
    gate.load.set()
    caplog.set_level("DEBUG")
    async with (
        asyncio.timeout(GUARD), gated(gate, concurrency=1) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        line = Line(host, gate, client)
        for name in ("runs", "waits"):
            await line.ask(name, Authorization="Bearer opensesame", X_Api_Key="opensesame")
        shown = [(await client.get("/", headers={"Accept": kind})).text for kind in ("application/json", "text/html")]
        await line.answer_all()
    assert all("opensesame" not in text for text in [*shown, caplog.text])


async def test_a_group_keeps_its_caller() -> None:
    """All requests of a batch have the caller that sent it, also those that are queued later, elsewhere."""
    gate = Gate()
    gate.load.set()
    async with asyncio.timeout(GUARD), gated(gate, concurrency=1) as host:
        token = CALLER.set(Caller("batch"))
        try:
            streams = host.submit_all([host.request("gate", messages=[Message("user", "Hi")]) for _ in range(5)])
        finally:
            CALLER.reset(token)
        await until(lambda: host.status().running == 1)
        for _ in range(3):
            gate.pieces.put(None)
        await asyncio.gather(*(stream.gather() for stream in streams[:3]))
        scheduler = host.pool._scheduler
        assert {one.client for one in [*scheduler.waiting.values(), *scheduler.running.values()]} == {"batch"}
        for stream in reversed(streams):
            await stream.aclose()
