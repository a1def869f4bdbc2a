"""Conversations that the server keeps for clients of the native chat."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from attrs import evolve
from gates_for_tests import Gate
from serving_for_tests import serving as serve
from test_native_chat import ASKED, CHAT, LIMITS, Reader, chat_id, serving
from waits_for_tests import until

from lllms_core.builtin.chat import kept_conversations
from lllms_core.client import AsyncClient, Client, ServerError
from lllms_core.client.event_lines import EventLines
from lllms_core.errors import EngineFailed
from lllms_core.host.documents import KeptDocuments, open_documents
from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

KEPT = "/api/v1/conversations"
TINY = {"tiny": {
    "engine": "llamacpp", "file": str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"),
    "options": {"context_length": 512},
}}
THINKER = {"bot": {"engine": "mock", "options": {"script": [{
    "when": "think", "thinks": "hm", "replies": ["well"],
}]}}}


def test_a_second_turn_reads_only_what_is_new() -> None:
    """With a real model, the kept conversation is remembered, and most of its prompt comes from the cache."""
    with running_server(TINY) as url, Client(url) as client:
        first = client.chat("tiny", "What is 3 plus 4?", conversation="new", temperature=0).whole()
        second = client.chat("tiny", "lets count to 10", conversation=first.conversation, temperature=0).whole()
        kept = client.conversation(first.conversation or "")
        alone = client.chat("tiny", messages=[*(kept.messages or ())[:3]], temperature=0).whole()
    assert first.text == "3 plus 4 is 7."
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.cached_tokens > first.usage.prompt_tokens // 2 > 0
    assert alone.text == second.text
    assert [one["role"] for one in kept.messages or ()] == ["user", "assistant", "user", "assistant"]
    assert (kept.messages or ())[1]["content"] == first.text


def test_a_conversation_is_kept_listed_and_deleted() -> None:
    """Its messages, thoughts and system message are kept under an id of the client's or the server's."""
    with running_server(THINKER) as url, Client(url) as client:
        made = client.chat("bot", "think", conversation="new", system="Be brief.").whole().conversation or ""
        for _ in range(2):
            client.chat("bot", "think", conversation="mine", thoughts=False).whole()
        kept = client.conversation(made)
        assert (kept.system, kept.model, kept.message_count) == ("Be brief.", "bot", 2)
        assert kept.messages == [
            {"role": "user", "content": "think"}, {"role": "assistant", "content": "well", "thoughts": "hm"},
        ]
        assert [(one.id, one.message_count) for one in client.conversations()] == [("mine", 4), (made, 2)]
        client.delete_conversation("mine")
        assert [one.id for one in client.conversations()] == [made]
        client.delete_conversation(made)
        for act in (client.conversation, client.delete_conversation):
            with pytest.raises(ServerError, match="no conversation") as gone:
                act(made)
            assert (gone.value.status, gone.value.code) == (404, "not_found")
        with pytest.raises(ServerError, match="no conversation"):
            client.chat("bot", "again", conversation=made).whole()
        assert client.conversations() == []


async def test_one_turn_at_a_time() -> None:
    """While a conversation waits for its answer, its next message and its deletion are refused; others go on."""
    gate = Gate()
    gate.load.set()
    asked = {**ASKED, "conversation": "mine"}
    async with serving(gate) as (_, client), client.stream("POST", CHAT, json=asked) as response:
        gate.pieces.put("one")
        reader = Reader(response)
        await reader.reach("text")
        busy = [
            await client.post(CHAT, json=asked), await client.post(CHAT, json={**asked, "stream": False}),
            await client.delete(f"{KEPT}/mine"),
        ]
        assert [one.status_code for one in busy] == [409] * 3
        assert {one.json()["error"]["code"] for one in busy} == {"conflict"}
        assert (await client.get(f"{KEPT}/mine")).status_code == 404
        gate.pieces.put(None)
        await reader.rest()
        assert (await client.get(f"{KEPT}/mine")).json()["message_count"] == 2
        gate.pieces.put("two")
        gate.pieces.put(None)
        await client.post(CHAT, json=asked)
        assert (await client.get(f"{KEPT}/mine")).json()["message_count"] == 4


@pytest.mark.parametrize("how", ["failed", "refused", "left", "left whole", "stopped", "stopped early"])
async def test_what_is_kept_of_an_answer_without_an_end(how: str) -> None:
    """A turn that failed, or whose reader left, leaves the conversation as it was; one that was stopped is kept."""
    gate = Gate()
    gate.load.set()
    asked: dict[str, Any] = {**ASKED, "conversation": "mine"}
    async with serving(gate, evolve(LIMITS, grace=0.02)) as (host, client):
        gate.pieces.put("first")
        gate.pieces.put(None)
        await client.post(CHAT, json=asked)
        if how == "refused":
            refused = await client.post(CHAT, json={**asked, "temperature": 0.1})
            assert refused.status_code == 400
        elif how == "left whole":
            asking = asyncio.create_task(client.post(CHAT, json={**asked, "stream": False}))
            await until(lambda: gate.answering == 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        else:
            async with client.stream("POST", CHAT, json=asked) as response:
                reader = Reader(response)
                if how == "stopped early":
                    await reader.reach("prompt")
                else:
                    gate.pieces.put("second")
                    await reader.reach("text")
                if how == "failed":
                    gate.pieces.put(EngineFailed("it broke"))
                    await reader.rest()
                elif how.startswith("stopped"):
                    await client.delete(f"{CHAT}/{chat_id(reader.events)}")
        await until(lambda: host.status().running == 0)
        kept = await settled(client)
        said = [one["content"] for one in kept["messages"]]
        assert said == ["Hi", "first", *(["Hi", "second"] if how == "stopped" else [])]


async def settled(client: httpx.AsyncClient) -> Any:
    """Wait until the conversation is not claimed any more, and return it; a refused question claims nothing."""
    while (await client.post(CHAT, json={**ASKED, "conversation": "mine", "seed": "x"})).status_code == 409:  # noqa: ASYNC110  # there is no event
        await asyncio.sleep(0.005)
    return (await client.get(f"{KEPT}/mine")).json()


async def test_a_full_conversation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation beyond its limit is refused with the way out, and stays as it is."""
    monkeypatch.setattr(kept_conversations, "MOST_MESSAGES", 2)
    gate = Gate()
    gate.load.set()
    async with serving(gate) as (_, client):
        gate.pieces.put(None)
        asked = {**ASKED, "conversation": "mine", "stream": False}
        assert (await client.post(CHAT, json=asked)).status_code == 200
        full = await client.post(CHAT, json=asked)
        assert (full.status_code, full.json()["error"]["code"]) == (400, "conversation_full")
        assert (await client.get(f"{KEPT}/mine")).json()["message_count"] == 2


async def test_the_list_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list holds the last conversations only, and none whose document has made room for others."""
    monkeypatch.setattr(kept_conversations, "MOST_LISTED", 2)
    gate = Gate()
    gate.load.set()
    async with serving(gate) as (host, client):
        for name in ("a", "b", "c"):
            gate.pieces.put(None)
            await client.post(CHAT, json={**ASKED, "conversation": name})
        listed = (await client.get(KEPT)).json()["data"]
        assert [one["id"] for one in listed] == ["c", "b"]
        await host.documents.drop("chat-b")
        assert [one["id"] for one in (await client.get(KEPT)).json()["data"]] == ["c"]


@pytest.mark.parametrize("on_disk", [False, True])
async def test_looking_is_no_use(tmp_path: Path, on_disk: bool) -> None:
    """`there` names the documents that exist, written or not yet, and lets none live longer."""
    documents: KeptDocuments = open_documents(10**6, 1000.0, tmp_path if on_disk else None)
    documents.keep("a", 1)
    documents.keep("b", 2)
    assert list(await documents.there(["a", "c", "b", "not a name"])) == ["a", "b"]
    drawer: Any = documents._drawer
    before = times(tmp_path)
    assert await documents.there(["a"]) == ["a"]
    assert times(tmp_path) == before
    clock = drawer._clock
    drawer._clock = lambda: clock() + 1001
    assert list(await documents.there(["a", "b"])) == []
    await documents.close()
    assert list(await documents.there(["a"])) == []


def times(folder: Path) -> list[int]:
    return [file.stat().st_mtime_ns for file in folder.iterdir()]


async def test_it_outlives_the_server_where_sessions_do(tmp_path: Path) -> None:
    """With a store on disk, a conversation and the list are there again after a restart."""
    config: dict[str, Any] = {
        "server": {"port": 0}, "models": THINKER, "sessions": {"store": "disk", "options": {"folder": str(tmp_path)}},
    }
    async with serve(config) as url, AsyncClient(url) as client:
        name = (await client.chat("bot", "think", conversation="new").whole()).conversation or ""
    async with serve(config) as url, AsyncClient(url) as client:
        assert [one.id for one in await client.conversations()] == [name]
        assert (await client.chat("bot", "think", conversation=name).whole()).text == "well"
        assert (await client.conversation(name)).message_count == 4


def test_events_are_those_of_json() -> None:
    """The prompt's event and the last one name the conversation."""
    with running_server(THINKER) as url:
        data = httpx.post(f"{url}{CHAT}", json={"model": "bot", "message": "x", "conversation": "mine"}).content
    told = {one.name: json.loads(one.data) for one in EventLines().read(data)}
    assert told["prompt"]["conversation"] == told["done"]["conversation"] == "mine"
