"""Workers at other places: real child processes that connect by TCP, as those on other machines would."""

import asyncio
import logging
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest
from attrs import evolve
from click.testing import CliRunner
from engines_for_tests import Options, ScriptedEngine, TakingEngine
from placements_for_tests import (
    PlaceEngine,
    Places,
    TwoPlaces,
    TwoPlacesOptions,
    TwoPlugin,
    configured,
    host_at_places,
    two_places,
)
from pools_for_tests import ask
from serving_for_tests import published
from test_worker_both import Listener
from waits_for_tests import GUARD, until

from lllms_core.cli import cli
from lllms_core.engines import NoOptions
from lllms_core.errors import ConfigError, EngineDied, ModelLoadFailed, PlaceLost, PlacementFailed
from lllms_core.events import Event, InstanceDied, LoadEnded
from lllms_core.placements import Ending, FileKey, Launch, Place
from lllms_core.pool.far_places import FarPlaces
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import MemoryLimit, ModelLimits, PoolLimits
from lllms_core.rendezvous import SILENCE, Rendezvous, different, greet, versions
from lllms_core.types import ModelSpec
from lllms_core.worker.socket_worker import SocketWorker
from lllms_core.worker.wire import (
    Close,
    Deltas,
    FoundSession,
    FrameReader,
    Hello,
    Load,
    Loaded,
    Open,
    SessionTerms,
    Survey,
    Surveyed,
    encode,
)

pytestmark = pytest.mark.slow

MB = 2**20


@pytest.fixture
async def placement() -> AsyncIterator[TwoPlaces]:
    """Two places, opened."""
    async with two_places() as placement:
        yield placement


async def start(placement: TwoPlaces, load: Load | None = None) -> tuple[SocketWorker, Listener]:
    """Start a worker at the first place."""
    listener = Listener()
    load = load or Load(ScriptedEngine(), ModelSpec("scripted", Options(), threads=1))
    async with asyncio.timeout(GUARD):
        return await SocketWorker.start(load, listener, placement, placement.place("one")), listener


# -- the contract -----------------------------------------------------------------------------------------------------


async def test_a_placement_tells_of_its_places() -> None:
    """The places that are there are told while it opens; one that is gone is told with a reason."""
    placement, places = TwoPlaces(), Places()
    await placement.open(TwoPlacesOptions(memory=5), places)
    assert places.known == {name: Place(name, f"place {name}", 2, 5) for name in ("one", "two")}
    placement.lose("one")
    assert [*places.known] == ["two"]
    await placement.close()


async def test_a_launched_process_has_the_sockets_that_were_asked_for(placement: TwoPlaces) -> None:
    """The sockets are connected to it, send small messages at once, and notice within seconds that it is lost."""
    launched = await placement.launch("one", Launch("test", sockets=2))
    assert len(launched.sockets) == 2
    for one in launched.sockets:
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SILENCE * 1000
    assert psutil.Process(launched.pid).is_running()
    for one in launched.sockets:
        one.close()  # whoever launched it is gone, for all it knows
    async with asyncio.timeout(GUARD):
        assert await launched.ended() == Ending(0)


async def test_a_killed_process_tells_its_status(placement: TwoPlaces) -> None:
    """`ended` returns the signal; to kill it again does nothing."""
    launched = await placement.launch("one", Launch("test"))
    launched.kill()
    async with asyncio.timeout(GUARD):
        assert await launched.ended() == Ending(-signal.SIGKILL)
    launched.kill()
    for one in launched.sockets:
        one.close()


async def test_nothing_is_launched_at_a_place_that_is_gone(placement: TwoPlaces) -> None:
    """A launch at a lost place says so."""
    placement.names.remove("one")
    with pytest.raises(PlaceLost):
        await placement.launch("one", Launch("test"))


async def test_files_are_found_or_fetched(placement: TwoPlaces, tmp_path: Path) -> None:
    """A file is found at a place once it was fetched there, and only there."""
    key = FileKey(tmp_path / "model.gguf", 4)
    assert await placement.find("one", key) is None
    shares: list[float] = []
    path = await placement.fetch("one", str(tmp_path / "model.gguf"), key, shares.append)
    assert await placement.find("one", key) == path
    assert await placement.find("two", key) is None
    assert shares == [1.0]


# -- who may connect --------------------------------------------------------------------------------------------------


async def test_other_versions_are_refused(placement: TwoPlaces, tmp_path: Path) -> None:
    """A worker with another version of a plugin is told apart before it gets anything, and the difference is named."""
    package = tmp_path / "lllms_other-9.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: lllms-other\nVersion: 9\n")
    (package / "entry_points.txt").write_text("[lllms]\nother = lllms_other\n")
    placement.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    with pytest.raises(PlacementFailed, match="lllms-other is 9 there and missing here"):
        await start(placement)


def test_differences_are_named() -> None:
    """Equal versions differ in nothing."""
    assert different(versions(), versions()) == ""
    assert versions().keys() >= {"python", "lllms-core"}


@pytest.mark.parametrize("greeting", [
    b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"", b"x" * 21, struct.pack("!16sBI", b"y" * 16, 0, 1 << 31),
])
async def test_strangers_are_turned_away(greeting: bytes) -> None:
    """Who shows no expected token is closed, whatever else he sends, and those that are expected are served on."""
    rendezvous = Rendezvous()
    await rendezvous.open("127.0.0.1")
    expected = rendezvous.expect(1)
    host, port = expected.environment["_LLLMS_WORKER_ADDRESS"].split()
    token = bytes.fromhex(expected.environment["_LLLMS_WORKER_TOKEN"])
    assert len(token) == 16
    async with asyncio.timeout(GUARD):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(greeting)
        if greeting:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(1)
        writer.close()
        facts = {"pid": 7, "versions": dict(versions())}
        [ours] = await asyncio.to_thread(greet, (host, int(port)), token, 1, facts)
        arrival = await expected.arrived(GUARD)
    assert arrival.pid == 7
    assert rendezvous.expected == {}
    ours.close()
    arrival.sockets[0].close()
    await rendezvous.close()


async def test_a_token_is_used_once() -> None:
    """A second connection with the token of one that has arrived is closed."""
    rendezvous = Rendezvous()
    await rendezvous.open("127.0.0.1")
    expected = rendezvous.expect(1)
    host, port = expected.environment["_LLLMS_WORKER_ADDRESS"].split()
    token = bytes.fromhex(expected.environment["_LLLMS_WORKER_TOKEN"])
    facts = {"pid": 7, "versions": dict(versions())}
    async with asyncio.timeout(GUARD):
        [ours] = await asyncio.to_thread(greet, (host, int(port)), token, 1, facts)
        arrival = await expected.arrived(GUARD)
        [again] = await asyncio.to_thread(greet, (host, int(port)), token, 1, facts)
        again.settimeout(GUARD)
        with suppress(ConnectionError):  # or it is closed without a reset
            assert await asyncio.to_thread(again.recv, 1) == b""
    for one in (ours, again, arrival.sockets[0]):
        one.close()
    await rendezvous.close()


async def test_engines_of_the_main_script_are_refused_by_name(
    placement: TwoPlaces, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other machines do not have this program's main script."""
    monkeypatch.setattr(ScriptedEngine, "__module__", "__main__")
    with pytest.raises(ModelLoadFailed, match="engine 'scripted' is defined in the main script"):
        await start(placement)


# -- how workers end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "reason"), [("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("exit", "status 7")])
async def test_a_death_is_told_with_its_status(placement: TwoPlaces, fault: str, reason: str) -> None:
    """A worker that dies is no lost place, and its exit status comes home."""
    worker, listener = await start(placement)
    await listener.until(Loaded)
    worker.send(Open(ask(fault)))
    assert reason in await listener.reason()
    assert worker.lost == ""


@pytest.mark.parametrize("reset", [False, True])
async def test_a_worker_ends_with_its_connection(placement: TwoPlaces, reset: bool) -> None:
    """A worker ends within a second when its server is gone, whether the connection was closed or has failed."""
    launched = await placement.launch("one", Launch("test"))
    [wire] = launched.sockets
    load = Load(ScriptedEngine(), ModelSpec("scripted", Options()))
    loop, frames, heard = asyncio.get_running_loop(), FrameReader(), []
    async with asyncio.timeout(GUARD):
        await loop.sock_sendall(wire, encode(Hello(None, None, logging.WARNING)) + encode({}) + encode(load))
        while not any(isinstance(message, Loaded) for message in heard):
            heard += frames.feed(await loop.sock_recv(wire, 1 << 16))
    if reset:  # its next read fails, as it does if the other machine has been silent for too long
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()
    async with asyncio.timeout(GUARD):
        assert await launched.ended() == Ending(0)


async def test_a_lost_place_is_told_apart_from_a_death(placement: TwoPlaces) -> None:
    """If nobody knows how a worker ended because its place is lost, the reason names the place."""
    worker, listener = await start(placement)
    await listener.until(Loaded)
    worker.send(Open(ask("count")))
    await listener.until(Deltas)
    placement.lose("one", told=False)
    assert await listener.reason() == "place one was lost: its link is cut"
    assert worker.lost == "its link is cut"


async def test_its_log_comes_home(placement: TwoPlaces, caplog: pytest.LogCaptureFixture) -> None:
    """What an engine logs and prints at a place arrives in the server's log, with the name of the place."""
    caplog.set_level(logging.DEBUG, "lllms")
    worker, listener = await start(placement, Load(ScriptedEngine(), ModelSpec("scripted", Options(load="print"))))
    await listener.until(Loaded)
    worker.send(Close())
    assert await listener.reason() == "the worker ended"
    assert [record.getMessage() for record in caplog.records if record.name == "lllms.worker"] == [
        f"scripted at place one: {text}"
        for text in ("printed by Python", "written to standard output", "written to standard error")
    ]


async def test_large_messages_have_a_channel_of_their_own(placement: TwoPlaces) -> None:
    """With sessions a worker has a second socket, through which a survey's answer comes."""
    load = Load(TakingEngine(), ModelSpec("taking", Options()), SessionTerms(1, 1000))
    worker, listener = await start(placement, load)
    await listener.until(Loaded)
    worker.send(FoundSession("unknown", b"1234", b"x" * MB))
    worker.send(Survey(3))
    answer = await listener.until(Surveyed)
    assert answer == Surveyed(3, ())
    worker.kill()
    await listener.reason()


# -- a pool over two places -------------------------------------------------------------------------------------------


class Placed:
    """A pool over two places."""

    def __init__(self, memory: int | None = None, models: tuple[str, ...] = ("a",), **limits: int) -> None:
        self.placement = TwoPlaces()
        self.pool = Pool(
            {
                name: PoolModel(PlaceEngine(), ModelSpec(name, NoOptions()), ModelLimits(**limits), memory=100 * MB)
                for name in models
            },
            PoolLimits(cores=2, memory=MemoryLimit(MB)),
            far=FarPlaces(self.placement, TwoPlacesOptions(memory)),
        )

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(GUARD):
            await self.pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(GUARD):
            await self.pool.close(grace=0)

    async def ask(self, prompt: str, model: str = "a") -> str:
        async with asyncio.timeout(GUARD):
            return (await self.pool.submit(ask(prompt, model)).gather()).text


async def test_two_models_spread_over_two_places() -> None:
    """Two models that do not fit into one place are served at the same time; nothing is unloaded."""
    async with Placed(150 * MB, ("a", "b")) as placed:
        assert sorted([await placed.ask("where", "a"), await placed.ask("where", "b")]) == ["one", "two"]
        assert len(placed.pool.status().instances) == 2
        assert [one.pid for one in placed.pool.status().instances] == [None, None]


async def test_a_lost_place_costs_only_what_has_begun(tmp_path: Path) -> None:
    """Requests without an answer so far are served elsewhere; the others end with an error that names the place."""
    async with Placed() as placed, asyncio.timeout(GUARD):
        first = await placed.ask("where")
        begun = placed.pool.submit(ask("count", "a"))
        await begun.take()
        silent = placed.pool.submit(ask(f"wait {tmp_path / 'go'}", "a"))
        await until(lambda: len(placed.pool.status().instances) == 1 and placed.pool.status().running == 2)
        placed.placement.lose(first)
        with pytest.raises(EngineDied, match=f"place {first} was lost: its link is cut"):
            await begun.gather()
        (tmp_path / "go").touch()
        assert {first, (await silent.gather()).text} == {"one", "two"}
        assert placed.pool.failed_loads() == ()
        assert placed.pool.status().running == placed.pool.status().waiting == 0


async def test_a_cut_connection_is_enough_to_go_on_elsewhere(tmp_path: Path) -> None:
    """Even before the placement says that a place is gone, its requests are queued anew, and served elsewhere."""
    async with Placed() as placed, asyncio.timeout(GUARD):
        first = await placed.ask("where")
        silent = placed.pool.submit(ask(f"wait {tmp_path / 'go'}", "a"))
        await until(lambda: placed.pool.status().running == 1)
        placed.placement.lose(first, told=False)
        (tmp_path / "go").touch()
        assert {first, (await silent.gather()).text} == {"one", "two"}


async def test_a_load_that_is_lost_with_its_place_has_failed(tmp_path: Path) -> None:
    """It is told as a load that ended, not as the death of a loaded instance; that of a loaded one is told as such."""
    placement, told = TwoPlaces(), list[Event]()
    options = Options(load="hang", once=str(tmp_path / "begun"))
    model = PoolModel(ScriptedEngine(), ModelSpec("a", options), ModelLimits(), memory=100 * MB)
    pool = Pool(
        {"a": model}, PoolLimits(cores=2), observer=told.append, far=FarPlaces(placement, TwoPlacesOptions()),
    )
    async with asyncio.timeout(GUARD):
        await pool.start()
        stream = pool.submit(ask("echo hi", "a"))
        await until((tmp_path / "begun").exists)
        [first] = pool.status().instances
        placement.lose(first.place.removeprefix("place "))
        assert (await stream.gather()).text == "hi"
        [second] = pool.status().instances
        placement.lose(second.place.removeprefix("place "))
        await pool.close(grace=0)
    ends = [one for one in told if isinstance(one, LoadEnded | InstanceDied)]
    assert [(type(one), one.instance) for one in ends] == [
        (LoadEnded, first.id), (LoadEnded, second.id), (InstanceDied, second.id),
    ]
    problems = [one.problem for one in ends if isinstance(one, LoadEnded)]
    assert problems == [f"{first.place} was lost: its link is cut", None]


async def test_kept_instances_come_back_at_another_place() -> None:
    """`min_instances` hold again after their place is lost, without a request."""
    async with Placed(min_instances=1) as placed, asyncio.timeout(GUARD):
        first = await placed.ask("where")
        placed.placement.lose(first)
        await until(lambda: not placed.pool.lacks())
        assert {first, await placed.ask("where")} == {"one", "two"}


async def test_a_request_without_any_place_waits_for_one() -> None:
    """When all places are gone requests wait, and are served as soon as one is there."""
    async with Placed() as placed, asyncio.timeout(GUARD):
        for name in ("one", "two"):
            placed.placement.lose(name)
        stream = placed.pool.submit(ask("where", "a"))
        await until(lambda: placed.pool.status().waiting == 1)
        placed.placement.names.append("two")
        assert placed.placement.events is not None
        placed.placement.events.there(placed.placement.place("two"))
        assert (await stream.gather()).text == "two"


async def test_a_place_with_other_versions_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """A place that tells of other versions gets no workers, and the log names the difference."""
    async with Placed() as placed:
        assert placed.placement.events is not None
        placed.placement.events.there(Place("old", "an old machine", versions={**versions(), "lllms-core": "0.0.1"}))
        assert "old" not in placed.pool._scheduler.fleet.places
        *_, unused = placed.pool.status().places
        assert unused.name == "an old machine"
        assert unused.problem.startswith("the versions must be equal, but lllms-core is 0.0.1 there")
        placed.placement.events.there(Place("new", "an old machine", versions=versions()))
        assert [one.problem for one in placed.pool.status().places] == ["", "", ""]
    assert "an old machine is not used: the versions must be equal, but lllms-core is 0.0.1 there" in caplog.text


async def test_a_place_that_is_installed_anew_is_used_no_more() -> None:
    """A place that has other versions from now on loses its instances, and gets no more."""
    async with Placed() as placed, asyncio.timeout(GUARD):
        first = await placed.ask("where")
        begun = placed.pool.submit(ask("count", "a"))
        await begun.take()
        assert placed.placement.events is not None
        there = placed.placement.place(first)
        placed.placement.events.there(evolve(there, versions={**versions(), "lllms-core": "0.0.1"}))
        with pytest.raises(EngineDied, match="the versions must be equal"):
            await begun.gather()
        assert await placed.ask("where") != first


async def test_the_status_says_why_a_place_is_not_used() -> None:
    """A lost place is shown with the reason until it is there again; one in doubt for the seconds that this lasts."""
    async with Placed() as placed, asyncio.timeout(GUARD):
        first = await placed.ask("where")
        begun = placed.pool.submit(ask("count", "a"))
        await begun.take()
        child = placed.placement.children[first][-1]
        child.lost.set_result("its link is cut")
        with pytest.raises(EngineDied):
            await begun.gather()
        problems = {one.name: one.problem for one in placed.pool.status().places}
        assert "an instance was lost with it" in problems[f"place {first}"]
        placed.placement.names.remove(first)
        assert placed.placement.events is not None
        placed.placement.events.gone(first, "it burns")
        *_, lost = placed.pool.status().places
        assert (lost.name, lost.problem) == (f"place {first}", "it is lost: it burns")
        placed.placement.names.append(first)
        placed.placement.events.there(placed.placement.place(first))
        assert [one.problem for one in placed.pool.status().places] == ["", ""]


async def test_a_model_file_is_fetched_once_for_each_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A place that lacks a file fetches it from the model's source; without one the load fails and says what to do."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    placement = TwoPlaces()
    models = {
        "a": PoolModel(PlaceEngine(), ModelSpec("a", NoOptions(), file=file), source=str(file)),
        "b": PoolModel(PlaceEngine(), ModelSpec("b", NoOptions(), file=file)),
    }
    pool = Pool(models, PoolLimits(), far=FarPlaces(placement, TwoPlacesOptions()))
    async with asyncio.timeout(GUARD):
        await pool.start()
        with pytest.raises(ModelLoadFailed, match=r"has no file .*model.gguf; share the server"):
            await pool.submit(ask("where", "b")).gather()
        for _ in range(2):
            await pool.submit(ask("where", "a")).gather()
            await pool.unload("a")
        assert len(placement.fetched) == 1
        assert f"loaded from {file}" in caplog.text
        await pool.close(grace=0)


# -- the configuration ------------------------------------------------------------------------------------------------


async def test_a_placement_of_a_plugin_is_chosen_by_the_configuration() -> None:
    """`[placement] kind` names it, and its options are its own."""
    plugin = TwoPlugin()
    async with asyncio.timeout(GUARD), host_at_places(plugin, memory=10**9, cores=3) as server:
        stream = server.submit(server.request("a", prompt="where"))
        assert (await stream.gather()).text in {"one", "two"}
        [instance], places = server.status().instances, server.status().places
        assert instance.threads == 3
        assert [one.name for one in places] == ["place one", "place two"]
        assert [(one.instances, one.used) for one in places if one.name == instance.place] == [(1, 100 * 10**6)]
    left = [child for children in plugin.placement.children.values() for child in children]
    assert len(left) == 1
    assert left[0].process.returncode is not None


async def test_clients_see_the_places() -> None:
    """`GET /` and `lllms ps` name the places, what they hold, and where each instance is."""
    plugin = TwoPlugin()
    server = host_at_places(plugin)
    async with asyncio.timeout(GUARD), server, published(server) as url:
        where = (await server.submit(server.request("a", prompt="where")).gather()).text
        shown = await asyncio.to_thread(lambda: CliRunner().invoke(cli, ["ps", "--url", url]).output)
        async with httpx.AsyncClient() as client:
            report = (await client.get(url)).json()
    assert [one["name"] for one in report["places"]] == ["place one", "place two"]
    assert [one["place"] for one in report["instances"]] == [f"place {where}"]
    assert f"place place {where}: 1 instances, 2 cores, about " in shown
    assert f"threads, at place {where}" in shown


@pytest.mark.parametrize(("placement", "fault"), [
    ({"kind": "three"}, "placement.kind: there is no placement 'three'; there are: local, two"),
    ({"kind": "two", "options": {"core": 1}}, "placement.options.core"),
    ({"knd": "two"}, "placement.knd: unknown key"),
])
def test_faults_of_the_configuration_are_named(placement: dict[str, object], fault: str) -> None:
    """An unknown placement, or an unknown option of one, is a fault of the configuration."""
    with pytest.raises(ConfigError, match=re.escape(fault)):
        configured(TwoPlugin(), placement)


async def test_without_a_placement_models_run_here() -> None:
    """`local` is the default, and needs no plugin."""
    async with asyncio.timeout(GUARD), host_at_places(TwoPlugin(), kind="local") as server:
        assert (await server.submit(server.request("a", prompt="where")).gather()).text == "here"
