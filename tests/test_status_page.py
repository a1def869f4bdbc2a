"""The events that keep the page at `/` up to date, over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gates_for_tests import Gate, gated
from serving_for_tests import published
from test_status import SECRET, make_host
from test_status import chat as ask_for_secrets
from waits_for_tests import GUARD, until

from lllms_core.app import create_app
from lllms_core.builtin.status import live, page_routes
from lllms_core.builtin.status.live import OpenPages
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.types import Message

pytestmark = pytest.mark.slow

EVENTS = "/api/v1/status/events"
SECTIONS = {
    "server", "problems", "memory", "places", "models", "instances", "requests", "ended", "downloads", "spares",
}
BOT = {"engine": "mock", "isolation": "thread"}
KEYS = ["everything: sk-all", {"name": "little", "key": "sk-little", "models": ["tiny"]}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once."""
    monkeypatch.setattr(live, "LOOK", 0.01)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[OpenPages]:
    """The open pages of each application that the test makes."""
    made: list[OpenPages] = []

    class Kept(OpenPages):
        def __init__(self, server: Any) -> None:
            super().__init__(server)
            made.append(self)

    monkeypatch.setattr(page_routes, "OpenPages", Kept)
    return made


async def read(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Yield the types and values of events; "" for the sections that have changed."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
            name = ""


async def test_a_page_hears_what_changes_and_nothing_else() -> None:
    """First it gets every section, then those that change: a request as it waits, answers and ends."""
    gate = Gate()
    async with (
        asyncio.timeout(GUARD), gated(gate) as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client, client.stream("GET", EVENTS) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        events = read(answer)
        name, hello = await anext(events)
        assert (name, hello["key"]) == ("hello", None)
        _, first = await anext(events)
        assert first.keys() == SECTIONS
        state, changed = dict(first), set[str]()

        async def follow(wanted: Any) -> None:
            while not wanted(state):
                _, sections = await anext(events)
                changed.update(sections)
                state.update(sections)

        async with host.submit(host.request("gate", messages=[Message("user", SECRET)])) as stream:
            await follow(lambda now: now["requests"] and now["requests"][0]["state"] == "loading")
            await follow(lambda now: now["models"][0]["state"] == "loading")
            assert state["requests"][0]["id"] == stream.request.id
            gate.load.set()
            for piece in ("one ", "two ", None):
                gate.pieces.put(piece)
            await stream.gather()
        await follow(lambda now: now["ended"] and not now["requests"] and now["instances"][0]["idle_since"])
        [ended] = state["ended"]
        assert (ended["outcome"], ended["tokens"], ended["status"]) == ("stop", 2, 200)
        assert ended["timings"].keys() == {"queued", "load", "prompt", "answer", "first_piece"}
        assert state["models"][0]["state"] == "loaded"
        assert "downloads" not in changed
        assert "spares" not in changed


async def test_nobodys_text_is_among_the_events() -> None:
    """The events tell of requests, and hold neither prompts nor answers."""
    async with (
        asyncio.timeout(GUARD), make_host() as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        await ask_for_secrets(host)
        async with client.stream("GET", EVENTS) as answer:
            got = [json.dumps(event) async for _, event in _take(read(answer), 2)]
    assert "tell" in got[1]
    assert SECRET not in "".join(got)


async def test_a_key_sees_its_models_only() -> None:
    """The events for a key with a list of models tell of no others, nor of their instances and requests."""
    models = {"tiny": BOT, "large": BOT}
    async with (
        asyncio.timeout(GUARD), Host(parse_config({"server": {"api_keys": KEYS}, "models": models})) as host,
        published(host) as url, httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        for model in models:
            async with host.submit(host.request(model, messages=[Message("user", "Hi")])) as stream:
                await stream.gather()
        for secret, key, large in (("sk-all", "everything", True), ("sk-little", "little", False)):
            headers = {"Authorization": f"Bearer {secret}"}
            async with client.stream("GET", EVENTS, headers=headers) as answer:
                (_, hello), (_, first) = [one async for one in _take(read(answer), 2)]
            assert hello["key"] == key
            assert "tiny" in json.dumps(first)
            assert ("large" in json.dumps(first)) is large
        assert (await client.get(EVENTS)).status_code == 401
        assert (await client.get(f"{EVENTS}?key=sk-all")).status_code == 401


async def test_nothing_is_looked_at_while_no_page_is_open(
    monkeypatch: pytest.MonkeyPatch, pages: list[OpenPages],
) -> None:
    """Pages with the same rights share each look; once all have left, nothing of them is kept, and nobody looks."""
    looks = 0
    real = live.make_sections

    def count(seen: Any) -> Any:
        nonlocal looks
        looks += 1
        return real(seen)

    monkeypatch.setattr(live, "make_sections", count)
    monkeypatch.setattr(live, "LOOK", GUARD)  # so that a second look would be one by a second page
    async with (
        asyncio.timeout(GUARD), make_host() as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        assert looks == 0
        open_pages = [client.stream("GET", EVENTS) for _ in range(5)]
        answers = [await one.__aenter__() for one in open_pages]
        for answer in answers:
            assert len([one async for one in _take(read(answer), 2)]) == 2
        assert looks == 1
        for one in open_pages:
            await one.__aexit__(None, None, None)
        await until(lambda: not pages[0]._views)
        assert looks == 1


async def test_only_so_many_pages_are_open(monkeypatch: pytest.MonkeyPatch, pages: list[OpenPages]) -> None:
    """A page too many is refused with a time to try again, and gets its place once another one has left."""
    monkeypatch.setattr(live, "MOST_PAGES", 1)
    async with (
        asyncio.timeout(GUARD), make_host() as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client,
    ):
        async with client.stream("GET", EVENTS) as answer:
            await anext(read(answer))
            refused = await client.get(EVENTS)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
            assert "close one" in refused.json()["error"]["message"]
        await until(lambda: not pages[0].full)
        async with client.stream("GET", EVENTS) as answer:
            assert answer.status_code == 200


async def test_an_idle_connection_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing changes, comments keep the connection open."""
    monkeypatch.setattr(live, "INTERVAL", 0.02)
    async with (
        asyncio.timeout(GUARD), make_host() as host, published(host) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD) as client, client.stream("GET", EVENTS) as answer,
    ):
        async for line in answer.aiter_lines():
            if line == ": alive":
                break
        else:
            pytest.fail("the stream ended")


async def test_pages_do_not_hold_up_the_end_of_the_server() -> None:
    """When the server stops, the events end by themselves, after they have said so."""
    host = make_host()
    await host.start()
    events = OpenPages(host).follow()
    got = [await anext(events), await anext(events)]
    host.pool.stop()
    async with asyncio.timeout(GUARD):
        got += [event async for event in events]
    assert b'"ready":true' in got[1]
    assert b'"ready":false' in got[-1]
    await host.close()


async def test_scripts_are_compared_not_fetched_again() -> None:
    """The script and the style of the page are served with their types, and with tags by which browsers keep them."""
    client = create_app(make_host()).test_client()
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        got = await client.get(f"/api/v1/status/{name}")
        assert (got.status_code, got.mimetype, got.headers["X-Content-Type-Options"]) == (200, kind, "nosniff")
        tag = got.headers["ETag"]
        assert (await client.get(f"/api/v1/status/{name}", headers={"If-None-Match": tag})).status_code == 304


async def _take(events: AsyncIterator[Any], number: int) -> AsyncIterator[Any]:
    for _ in range(number):
        yield await anext(events)
