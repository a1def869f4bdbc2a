"""The placement over a cluster without Ray: real agents, workers and stores on this machine."""

import asyncio
import hashlib
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import lllms_llamacpp
import psutil
import pytest
from clusters_for_tests import OWN, ThreadCluster, placed
from engines_for_tests import EnvironmentEngine, Options, ScriptedEngine
from lllms_ray import RayOptions, RayPlacement, agent, placement
from pools_for_tests import ask
from servers_for_tests import hang, served
from test_worker_both import Listener
from waits_for_tests import GUARD, has_ended, until

from lllms_core import Host, hookimpl, parse_config
from lllms_core.config import ServerConfig
from lllms_core.engines import Engine
from lllms_core.errors import ModelLoadFailed, PlaceLost, PlacementFailed
from lllms_core.machine import available_cores
from lllms_core.placements import Ending, FileKey, Launch
from lllms_core.plugins import Plugins
from lllms_core.pool.needs import memory_limit
from lllms_core.rendezvous import SILENCE, node_command, versions
from lllms_core.types import ModelSpec
from lllms_core.worker.socket_worker import SocketWorker
from lllms_core.worker.wire import Deltas, Load, Loaded, Open

pytestmark = pytest.mark.slow

ONE = "id-one"
DATA = (Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf").read_bytes()
SHA256 = hashlib.sha256(DATA).hexdigest()


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


FACTS = {"cores": 2, "memory": 250 * 10**6, "disk": 10**20, "devices": [], "versions": dict(versions())}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Tries follow each other at once, and the facts are those of a program that takes no second."""
    def quickly(question):
        told = (sys.executable, "-I", "-S", "-c", f"print({json.dumps(json.dumps(FACTS))})")
        return told if question == "facts" else node_command(question)

    monkeypatch.setattr(placement, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(agent, "node_command", quickly)


async def start(
    ray: RayPlacement, places, engine: Engine | None = None, load: str = "",
) -> tuple[SocketWorker, Listener]:
    listener = Listener()
    what = Load(engine or ScriptedEngine(), ModelSpec("scripted", Options(load=load), threads=1))  # type: ignore[arg-type]
    async with asyncio.timeout(GUARD):
        return await SocketWorker.start(what, listener, ray, places.known[ONE]), listener


# -- places -----------------------------------------------------------------------------------------------------------


async def test_nodes_are_places():
    """Each node is told while the placement opens; the server's own, if wanted, too."""
    async with placed(ThreadCluster("one")) as (_, places):
        assert [*places.known] == [ONE]
    async with placed(ThreadCluster("one"), RayOptions()) as (_, places):
        assert {*places.known} == {ONE, OWN}


@pytest.mark.parametrize("limit", ["123MB", ""])
async def test_a_node_tells_its_facts(monkeypatch, limit):
    """A place has the cores and versions of its node, and its memory: its own limit, or all less a reserve."""
    monkeypatch.setattr(agent, "node_command", node_command)
    environment = {"LLLMS_MEMORY_LIMIT": limit} if limit else {}
    async with placed(ThreadCluster("one", environment=environment)) as (_, places):
        place = places.known[ONE]
    usable = memory_limit(ServerConfig())
    assert (place.id, place.name, place.cores) == (ONE, "one", available_cores())
    assert place.memory == (123 * 10**6 if limit else usable and usable.total)
    assert place.versions == versions()
    assert place.disk > 0


async def test_nodes_come_and_go():
    """A node that joins is a place soon; one that the cluster says is gone is no longer one, with all its workers."""
    cluster = ThreadCluster()
    async with placed(cluster) as (ray, places), asyncio.timeout(GUARD):
        assert places.known == {}
        cluster.join("one")
        await until(lambda: ONE in places.known)
        launched = await ray.launch(ONE, Launch("test"))
        cluster.leave("one")
        assert places.known == {}
        ending = await launched.ended()
        assert (ending.status, ending.lost) == (None, "Ray says that the node is gone")
        await until(lambda: not psutil.pid_exists(launched.pid))
        with pytest.raises(PlaceLost):
            await ray.launch(ONE, Launch("test"))
        launched.sockets[0].close()


async def test_an_agent_that_is_lost_comes_back():
    """When an agent ends, its place and workers are gone; as soon as another one is there, so is the place."""
    cluster = ThreadCluster("one")
    async with placed(cluster) as (ray, places), asyncio.timeout(GUARD):
        launched = await ray.launch(ONE, Launch("test"))
        before = places.known[ONE]
        gone = asyncio.Event()
        places.gone = lambda place, reason: (places.known.pop(place), gone.set())
        await asyncio.to_thread(cluster.agents[ONE].disconnect)
        await gone.wait()
        assert (await launched.ended()).lost == "the connection to its agent has ended"
        await until(lambda: not psutil.pid_exists(launched.pid))
        await until(lambda: places.known == {ONE: before})
        launched.sockets[0].close()


async def test_a_node_that_cannot_be_used_is_named(caplog):
    """A node whose agent does not connect is named once in the log, tried again, and keeps nobody waiting."""
    cluster = ThreadCluster("one")
    cluster.refused = "lllms-ray is not installed there"
    async with placed(cluster) as (_, places), asyncio.timeout(GUARD):
        assert places.known == {}
        assert "one is not used: lllms-ray is not installed there" in caplog.text
        cluster.refused = ""
        await until(lambda: ONE in places.known)
    assert caplog.text.count("is not used") == 1


async def test_a_node_with_other_versions_is_not_used(tmp_path, caplog, monkeypatch):
    """An agent with other versions is turned away before it gets anything, and the difference is named."""
    monkeypatch.setattr(agent, "versions", lambda: {**versions(), "lllms-core": "0.0.1"})
    async with placed(ThreadCluster("one")) as (_, places):
        assert places.known == {}
    assert "one is not used: the versions must be equal, but lllms-core is 0.0.1 there" in caplog.text


async def test_the_cluster_is_joined_again():
    """When the connection to the cluster ends, places stay, and it is opened again until that succeeds."""
    cluster = ThreadCluster("one")
    async with placed(cluster, RayOptions("10.0.0.9:1", here=False)) as (_, places), asyncio.timeout(GUARD):
        cluster.unreachable = 2
        cluster.ended("its head is gone")
        assert [*places.known] == [ONE]
        await until(lambda: cluster.opened == 2)
        cluster.join("two")
        await until(lambda: {*places.known} == {ONE, "id-two"})
    assert {*cluster.addresses} == {"10.0.0.9:1"}


async def test_without_a_cluster_it_says_so():
    """A cluster that cannot be joined fails the start, in the cluster's words."""
    cluster = ThreadCluster()
    cluster.unreachable = 1
    with pytest.raises(PlacementFailed, match="there is no cluster"):
        await RayPlacement(lambda: cluster).open(RayOptions(), None)


# -- workers ----------------------------------------------------------------------------------------------------------


async def test_workers_connect_by_tuned_sockets():
    """Their sockets send small messages at once, and notice within seconds that the other end is gone."""
    async with placed(ThreadCluster("one")) as (ray, _), asyncio.timeout(GUARD):
        launched = await ray.launch(ONE, Launch("test", sockets=2))
        for one in launched.sockets:
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SILENCE * 1000
            one.close()  # the server is gone, for all it knows
        assert await launched.ended() == Ending(0)


@pytest.mark.parametrize(("fault", "reason"), [("kill", "SIGKILL"), ("exit", "status 7")])
async def test_a_death_is_told_with_its_status(fault, reason):
    """How a worker died is told, and that is no lost place."""
    async with placed(ThreadCluster("one")) as (ray, places):
        worker, listener = await start(ray, places)
        await listener.until(Loaded)
        worker.send(Open(ask(fault)))
        assert reason in await listener.reason()
        assert worker.lost == ""


async def test_a_killed_worker_takes_what_it_has_started():
    """Processes that a worker has started end with it, whether it is killed or dies."""
    async with placed(ThreadCluster("one")) as (ray, places), asyncio.timeout(GUARD):
        for end in ("kill", "die"):
            worker, listener = await start(ray, places)
            await listener.until(Loaded)
            worker.send(Open(ask("child")))
            message = await listener.until(Deltas)
            child = int(message.deltas[0].text)
            assert psutil.pid_exists(child)
            if end == "kill":
                worker.kill()
            else:
                os.kill(worker._launched.pid, signal.SIGKILL)
            await listener.reason()
            await until(lambda pid=child: has_ended(pid))


async def test_a_worker_runs_in_the_environment_of_its_node():
    """The node's own variables go before those of the engine, which go before nothing."""
    async with placed(ThreadCluster("one", environment={"LLLMS_TEST_USER": "node"})) as (ray, places):
        _, listener = await start(ray, places, EnvironmentEngine())
        loaded = await listener.until(Loaded)
        assert loaded.info.details == {"LLLMS_TEST_ENGINE": "engine", "LLLMS_TEST_USER": "node"}


async def test_its_log_comes_home(caplog):
    """What a worker logs on its node arrives in the server's log, with the names of the model and the node."""
    caplog.set_level(logging.DEBUG, "lllms")
    async with placed(ThreadCluster("one")) as (ray, places):
        _, listener = await start(ray, places, load="log")
        await listener.reason()
    assert "scripted at one: a state of 7 bytes was lost" in caplog.text
    assert "scripted at one: printed" in caplog.text


async def test_engines_of_the_main_script_are_refused_by_name(monkeypatch):
    """Other machines do not have this program's main script."""
    monkeypatch.setattr(ScriptedEngine, "__module__", "__main__")
    async with placed(ThreadCluster("one")) as (ray, places):
        with pytest.raises(ModelLoadFailed, match="engine 'scripted' is defined in the main script"):
            await start(ray, places)


async def test_a_worker_that_does_not_start_says_why():
    """A worker that ends before it connects fails the launch at once, with its status and its node."""
    cluster = ThreadCluster("one")
    async with placed(cluster) as (ray, _), asyncio.timeout(GUARD):
        remote = ray._remotes[ONE]
        heard = []
        launch = remote.launch
        remote.launch = lambda label, sockets, _, own, output: launch(label, sockets, {}, {**own, **BROKEN}, output)
        with pytest.raises(PlacementFailed, match="one: the worker ended with status 1 before it connected"):
            await ray.launch(ONE, Launch("test", output=heard.append))
        assert b"ModuleNotFoundError" in b"".join(heard)
        assert ray._rendezvous.expected == {}


BROKEN = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1", "PYTHONHOME": "/nonexistent"}
"""Variables without which Python finds nothing."""


async def test_workers_end_with_the_placement():
    """When the placement closes, no process is left on the node, even if nobody has closed its sockets."""
    before = {*psutil.Process().children(recursive=True)}
    async with placed(ThreadCluster("one")) as (ray, _):
        launched = await ray.launch(ONE, Launch("test"))
    assert {*psutil.Process().children(recursive=True)} <= before
    launched.sockets[0].close()


# -- files ------------------------------------------------------------------------------------------------------------


async def test_a_file_on_a_shared_disk_is_found_if_it_is_the_same(tmp_path):
    """A path that exists on the node counts if size and hash are right; a hash that nobody knows is computed once."""
    file = tmp_path / "model.gguf"
    file.write_bytes(DATA)
    store = tmp_path / "store"
    async with placed(ThreadCluster("one", environment={"LLLMS_MODELS_DIR": str(store)})) as (ray, _):
        assert await ray.find(ONE, FileKey(file, len(DATA))) == file
        assert await ray.find(ONE, FileKey(file, len(DATA) + 1)) is None
        assert await ray.find(ONE, FileKey(file, len(DATA), SHA256)) == file
        assert [*(store / "records" / "files").iterdir()]
        assert await ray.find(ONE, FileKey(file, len(DATA), "0" * 64)) is None
        assert await ray.find(ONE, FileKey(tmp_path / "other.gguf", len(DATA), SHA256)) is None


async def test_a_node_fetches_into_its_own_store(tmp_path):
    """A missing file is fetched by the node, with progress, and found there by its hash afterwards, not elsewhere."""
    elsewhere = FileKey(Path("/nonexistent/model.gguf"), len(DATA), SHA256)
    environment = {"LLLMS_MODELS_DIR": str(tmp_path / "store")}
    with served({"/model.gguf": DATA}) as site:
        async with placed(ThreadCluster("one", environment=environment)) as (ray, places):
            assert await ray.find(ONE, elsewhere) is None
            shares: list[float] = []
            path = await ray.fetch(ONE, f"{site.url}/model.gguf", elsewhere, shares.append)
            assert path.is_relative_to(tmp_path / "store")
            assert sha256(path) == SHA256
            assert shares[-1] == 1.0
            assert places.known[ONE].disk < 10**20  # told anew
            assert await ray.find(ONE, elsewhere) == path


@pytest.mark.parametrize(("wanted", "reason"), [
    (FileKey(Path("model.gguf"), 7), "one: .*model.gguf has .*, and the server's file"),
    (FileKey(Path("model.gguf"), len(DATA), "0" * 64), "one: .*SHA-256"),
])
async def test_another_file_is_refused(tmp_path, wanted, reason):
    """If the source has another file by now, the fetch fails, and names the node and the difference."""
    environment = {"LLLMS_MODELS_DIR": str(tmp_path / "store")}
    with served({"/model.gguf": DATA}) as site:
        async with placed(ThreadCluster("one", environment=environment)) as (ray, _):
            with pytest.raises(PlacementFailed, match=reason):
                await ray.fetch(ONE, f"{site.url}/model.gguf", wanted, lambda _: None)


async def test_an_interrupted_fetch_ends_on_the_node(tmp_path):
    """When nobody waits for a fetch any more, its process on the node ends."""
    before = {*psutil.Process().children(recursive=True)}
    environment = {"LLLMS_MODELS_DIR": str(tmp_path / "store")}
    with served({"/model.gguf": DATA}) as site:
        site.faults = [hang(100)]
        async with placed(ThreadCluster("one", environment=environment)) as (ray, _), asyncio.timeout(GUARD):
            wanted = FileKey(Path("model.gguf"), len(DATA))
            fetching = asyncio.create_task(ray.fetch(ONE, f"{site.url}/model.gguf", wanted, lambda _: None))
            await until(lambda: {*psutil.Process().children(recursive=True)} - before)
            fetching.cancel()
            await until(lambda: {*psutil.Process().children(recursive=True)} <= before)


# -- the configuration ------------------------------------------------------------------------------------------------


class RayPlugin:
    """The plugin, over a cluster without Ray."""

    def __init__(self, cluster: ThreadCluster) -> None:
        self.cluster = cluster

    @hookimpl
    def lllms_placements(self):
        return [RayPlacement(lambda: self.cluster)]


async def test_a_server_over_the_nodes():
    """`[placement] kind = "ray"` runs models on the nodes."""
    cluster = ThreadCluster("one", "two")
    models = {
        name: {"engine": "mock", "memory": "200MB", "options": {"script": [{"replies": [name]}]}} for name in "ab"
    }
    config = parse_config({"placement": {"kind": "ray", "options": {"here": False}}, "models": models})
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "mock"}, extra={"here": RayPlugin(cluster)})
    async with asyncio.timeout(GUARD), Host(config, plugins) as host:
        for name in "ab":
            assert (await host.submit(host.request(name, prompt="x")).gather()).text == name
        assert {one.place for one in host.pool.status().instances} == {"one", "two"}


