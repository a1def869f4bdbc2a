"""Large requests are prepared beside the steps of the others, and a fault in one affects only that one."""

import asyncio
import logging

import pytest
from engines_for_tests import PREPARES, PreparingEngine, ScriptedEngine
from hypothesis import given
from hypothesis import strategies as st
from pools_for_tests import ask
from test_worker_both import Listener, close, start

from lllms_core.errors import EngineFailed, InvalidRequest, LllmsError
from lllms_core.queries import EmbedRequest, TokenizeRequest
from lllms_core.types import ChatRequest, Constraint, Delta, Isolation, Message, Request, TextRequest, Tool, ToolCall
from lllms_core.worker.handle import Worker
from lllms_core.worker.preparing import LONGEST_STOP, SMALL, is_small
from lllms_core.worker.wire import Cancel, Close, Crashed, Deltas, Loaded, Open

pytestmark = pytest.mark.slow


@pytest.fixture(params=["process", "thread"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Both kinds of worker."""
    return request.param  # type: ignore[no-any-return]


async def start_preparing(isolation: Isolation) -> tuple[Worker, Listener, Request]:
    """A worker in which a neighbour generates endlessly."""
    worker, listener = await start(isolation, engine=PreparingEngine())
    await listener.until(Loaded)
    neighbour = ask("neighbour")
    worker.send(Open(neighbour))
    assert await next_delta(listener, neighbour.id)
    return worker, listener, neighbour


async def next_delta(listener: Listener, request_id: str) -> Delta:
    while True:
        message = await listener.next()
        assert isinstance(message, Deltas), message
        for delta in message.deltas:
            if delta.request_id == request_id:
                return delta


async def end_of(listener: Listener, request_id: str) -> Delta:
    while not (delta := await next_delta(listener, request_id)).last:
        pass
    return delta


@pytest.mark.parametrize("large", [False, True])
async def test_large_requests_are_prepared_beside_the_steps(isolation: Isolation, large: bool) -> None:
    """A large request is prepared in a separate thread, a small one at once, in the thread of the model."""
    worker, listener, _ = await start_preparing(isolation)
    request = ask("go " + PREPARES * large, max_tokens=2)
    worker.send(Open(request))
    assert (await next_delta(listener, request.id)).text == ("beside " if large else "at once ")
    await close(worker, listener)


async def test_neighbours_go_on_and_others_pass(isolation: Isolation) -> None:
    """While a request is prepared its neighbours generate, and large requests that came later are answered."""
    worker, listener, neighbour = await start_preparing(isolation)
    endless, quick = ask(f"endless {PREPARES}"), ask(f"go {PREPARES}", max_tokens=2)
    worker.send(Open(endless))
    worker.send(Open(quick))
    assert (await end_of(listener, quick.id)).error is None
    for _ in range(20):
        await next_delta(listener, neighbour.id)
    await close(worker, listener)


async def test_cancel_ends_a_preparation_at_once(isolation: Isolation) -> None:
    """A request that is cancelled during its preparation ends with `cancelled`, and sends nothing afterwards."""
    worker, listener, neighbour = await start_preparing(isolation)
    request = ask(f"endless {PREPARES}")
    worker.send(Open(request))
    worker.send(Cancel(request.id))
    end = await next_delta(listener, request.id)
    assert end.finish is not None
    assert end.finish.reason == "cancelled"
    worker.send(Cancel(request.id))
    assert (await next_delta(listener, neighbour.id)).text
    await close(worker, listener)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("word", "error", "text"), [
    ("refuse", InvalidRequest, "no such luck"), ("fail", EngineFailed, "cannot go on"),
    ("deep", InvalidRequest, "nested too deeply"), ("memory", EngineFailed, "not enough memory"),
])
async def test_faults_cost_one_request(
    isolation: Isolation, word: str, error: type[LllmsError], text: str, large: bool,
) -> None:
    """A request that cannot be prepared, even for lack of stack or memory, fails alone; its neighbour continues."""
    worker, listener, neighbour = await start_preparing(isolation)
    request = ask(f"{word} {PREPARES * large}")
    worker.send(Open(request))
    end = await next_delta(listener, request.id)
    assert isinstance(end.error, error)
    assert text in end.error.message
    assert (await next_delta(listener, neighbour.id)).text
    await close(worker, listener)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("fault", ["raise", "sys-exit"])
async def test_broken_prepare_is_reported(isolation: Isolation, fault: str, large: bool) -> None:
    """Any other exception during a preparation means that the model is broken, as in `open`."""
    worker, listener, _ = await start_preparing(isolation)
    worker.send(Open(ask(f"{fault} {PREPARES * large}")))
    crash = await listener.until(Crashed)
    assert isinstance(crash, Crashed)
    assert "strike" in crash.traceback
    await listener.reason()


async def test_models_are_closed_when_nothing_reads_them(caplog: pytest.LogCaptureFixture) -> None:
    """A model is closed once its preparations have noticed their cancellation; if one does not, it is not closed."""
    caplog.set_level(logging.DEBUG, "lllms.worker")
    for word, closed in (("endless", True), ("deaf", False)):
        caplog.clear()
        worker, listener, neighbour = await start_preparing("process")
        worker.send(Open(ask(f"{word} {PREPARES}")))
        await next_delta(listener, neighbour.id)
        worker.send(Close())
        async with asyncio.timeout(LONGEST_STOP + 20):
            await listener.reason()
        assert any("closed" in record.getMessage() for record in caplog.records) == closed


async def test_overridden_open_is_called(isolation: Isolation) -> None:
    """A class that overrides only `open` gets its large requests there, not in the `prepare` of its base class."""
    worker, listener = await start(isolation, engine=ScriptedEngine())
    await listener.until(Loaded)
    refused = ask("open refuse", suffix=PREPARES)
    worker.send(Open(refused))
    assert isinstance((await end_of(listener, refused.id)).error, InvalidRequest)
    await close(worker, listener)


async def test_answers_of_too_many_tokens_are_refused(isolation: Isolation) -> None:
    """A text of more tokens than one answer may have is refused, with the limit."""
    worker, listener, _ = await start_preparing(isolation)
    most = 1 << 17
    for length in (most, most + 1):
        request = TokenizeRequest(f"t{length}", "preparing", "x" * length)
        worker.send(Open(request))
        end = await end_of(listener, request.id)
        assert (end.error is None) == (length == most)
        assert end.error is None or f"more than {most} tokens" in end.error.message
    await close(worker, listener)


@given(texts=st.lists(st.text(max_size=50), max_size=5), times=st.integers(1, 4000))
def test_size_counts_every_part(texts: list[str], times: int) -> None:
    """If any part of a request is large, the request is; texts of less than a quarter of the limit are small."""
    total = sum(map(len, texts)) * times
    parts = tuple(text * times for text in texts)
    calls = tuple(ToolCall(str(at), "f", part) for at, part in enumerate(parts))
    tools = tuple(Tool(f"t{at}", "", {"properties": {part: {}}}) for at, part in enumerate(parts))
    for request in (
        ChatRequest("r", "m", messages=tuple(Message("user", part) for part in parts)),
        ChatRequest("r", "m", messages=(Message("assistant", "", tool_calls=calls),)),
        TextRequest("r", "m", prompt="".join(parts)),
        TextRequest("r", "m", prompt="", suffix="".join(parts)),
        TextRequest("r", "m", prompt=(7,) * total),
        ChatRequest("r", "m", (), tools=tools),
        TextRequest("r", "m", prompt="", constraint=Constraint("regex", "".join(parts), "regex")),
        EmbedRequest("r", "m", parts),
    ):
        if total > SMALL:
            assert not is_small(request)
        if total < SMALL // 4:
            assert is_small(request)
