"""Responses in the background: written whether somebody listens or not, cancelled on request, streamed again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from events_for_tests import parse, read_events
from gates_for_tests import Gate, gated, posting
from hypothesis import given, settings
from hypothesis import strategies as st
from quart import Quart
from waits_for_tests import until

from lllms_core.answers import Stream
from lllms_core.app import create_app
from lllms_core.builtin.openai.responses.background import MOST_ENDED, BackgroundResponse, BackgroundResponses
from lllms_core.builtin.openai.responses.progress import ResponseHead, ResponseProgress
from lllms_core.config import parse_config
from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.host import Host
from lllms_core.types import ChatRequest, Delta, Finish, Message, Usage

pytestmark = pytest.mark.slow

PATH = "/v1/responses"
ASKED: dict[str, Any] = {"model": "gate", "input": "Hi", "background": True}


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def ask(app: Quart, method: str, path: str, body: object = None) -> Any:
    """The JSON of an answer."""
    given_ = {} if body is None else {"json": body}
    answer = await app.test_client().open(path, method=method, **given_)
    return json.loads(await answer.get_data())


async def status(app: Quart, response_id: str) -> str:
    found: str = (await ask(app, "GET", f"{PATH}/{response_id}"))["status"]
    return found


async def reaches(app: Quart, response_id: str, *wanted: str) -> None:
    """Wait until a response has one of these statuses."""
    while await status(app, response_id) not in wanted:  # noqa: ASYNC110  # over HTTP, there is no event
        await asyncio.sleep(0.005)


async def begins(app: Quart, response_id: str) -> Any:
    """Wait until a response has output, and return it."""
    while not (found := await ask(app, "GET", f"{PATH}/{response_id}"))["output"]:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.005)
    return found


async def test_it_is_queued_then_written_then_complete(gate: Gate) -> None:
    """The answer comes at once; a look at it shows how far it has come, and in the end all of it."""
    async with gated(gate) as host, asyncio.timeout(60):
        app = create_app(host)
        made = await ask(app, "POST", PATH, ASKED)
        assert (made["status"], made["output"], made["usage"], made["background"]) == ("queued", [], None, True)
        assert await status(app, made["id"]) == "queued"
        refused = await ask(app, "POST", PATH, {"model": "gate", "input": "x", "previous_response_id": made["id"]})
        assert refused["error"]["code"] == "previous_response_not_completed"
        gate.load.set()
        await reaches(app, made["id"], "in_progress")
        gate.pieces.put("one ")
        await until(gate.pieces.empty)
        found = await begins(app, made["id"])
        assert found["output"][0]["content"][0]["text"] == "one "
        assert found["output"][0]["status"] == "in_progress"
        gate.pieces.put("two")
        gate.pieces.put(None)
        await reaches(app, made["id"], "completed")
        found = await ask(app, "GET", f"{PATH}/{made['id']}")
        assert found["output"][0]["content"][0]["text"] == "one two"
        assert {**found, "status": "queued", "output": [], "usage": None, "completed_at": None} == made


async def test_it_is_cancelled(gate: Gate) -> None:
    """Cancelling frees its place at once, keeps what was written, and changes nothing later."""
    gate.load.set()
    async with gated(gate) as host, asyncio.timeout(60):
        app = create_app(host)
        made = await ask(app, "POST", PATH, ASKED)
        gate.pieces.put("one")
        await begins(app, made["id"])
        for _ in range(2):
            cancelled = await ask(app, "POST", f"{PATH}/{made['id']}/cancel")
            assert cancelled["status"] == "cancelled"
            assert cancelled["output"][0]["content"][0]["text"] == "one"
            assert cancelled["output"][0]["status"] == "incomplete"
        await until(lambda: host.status().running == 0)
        assert await host.documents.find(f"openai-{made['id']}") is not None
        assert (await ask(app, "GET", f"{PATH}/{made['id']}")) == cancelled


async def test_only_background_responses_are_cancelled(gate: Gate) -> None:
    """Any other ends with its connection; an unknown one is not found."""
    gate.load.set()
    gate.pieces.put(None)
    async with gated(gate) as host:
        app = create_app(host)
        made = await ask(app, "POST", PATH, {"model": "gate", "input": "Hi"})
        refused = await ask(app, "POST", f"{PATH}/{made['id']}/cancel")
        assert "synchronous" in refused["error"]["message"]
        assert "not found" in (await ask(app, "POST", f"{PATH}/resp_1/cancel"))["error"]["message"]


@pytest.mark.parametrize("background", [False, True])
async def test_a_client_that_leaves(gate: Gate, background: bool) -> None:
    """It cancels its response, unless that is in the background, which can then be streamed from anywhere."""
    gate.load.set()
    async with gated(gate) as host, asyncio.timeout(60):
        app = create_app(host)
        async with posting(app, PATH, {**ASKED, "background": background, "stream": True}) as connection:
            gate.pieces.put("one ")
            begun = b""
            while b"output_text.delta" not in begun:
                begun += await connection.receive()
            await connection.disconnect()
        if not background:
            await until(lambda: host.status().running == 0)
            return
        for piece in ("two ", "three", None):
            gate.pieces.put(piece)
        seen = parse(begun.decode())
        response_id = seen[0]["response"]["id"]
        await reaches(app, response_id, "completed")
        whole = await events(app, response_id, -1)
        assert whole[: len(seen)] == seen
        assert read_events(whole)["output"][0]["content"][0]["text"] == "one two three"
        for number in range(len(whole)):
            assert await events(app, response_id, number) == whole[number + 1 :]


async def events(app: Quart, response_id: str, after: int) -> list[dict[str, Any]]:
    answer = await app.test_client().get(f"{PATH}/{response_id}?stream=true&starting_after={after}")
    assert answer.headers["Content-Type"] == "text/event-stream"
    return parse(await answer.get_data(as_text=True))


async def test_two_readers_see_the_same(gate: Gate) -> None:
    """A stream may be read again while it is written, by as many as like."""
    gate.load.set()
    async with gated(gate) as host, asyncio.timeout(60):
        app = create_app(host)
        async with posting(app, PATH, {**ASKED, "stream": True}) as connection:
            first = parse((await connection.receive()).decode())
            again = asyncio.create_task(events(app, first[0]["response"]["id"], -1))
            for piece in ("one ", "two", None):
                gate.pieces.put(piece)
            whole = await again
            assert read_events(whole)["status"] == "completed"
            assert whole[: len(first)] == first


async def test_a_failure_is_told_and_kept(gate: Gate) -> None:
    """If the engine fails, the stream ends with the failed response, which can be retrieved."""
    gate.load.set()
    async with gated(gate) as host, asyncio.timeout(60):
        app = create_app(host)
        gate.pieces.put("one")
        gate.pieces.put(EngineFailed("it broke"))
        answer = await app.test_client().post(PATH, json={**ASKED, "stream": True})
        told = read_events(parse(await answer.get_data(as_text=True)))
        assert (told["status"], told["error"]["code"]) == ("failed", "server_error")
        assert "it broke" in told["error"]["message"]
        assert await ask(app, "GET", f"{PATH}/{told['id']}") == told


async def test_what_is_refused_at_once_is_an_error(gate: Gate) -> None:
    """A full queue is a 429 for a background response, too, and leaves nothing behind."""
    async with gated(gate, queue_size=1) as host:
        app = create_app(host)
        made = await ask(app, "POST", PATH, ASKED)
        refused = await app.test_client().post(PATH, json=ASKED)
        assert refused.status_code == 429
        await ask(app, "POST", f"{PATH}/{made['id']}/cancel")
        await until(lambda: host.status().waiting == 0)


async def test_a_deleted_response_stops(gate: Gate) -> None:
    """Deleting a response that is being written cancels it, and nothing of it is left."""
    gate.load.set()
    async with gated(gate) as host, asyncio.timeout(60):
        app = create_app(host)
        made = await ask(app, "POST", PATH, ASKED)
        await until(lambda: host.status().running == 1)
        deleted = await ask(app, "DELETE", f"{PATH}/{made['id']}")
        assert deleted == {"id": made["id"], "object": "response", "deleted": True}
        await until(lambda: host.status().running == 0)
        for method in ("GET", "DELETE"):
            answer = await app.test_client().open(f"{PATH}/{made['id']}", method=method)
            assert answer.status_code == 404
        assert await host.documents.find(f"openai-{made['id']}") is None


@pytest.mark.parametrize("closes", [False, True])
async def test_a_server_that_ends_fails_its_responses(gate: Gate, closes: bool, tmp_path: Path) -> None:
    """After a restart, with sessions on disk, a response that was not finished has failed; also after a kill."""
    sessions = {"store": "disk", "options": {"folder": str(tmp_path)}}
    gate.load.set()
    async with gated(gate, sessions=sessions) as host, asyncio.timeout(60):
        app = create_app(host)
        made = await ask(app, "POST", PATH, ASKED)
        await until(lambda: host.status().running == 1)
        await until(lambda: not host._documents._pending)
        if not closes:
            host._documents._closed = True  # as if it had been killed: the end is never written
    again = Host(parse_config({"sessions": sessions}))
    found = await ask(create_app(again), "GET", f"{PATH}/{made['id']}")
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    await again.close()


async def test_what_ends_while_the_server_stops_is_kept(gate: Gate, tmp_path: Path) -> None:
    """A response that is completed within the grace of a stopping server is there after the restart."""
    sessions = {"store": "disk", "options": {"folder": str(tmp_path)}}
    gate.load.set()
    async with gated(gate, sessions=sessions) as host, asyncio.timeout(60):
        made = await ask(create_app(host), "POST", PATH, ASKED)
        await until(lambda: host.status().running == 1)
        closing = asyncio.create_task(host.close(60))
        await asyncio.sleep(0)
        gate.pieces.put("one")
        gate.pieces.put(None)
        await closing
    again = Host(parse_config({"sessions": sessions}))
    found = await ask(create_app(again), "GET", f"{PATH}/{made['id']}")
    assert (found["status"], found["output"][0]["content"][0]["text"]) == ("completed", "one")
    await again.close()


# -- the buffer -------------------------------------------------------------------------------------------------------

def background(*texts: str, buffer: int = 10**6) -> tuple[BackgroundResponse, Stream]:
    """A response with its stream, in which texts have arrived."""
    request = ChatRequest("r", "m", (Message("user", "Hi"),))
    stream = Stream(request, lambda _: None)
    for text in texts:
        stream.put(Delta("r", text))
    progress = ResponseProgress(ResponseHead(request, {"tools": [], "background": True}))
    return BackgroundResponse(stream, progress, lambda: False, buffer), stream


async def followed(response: BackgroundResponse, after: int) -> list[dict[str, Any]]:
    return parse(b"".join([data async for data in response.follow(after, 60)]).decode())


END = Delta("r", finish=Finish("stop", Usage(1, 1)))


@settings(max_examples=60, deadline=None)
@given(before=st.lists(st.text("ab", min_size=1), max_size=5), after=st.lists(st.text("ab", min_size=1), max_size=5),
       start=st.integers(-1, 20), steps=st.integers(0, 5))
async def test_a_reader_gets_each_event_once(before: list[str], after: list[str], start: int, steps: int) -> None:
    """Wherever a reader begins, and whenever it comes, it gets every later event once, in order."""
    response, stream = background(*before)
    response.start([])
    for _ in range(steps):
        await asyncio.sleep(0)
    reading = asyncio.create_task(followed(response, start))
    for text in after:
        stream.put(Delta("r", text))
        await asyncio.sleep(0)
    stream.put(END)
    late = await reading
    whole = await followed(response, -1)
    assert read_events(whole)["status"] == "completed"
    assert late == whole[start + 1 :]


async def test_the_buffer_is_bounded() -> None:
    """The oldest events make room: who wants them is told so; who was too slow gets no more."""
    response, stream = background(*["x" * 10] * 50, buffer=8000)
    response.start([])
    stream.put(END)
    await until(lambda: response.progress.ended)
    assert response._buffer.size <= 8000
    first = response._buffer.first
    assert first > 2
    with pytest.raises(InvalidRequest, match=f"of at least {first - 1}"):
        response.check(first - 2)
    response.check(first - 1)
    [oldest, *_] = await followed(response, first - 1)
    assert oldest["sequence_number"] == first
    assert await followed(response, first - 2) == []


async def test_a_stream_can_be_read_again_for_a_time() -> None:
    """Once a response has ended, its events are dropped after a while; the response itself is in the store."""
    responses = BackgroundResponses(seconds_ended=0.01)
    response, stream = background()
    response.start([])
    responses.add(response)
    response_id = response.progress.head.id
    assert responses.get(response_id) is response
    stream.put(END)
    await until(lambda: responses.get(response_id) is None)


async def test_few_that_have_ended_can_be_streamed_again() -> None:
    """The first ones that have ended make room for new ones; those that are written stay."""
    responses, made = BackgroundResponses(), []
    for number in range(MOST_ENDED + 5):
        response, stream = background()
        response.start([])
        if number:
            stream.put(END)
            await until(lambda one=response: one.progress.ended)
        responses.add(response)
        made.append(response)
    here = [responses.get(one.progress.head.id) is not None for one in made]
    assert here[0]
    assert sum(here) == MOST_ENDED + 1
    assert here[-1]
    await responses.drop(made[0].progress.head.id)
