"""What a worker does, whether it is a process, a thread, or a process at another place."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import engines_for_tests as engines
import pytest
from engines_for_tests import BadInfoEngine, EnvironmentEngine, Options, RawEngine, ScriptedEngine
from placements_for_tests import two_places
from pools_for_tests import ask
from waits_for_tests import GUARD

from lllms_core.engines import Engine
from lllms_core.errors import InvalidRequest
from lllms_core.placements import Place, Placement
from lllms_core.types import Delta, Isolation, ModelSpec
from lllms_core.worker.handle import Worker
from lllms_core.worker.socket_worker import SocketWorker
from lllms_core.worker.start import start_worker
from lllms_core.worker.wire import (
    Alive,
    Cancel,
    Close,
    Crashed,
    Deltas,
    FromWorker,
    Load,
    Loaded,
    LoadFailed,
    Open,
    Probe,
    Progress,
    UseThreads,
)

pytestmark = pytest.mark.slow


class Listener:
    """Collects a worker's messages."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[FromWorker] = asyncio.Queue()
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def message(self, message: FromWorker) -> None:
        self.heard.put_nowait(message)

    def ended(self, reason: str) -> None:
        self.end.set_result(reason)  # raises if it was called before

    async def next(self) -> FromWorker:
        async with asyncio.timeout(GUARD):
            return await self.heard.get()

    async def until(self, kind: type[FromWorker]) -> FromWorker:
        while not isinstance(message := await self.next(), kind):
            assert not isinstance(message, Crashed), message  # nothing else comes
        return message

    async def last_delta(self) -> tuple[str, Delta]:
        """The text of the one open request, and its last delta."""
        text = ""
        while True:
            message = await self.next()
            assert isinstance(message, Deltas)
            for delta in message.deltas:
                text += delta.text
                if delta.last:
                    return text, delta

    async def reason(self) -> str:
        async with asyncio.timeout(GUARD):
            return await self.end


Kind = Isolation | tuple[Placement, Place]
"""How a worker runs: in a process or a thread of this machine, or at a place."""


@pytest.fixture(params=["process", "thread", "place"])
async def isolation(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    """All kinds of worker."""
    if request.param != "place":
        yield request.param
        return
    async with two_places() as placement:
        yield placement, placement.place("one")


async def start(
    isolation: Kind, options: Options | None = None, engine: Engine | None = None,
) -> tuple[Worker, Listener]:
    listener = Listener()
    load = Load(engine or ScriptedEngine(), ModelSpec("scripted", options or Options(), threads=3))
    if not isinstance(isolation, str):
        return await SocketWorker.start(load, listener, *isolation), listener
    return await start_worker(load, isolation, listener), listener


def pid_of(worker: Worker) -> int:
    return worker._launched.pid if isinstance(worker, SocketWorker) else worker.pid or os.getpid()


async def answers(worker: Worker, listener: Listener, within: int) -> bool:
    """Whether the worker answers one of this many probes, a tenth of a second apart."""
    for _ in range(within):
        worker.send(Probe())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                assert isinstance(await listener.heard.get(), Alive)
                return True
    return False


async def close(worker: Worker, listener: Listener) -> None:
    worker.send(Close())
    assert await listener.reason() == "the worker ended"
    if worker.pid is not None:
        with pytest.raises(ChildProcessError):
            os.waitpid(worker.pid, os.WNOHANG)  # noqa: ASYNC222  # reaped: no zombie is left


async def test_life_of_a_worker(isolation: Kind) -> None:
    """A worker reports progress, then what it loaded; it answers, takes its allowance of cores, and ends when told."""
    worker, listener = await start(isolation)
    progress = []
    while isinstance(message := await listener.next(), Progress):
        progress.append(message.fraction)
    assert progress == sorted(progress)
    assert progress[-1] == 0.9
    assert isinstance(message, Loaded)
    assert (message.info.slots, message.info.tasks) == (2, frozenset({"text"}))
    worker.send(Open(ask("threads")))
    assert (await listener.last_delta())[0] == "3"
    worker.send(UseThreads(5))
    worker.send(Open(ask("threads")))
    assert (await listener.last_delta())[0] == "5"
    worker.send(Open(ask("pid")))
    assert (await listener.last_delta())[0] == str(pid_of(worker))
    await close(worker, listener)


async def test_cancel_ends_one_request(isolation: Kind) -> None:
    """A cancelled request ends with `cancelled`; the other continues; unknown and double cancels do nothing."""
    worker, listener = await start(isolation)
    await listener.until(Loaded)
    endless, short = ask("count"), ask("echo abc")
    for message in (Open(endless), Cancel(endless.id), Cancel(endless.id), Cancel("unknown"), Open(short)):
        worker.send(message)
    _, end = await listener.last_delta()
    assert (end.request_id, end.finish and end.finish.reason) == (endless.id, "cancelled")
    assert (await listener.last_delta())[1].request_id == short.id
    await close(worker, listener)


async def test_refused_requests_harm_nobody(isolation: Kind) -> None:
    """A request that `open` refuses, or that fails while running, ends with its error; the worker continues."""
    worker, listener = await start(isolation)
    await listener.until(Loaded)
    for prompt in ("open refuse", "open fail", "refuse", "fail"):
        worker.send(Open(ask(prompt)))
        _, end = await listener.last_delta()
        assert type(end.error).__name__ == ("InvalidRequest" if "refuse" in prompt else "EngineFailed")
        assert not isinstance(end.error, InvalidRequest) or end.error.param == "prompt"
    await close(worker, listener)


async def test_probes_tell_whether_the_loop_gets_on(isolation: Kind) -> None:
    """A probe is answered while the loop waits for messages, or if its step checks `interrupt`; otherwise not."""
    engines.RELEASE.clear()
    worker, listener = await start(isolation)
    await listener.until(Loaded)
    for _ in range(3):
        assert await answers(worker, listener, within=100)
    looking = ask("look")
    worker.send(Open(looking))
    await listener.until(Deltas)
    for _ in range(3):
        assert await answers(worker, listener, within=100)
    worker.send(Cancel(looking.id))
    while not (isinstance(message := await listener.until(Deltas), Deltas) and message.deltas[-1].last):
        pass
    worker.send(Open(ask("look once")))
    await listener.until(Deltas)
    while await answers(worker, listener, within=3):
        pass  # the step has only just begun
    worker.kill()
    engines.RELEASE.set()
    await listener.reason()


@pytest.mark.parametrize(("fault", "kind"), [("raise", "ValueError"), ("sys-exit", "SystemExit")])
@pytest.mark.parametrize("place", ["", "open ", "cancel "])
async def test_broken_engine_is_reported(isolation: Kind, place: str, fault: str, kind: str) -> None:
    """Whatever `step`, `open` or `cancel` raise is the worker's last message, with type and place; then it ends."""
    worker, listener = await start(isolation)
    await listener.until(Loaded)
    request = ask(place + fault)
    worker.send(Open(request))
    if place == "cancel ":
        worker.send(Cancel(request.id))
    crash = await listener.until(Crashed)
    assert isinstance(crash, Crashed)
    assert crash.reason == f"its engine raised {kind}; the server's log says where"
    assert "in strike" in crash.traceback
    assert "enough" not in crash.traceback.replace('sys.exit("enough")', "")
    await listener.reason()


@pytest.mark.parametrize(("fault", "reason", "meant"), [
    ("refuse", "this file is no model", True),
    ("raise", "ValueError: the engine is broken", False),
    ("sys-exit", "SystemExit: enough", False),
])
async def test_failed_load_is_reported(isolation: Kind, fault: str, reason: str, meant: bool) -> None:
    """A failed load gives the reason, with a traceback unless it was deliberate; then the worker ends."""
    _, listener = await start(isolation, Options(load=fault))  # type: ignore[arg-type]
    failure = await listener.until(LoadFailed)
    assert isinstance(failure, LoadFailed)
    assert failure.reason == reason
    assert (failure.traceback == "") == meant
    await listener.reason()


async def test_failing_close_is_reported(isolation: Kind) -> None:
    """A model whose `close` raises still ends."""
    worker, listener = await start(isolation, Options(close="raise"))
    await listener.until(Loaded)
    worker.send(Close())
    assert isinstance(await listener.until(Crashed), Crashed)
    await listener.reason()


async def test_kill_ends_a_load(isolation: Kind, gate: Path) -> None:
    """A worker that is killed while it loads is gone at once, and sends nothing more."""
    worker, listener = await start(isolation, Options(gate=str(gate)))
    message = await listener.next()
    while message != Progress(0.9):
        message = await listener.next()
    worker.kill()
    await listener.reason()
    assert listener.heard.empty()


async def test_kill_and_close_after_the_end_do_nothing(isolation: Kind) -> None:
    """Messages to a worker that is gone do nothing."""
    worker, listener = await start(isolation, Options(load="refuse"))
    await listener.reason()
    worker.send(Close())
    worker.kill()


async def test_many_deltas_in_order(isolation: Kind) -> None:
    """Eight concurrent requests each get all their tokens, in order, with one message per step for all of them."""
    worker, listener = await start(isolation, engine=RawEngine())
    await listener.until(Loaded)
    for number in range(8):
        worker.send(Open(ask("x", max_tokens=5000 + number)))
    ends, most = 0, 0
    while ends < 8:
        message = await listener.next()
        assert isinstance(message, Deltas)
        assert len({delta.request_id for delta in message.deltas}) == len(message.deltas)
        most = max(most, len(message.deltas))
        ends += sum(delta.last for delta in message.deltas)
    assert most == 8
    await close(worker, listener)


async def test_info_that_cannot_travel_is_reported() -> None:
    """A model whose details cannot be pickled fails to load, with the reason."""
    _, listener = await start("process", engine=BadInfoEngine())
    failure = await listener.until(LoadFailed)
    assert isinstance(failure, LoadFailed)
    assert "pickle" in failure.reason
    await listener.reason()


async def test_a_process_starts_in_the_engines_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process has the variables that its engine declares, except those that the user has set."""
    monkeypatch.setenv("LLLMS_TEST_USER", "user")
    worker, listener = await start("process", engine=EnvironmentEngine())
    loaded = await listener.until(Loaded)
    assert isinstance(loaded, Loaded)
    assert loaded.info.details == {"LLLMS_TEST_ENGINE": "engine", "LLLMS_TEST_USER": "user"}
    await close(worker, listener)


async def test_prints_do_not_break_the_wire(caplog: pytest.LogCaptureFixture) -> None:
    """An engine's standard output and error arrive at the logger `lllms.worker`, line by line."""
    caplog.set_level(logging.DEBUG, "lllms.worker")
    worker, listener = await start("process", Options(load="print"))
    await listener.until(Loaded)
    await close(worker, listener)
    assert [record.getMessage() for record in caplog.records if record.name == "lllms.worker"] == [
        "scripted: printed by Python", "scripted: written to standard output", "scripted: written to standard error",
    ]
