"""The clients in Python, sync and async, against the real server, over connections that break."""

import asyncio
import inspect
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from cutting_for_tests import cutting
from waits_for_tests import GUARD, until

from lllms_core.cli import cli
from lllms_core.client import (
    AsyncChatStream,
    AsyncClient,
    CallEvent,
    ChatStream,
    Client,
    DoneEvent,
    LoadingEvent,
    LoadStep,
    PromptEvent,
    QueuedEvent,
    ServerError,
    TextEvent,
    ThoughtsEvent,
    UsageEvent,
    chat_flow,
)
from lllms_core.client.asks import Ask
from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

ADD = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
LONG = " ".join(f"word{number}" for number in range(40))
MODELS: dict[str, Any] = {
    "bot": {"engine": "mock", "options": {"script": [
        {"when": "think", "thinks": "hm hm", "replies": ["well"]},
        {"when": "call", "calls": [{"name": "add", "arguments": {"a": 3}}], "replies": ["it is 4"]},
        {"when": "fail", "replies": ["one two"], "fault": "fail", "after": 1},
        {"when": "refuse", "fault": "refuse"}, {"when": "hang", "replies": ["one"], "fault": "hang", "after": 1},
    ]}},
    "slow": {"engine": "mock", "options": {"tokens_per_second": 400, "script": [{"replies": [LONG]}]}},
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(MODELS) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


def test_an_answer_is_typed_events(client: Client) -> None:
    """Events have their types; together they are the result, which continues a conversation without a server's."""
    with client.chat("bot", "please think") as answer:
        events = list(answer)
    kinds = list(dict.fromkeys(type(one) for one in events if not isinstance(one, QueuedEvent | LoadingEvent)))
    assert kinds == [PromptEvent, ThoughtsEvent, TextEvent, UsageEvent, DoneEvent]
    assert (answer.result.text, answer.result.thoughts, answer.result.reason) == ("well", "hm hm", "stop")
    said: list[dict[str, object]] = [{"role": "user", "content": "please call"}]
    called = client.chat("bot", messages=said, tools=[ADD]).whole()
    assert (called.reason, called.text) == ("calls", "")
    [call] = called.calls
    assert call == CallEvent(call.id, "add", {"a": 3})
    said += [called.message, {"role": "tool", "call": call.id, "content": "4"}]
    assert client.chat("bot", messages=said, tools=[ADD]).text == "it is 4"
    assert client.chat("bot", "please think", thoughts=False).whole().thoughts == ""


def test_errors_have_codes(client: Client, url: str) -> None:
    """Refusals, failures in mid-answer, unknown things and unreachable servers are `ServerError`s that say which."""
    for said, code, status in (("refuse", "mock_refused", 400), ("fail", "engine_failed", 200)):
        with pytest.raises(ServerError) as failed:
            client.chat("bot", said).whole()
        assert (failed.value.code, failed.value.status) == (code, status)
    with pytest.raises(ServerError) as wrong:
        client.chat("bot", "Hi", temperature=9).whole()
    assert (wrong.value.parameter, wrong.value.status) == ("temperature", 400)
    with pytest.raises(ServerError) as unknown:
        client.load("none")
    assert unknown.value.status == 404
    with pytest.raises(ServerError, match="unknown form"):
        client.send(Ask("GET", "/openapi.json", lambda told: told["data"]))
    with pytest.raises(ServerError, match="no server answers at") as unreachable:
        Client("http://127.0.0.1:1").models()
    assert (unreachable.value.code, unreachable.value.status) == ("unreachable", 0)


def test_models_sessions_and_downloads(client: Client) -> None:
    """The other methods read what the server tells of its models and of what it keeps."""
    assert [one.id for one in client.models()] == ["bot", "slow"]
    steps: list[LoadStep] = []
    client.unload("bot")
    loaded = client.load("bot", ttl="5m", on_progress=steps.append)
    assert (loaded.model, loaded.instance.partition(":")[0]) == ("bot", "bot")
    assert {one.state for one in steps} <= {"queued", "loading"}
    assert client.unload("bot").unloaded == [loaded.instance]
    assert client.downloads() == []
    assert client.sessions() == client.sessions("bot") == []
    assert client.forget_sessions() == []
    assert client.status()["name"] == "lllms"
    with pytest.raises(ServerError):
        client.session("none")
    with pytest.raises(ServerError):
        client.forget_session("none")
    with pytest.raises(ServerError):
        client.cancel_download("none")


@pytest.mark.parametrize("most", [[700], [700, 0, 300], [1500, 200]])
def test_a_cut_connection_is_resumed(url: str, most: list[int]) -> None:
    """The answer over connections that are reset again and again is the answer, without a gap or a repetition."""
    count = len(most)
    with cutting(url, most) as (cut, cutter), Client(cut) as client:
        whole = client.chat("slow", "Hi").whole()
    assert whole.text == LONG
    assert whole.reason == "stop"
    assert (cutter.cut, cutter.connections) == (count, count + 1)


async def test_an_async_answer_is_resumed(url: str) -> None:
    """So it is for the async client."""
    with cutting(url, [700, 0, 300]) as (cut, cutter):
        async with AsyncClient(cut) as client, client.chat("slow", "Hi") as answer:
            texts = [one.text async for one in answer if isinstance(one, TextEvent)]
            assert (await client.models())[0].id == "bot"
    assert "".join(texts) == LONG
    assert cutter.cut == 3


def test_before_the_first_event_nothing_is_repeated(url: str) -> None:
    """A request whose answer was cut before its first event is not sent again: it might be answered twice."""
    with cutting(url, [10]) as (cut, cutter), Client(cut) as client:
        with pytest.raises(ServerError) as broken:
            client.chat("slow", "Hi").whole()
        assert broken.value.status == 0
        assert cutter.connections == 1


def test_a_server_that_is_gone_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries without a new event, the error of the connection is raised."""
    monkeypatch.setattr(chat_flow, "PAUSE", 0.001)
    with cutting(url, [1000, *[0] * 20]) as (cut, cutter), Client(cut) as client:
        with pytest.raises(ServerError, match="no server answers"):
            client.chat("slow", "Hi").whole()
        assert cutter.connections == 1 + chat_flow.TRIES


def test_leaving_early_stops_the_answer(client: Client) -> None:
    """Closing an answer frees its place at once; closing it again, or one that never began, does nothing."""
    idle(client)  # answers that other tests have left wait for their readers' return
    with client.chat("bot", "hang") as answer:
        next(event for event in answer if isinstance(event, TextEvent))
        assert client.status()["requests"]["running"] == 1
    idle(client)
    assert answer.result.text == "one"
    answer.close()
    assert list(answer) == []
    client.chat("bot", "Hi").close()


def idle(client: Client) -> None:
    """Wait until the server runs no request."""
    end = time.monotonic() + GUARD
    while client.status()["requests"]["running"]:
        assert time.monotonic() < end


async def test_cancelling_a_task_stops_its_answer(url: str) -> None:
    """A task that is cancelled while it reads stops the answer, if it leaves it by `async with`."""
    async with AsyncClient(url) as client:
        begun = asyncio.Event()

        async def read() -> None:
            async with client.chat("bot", "hang") as answer:
                async for event in answer:
                    if isinstance(event, TextEvent):
                        begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        running = [1]

        async def look() -> None:
            while running[0]:
                running[0] = (await client.status())["requests"]["running"]

        async with asyncio.timeout(GUARD):
            await look()
        await until(lambda: not running[0])


def test_threads_share_a_client(client: Client) -> None:
    """Several threads can ask at once."""
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(client.chat("slow", "Hi").text)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [LONG] * 3


@pytest.mark.parametrize(("sync", "other"), [(Client, AsyncClient), (ChatStream, AsyncChatStream)])
def test_both_clients_are_the_same(sync: type, other: type) -> None:
    """The async client has each method of the sync one, with the same parameters."""
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: [] if isinstance(one, property) else list(inspect.signature(one).parameters)
            for name, one in vars(kind).items() if not name.startswith("_")
        }

    assert methods(other) == {**methods(sync), **({"text": ["self"]} if other is AsyncChatStream else {})}


def test_the_command_line_uses_it(url: str) -> None:
    """`lllms run --url` and `lllms chat --url` ask by the same client."""
    ran = CliRunner().invoke(cli, ["run", "bot", "please think", "--url", url])
    assert ran.output == "well\n"
    talked = CliRunner().invoke(cli, ["chat", "bot", "--url", url], input="please think\nfail\n")
    assert talked.output.startswith("well\n")
    raw = CliRunner().invoke(cli, ["run", "bot", "--raw", "think", "--url", url])
    assert raw.output.strip()
