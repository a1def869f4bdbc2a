"""What HTTP and the command line tell of stored sessions."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner
from hypercorn.asyncio import serve
from hypercorn.config import Config as WebConfig
from quart.typing import TestClientProtocol as HttpClient
from test_sessions import serving, tell, unload

from lllms_core.app import create_app
from lllms_core.cli import cli
from lllms_core.host import Host
from lllms_core.serve import listen


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
    """A client of it."""
    return create_app(host, manage_host=False).test_client()


async def test_sessions_are_told_of(client: HttpClient) -> None:
    """Model, tokens, bytes, last use and place are told, and nothing of what was said."""
    response = await client.get("/api/v1/sessions")
    listed = await response.get_json()
    assert [one["model"] for one in listed["data"]] == ["tiny", "tiny"]
    assert all(one["tokens"] > 16 and one["bytes"] > 1000 and one["store"] == "memory" for one in listed["data"])
    assert set(listed["data"][0]) == {"id", "object", "model", "tokens", "bytes", "last_used", "store"}
    assert "zebra" not in await response.get_data(as_text=True)
    of_model = await (await client.get("/api/v1/sessions?model=small")).get_json()
    assert of_model == listed


async def test_sessions_are_forgotten(client: HttpClient, host: Host) -> None:
    """One session can be forgotten by its id, or all at once; one that there is not is a 404."""
    first, second = [one.id for one in await host.sessions.list()]
    assert await (await client.delete(f"/api/v1/sessions/{first}")).get_json() == {"deleted": [first]}
    assert [one.id for one in await host.sessions.list()] == [second]
    assert (await client.delete(f"/api/v1/sessions/{first}")).status_code == 404
    assert await (await client.delete("/api/v1/sessions")).get_json() == {"deleted": [second]}
    assert await (await client.get("/api/v1/sessions")).get_json() == {"object": "list", "data": []}


@pytest.mark.parametrize(("query", "status"), [("model=none", 404), ("modle=tiny", 400)])
async def test_wrong_questions_are_refused(client: HttpClient, query: str, status: int) -> None:
    """A model that there is not, or a parameter that there is not, deletes nothing."""
    assert (await client.delete(f"/api/v1/sessions?{query}")).status_code == status
    assert len((await (await client.get("/api/v1/sessions")).get_json())["data"]) == 2


async def test_command_line_shows_and_forgets(host: Host) -> None:
    """`lllms sessions ls` shows what a running server has stored, `rm` lets it forget."""
    socket = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    config = WebConfig()
    config.bind = [f"fd://{socket.detach()}"]
    stop = asyncio.Event()
    server = asyncio.create_task(serve(create_app(host, manage_host=False), config, shutdown_trigger=stop.wait))

    async def lllms(*words: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["sessions", *words, "--url", url])
        assert result.exit_code == 0, result.output
        return result.stdout

    shown = await lllms("ls")
    ids = [one.id for one in await host.sessions.list()]
    assert [line.split()[0] for line in shown.splitlines()] == [*ids, "2"]
    assert await lllms("rm", ids[0]) == "1 sessions forgotten\n"
    assert await lllms("rm", "--all", "--model", "tiny") == "1 sessions forgotten\n"
    assert await lllms("ls") == "0 sessions, 0.0 MiB\n"
    stop.set()
    await server
