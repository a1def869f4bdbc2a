"""What HTTP and the command line show of sessions, and how they delete them."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve
from click.testing import CliRunner
from quart.typing import TestClientProtocol as HttpClient
from serving_for_tests import published
from test_sessions import TINY, ask, cached, serving, settled, tell, unload

from lllms_core.apis.own_machine import is_of_this_machine
from lllms_core.app import create_app
from lllms_core.cli import cli
from lllms_core.host import Host

pytestmark = pytest.mark.slow


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """A server that has stored two conversations."""
    async with serving(model={"isolation": "thread", "aliases": ["small"]}) as host:
        await tell(host, "blimp")
        await tell(host, "zebra")
        await unload(host)
        yield host


@pytest.fixture
def client(host: Host) -> HttpClient:
    """A client of that server."""
    return create_app(host, manage_host=False).test_client()


async def test_sessions_are_told_of(client: HttpClient) -> None:
    """Model, tokens, bytes, last use and place are shown, but no text."""
    response = await client.get("/api/v1/sessions")
    listed = await response.get_json()
    assert [one["model"] for one in listed["data"]] == ["tiny", "tiny"]
    assert all(one["tokens"] > 16 and one["bytes"] > 1000 and one["where"] == "memory" for one in listed["data"])
    assert set(listed["data"][0]) == {"id", "object", "model", "tokens", "bytes", "last_used", "where"}
    assert "zebra" not in await response.get_data(as_text=True)
    of_model = await (await client.get("/api/v1/sessions?model=small")).get_json()
    assert of_model == listed


async def test_sessions_are_forgotten(client: HttpClient, host: Host) -> None:
    """One session can be deleted by its id, or all at once; an unknown id is a 404."""
    first, second = [one.id for one in await host.sessions.list()]
    assert await (await client.delete(f"/api/v1/sessions/{first}")).get_json() == {"deleted": [first]}
    assert [one.id for one in await host.sessions.list()] == [second]
    assert (await client.delete(f"/api/v1/sessions/{first}")).status_code == 404
    assert await (await client.delete("/api/v1/sessions")).get_json() == {"deleted": [second]}
    assert await (await client.get("/api/v1/sessions")).get_json() == {"object": "list", "data": []}


async def test_instances_tell_what_they_hold() -> None:
    """A conversation that is not stored yet is listed, too, with its instance; a preload is not."""
    preload = {"preload": {"prefix": "You are a friendly bot who helps people."}}
    async with serving("none", model=preload) as host:
        client = create_app(host, manage_host=False).test_client()
        assert (await (await client.get("/api/v1/sessions")).get_json())["data"] == []
        said = await tell(host, "blimp")
        [one] = (await (await client.get("/api/v1/sessions")).get_json())["data"]
        [instance] = host.pool.status().instances
        assert (one["where"], one["model"]) == (instance.id, "tiny")
        assert one["tokens"] > 16
        assert one["bytes"] > 1000
        assert await (await client.get(f"/api/v1/sessions/{one['id']}")).get_json() == one
        assert await (await client.delete(f"/api/v1/sessions/{one['id']}")).get_json() == {"deleted": [one["id"]]}
        assert cached(await ask(host, *said, "What is the secret word?")) < 10


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("one_by_one", [False, True])
async def test_what_is_forgotten_is_nowhere(isolation: str, one_by_one: bool) -> None:
    """Deleted sessions cannot be resumed: not from the store, not from an instance, and not after its unloading."""
    async with serving(model={"isolation": isolation}, kept_tokens=1000) as host:
        client = create_app(host, manage_host=False).test_client()
        said = await tell(host, "blimp")
        await unload(host)
        said += ["What is the secret word?", (await ask(host, *said, "What is the secret word?")).text]
        await settled(host)
        kept = await tell(host, "zebra")
        listed = (await (await client.get("/api/v1/sessions")).get_json())["data"]
        places = {one["where"] for one in listed}
        assert len(places) == 2  # the store, and the instance
        if one_by_one:
            [stored] = [one["id"] for one in listed if one["where"] == "memory"]
            assert (await client.delete(f"/api/v1/sessions/{stored}")).status_code == 200
        else:
            await client.delete("/api/v1/sessions?model=tiny")
            assert (await (await client.get("/api/v1/sessions")).get_json())["data"] == []
            await unload(host)
            assert list(await host.sessions.list()) == []
        assert cached(await ask(host, *said, "What is the secret word?")) < 20
        if one_by_one:
            assert cached(await ask(host, *kept, "What is the secret word?")) > 20


async def test_what_an_instance_holds_is_forgotten_in_the_store_too() -> None:
    """A conversation that is deleted in its instance is also deleted in the store that it came from."""
    async with serving(model={"isolation": "thread"}, kept_tokens=1000) as host:
        client = create_app(host, manage_host=False).test_client()
        said = await tell(host, "blimp")
        await unload(host)
        said += ["What is the secret word?", (await ask(host, *said, "What is the secret word?")).text]
        await settled(host)
        stored, held = sorted((await host.session_index.list()), key=lambda one: one.where != "memory")
        response = await client.delete(f"/api/v1/sessions/{held.id}")
        assert await response.get_json() == {"deleted": [held.id, stored.id]}
        assert await host.session_index.list() == []
        assert cached(await ask(host, *said, "What is the secret word?")) == 0


async def test_running_conversation_is_forgotten_at_its_end() -> None:
    """A conversation that is being answered when all are deleted is completed, and then deleted."""
    async with serving("none", slots=1) as host:
        text = "My name is Bob. The secret word is blimp. Do not forget it."
        request = host.request("tiny", prompt=text, parameters={"ignore_eos": True, "max_tokens": 300})
        async with host.submit(request) as stream:
            deltas = aiter(stream)
            await anext(deltas)
            [running] = await host.session_index.forget_all()
            assert running
            assert await host.session_index.list() == []
            await stream.gather()
        assert await host.session_index.list() == []
        again = host.request("tiny", prompt=text, parameters={"max_tokens": 1})
        async with host.submit(again) as stream:
            assert cached(await stream.gather()) == 0


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_instance_that_is_unloaded_meanwhile_leaves_nothing(isolation: str) -> None:
    """Sessions that an instance stores during its unloading are deleted, too, if all are deleted at that moment."""
    async with serving(model={"isolation": isolation}) as host:
        await tell(host, "blimp")
        [instance] = host.pool._scheduler.instances.values()
        host.pool._dispatcher.apply([host.pool._scheduler.placing.stop(instance)])
        await host.session_index.forget_all()
        assert host.pool.status().instances == ()
        assert await host.session_index.list() == []


async def test_text_is_told_if_asked(client: HttpClient, host: Host) -> None:
    """The text of a session is given only on request, by the model, which is loaded for it."""
    ids = [one.id for one in await host.sessions.list()]
    for plain in (f"/api/v1/sessions/{ids[0]}", f"/api/v1/sessions/{ids[0]}?text=false"):
        assert "text" not in await (await client.get(plain)).get_json()
    assert host.pool.status().instances == ()
    texts = [(await (await client.get(f"/api/v1/sessions/{one}?text=true")).get_json())["text"] for one in ids]
    for secret in ("blimp", "zebra"):
        assert sum(f"The secret word is {secret}" in text for text in texts) == 1
    assert (await client.get("/api/v1/sessions/none?text=true")).status_code == 404
    assert (await client.get("/api/v1/sessions/none")).status_code == 404
    assert (await client.get(f"/api/v1/sessions/{ids[0]}?text=yes")).status_code == 400


async def test_text_is_told_on_this_machine_only(client: HttpClient, host: Host) -> None:
    """If others can use the server, they cannot read texts; counts and deletion are open to all."""
    [one, _] = await host.sessions.list()
    path = f"/api/v1/sessions/{one.id}"
    for address, status in (("127.0.0.1", 200), ("192.168.1.1", 200), ("192.168.1.7", 403)):
        scope = {"client": (address, 4711), "server": ("192.168.1.1", 3000)}
        assert (await client.get(f"{path}?text=true", scope_base=scope)).status_code == status
        assert (await client.get(path, scope_base=scope)).status_code == 200


@pytest.mark.parametrize(("address", "here"), [
    ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), (None, True),
    ("<local>", True), ("10.0.0.1", True), ("10.0.0.2", False), ("fe80::1%eth0", False), ("::ffff:10.0.0.2", False),
])
def test_own_machine_is_told_by_address(address: str | None, here: bool) -> None:
    """A client is on this machine if its address loops back, equals the called one, or is missing."""
    assert is_of_this_machine(address, "10.0.0.1") is here


async def test_text_of_another_model_is_not_guessed(tmp_path: Path) -> None:
    """Tokens of a file that was changed since, or of a model that is gone, are not turned into text."""
    file = tmp_path / "model.gguf"
    file.write_bytes(TINY.read_bytes())
    async with serving(tmp_path / "sessions", file) as host:
        await tell(host, "blimp")
    os.utime(file, (1, 1))
    async with serving(tmp_path / "sessions", file) as host:
        client = create_app(host, manage_host=False).test_client()
        [one] = await host.session_index.list()
        response = await client.get(f"/api/v1/sessions/{one.id}?text=true")
        assert response.status_code == 400
        assert "another file, version or configuration" in (await response.get_json())["error"]["message"]
        entry = (await host.sessions.list())[0]
        host.sessions.store.put(evolve(entry, id="gone", model="gone"), host.sessions.store.get(entry.id))
        response = await client.get("/api/v1/sessions/gone?text=true")
        assert response.status_code == 404
        assert "no model 'gone'" in (await response.get_json())["error"]["message"]


@pytest.mark.parametrize(("query", "status"), [("model=none", 404), ("modle=tiny", 400)])
async def test_wrong_questions_are_refused(client: HttpClient, query: str, status: int) -> None:
    """With an unknown model, or an unknown parameter, nothing is deleted."""
    assert (await client.delete(f"/api/v1/sessions?{query}")).status_code == status
    assert len((await (await client.get("/api/v1/sessions")).get_json())["data"]) == 2


async def test_command_line_shows_and_forgets(host: Host) -> None:
    """`lllms sessions ls` shows what a running server has stored, `rm` deletes sessions."""
    async with published(host) as url:
        async def lllms(*words: str, code: int = 0) -> str:
            result = await asyncio.to_thread(CliRunner().invoke, cli, ["sessions", *words, "--url", url])
            assert result.exit_code == code, result.output
            assert ("there is nothing at /api/v1/sessions/nothing" in result.stderr) == (code == 1)
            return result.stdout

        shown = await lllms("ls")
        ids = [one.id for one in await host.sessions.list()]
        assert [line.split()[0] for line in shown.splitlines()] == [*ids, "2"]
        assert "secret" not in await lllms("show", ids[0])
        assert "The secret word is" in await lllms("show", ids[0], "--text")
        assert "model tiny: " in await lllms("show", ids[0])
        assert await lllms("rm", ids[0], "nothing", ids[0], code=1) == "1 sessions forgotten\n"
        assert await lllms("rm", "--all", "--model", "tiny") == "1 sessions forgotten\n"
        assert await lllms("ls") == "0 sessions, 0.0 MiB\n"
