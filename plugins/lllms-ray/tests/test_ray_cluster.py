"""Ray itself, on three nodes in network namespaces of this machine: `make ray`."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import lllms_llamacpp
import psutil
import pytest
import pytest_asyncio
from attrs import evolve
from engines_for_tests import Options, ScriptedEngine
from lllms_ray import RayOptions
from lllms_ray.cluster import RayCluster
from namespaces_for_tests import missing, nodes
from placements_for_tests import PlaceEngine
from pools_for_tests import ask
from servers_for_tests import served
from shared_placement_for_tests import SharedPlacement
from test_worker_both import (  # noqa: F401  # the worker suite, which runs here on another node
    Listener,
    test_broken_engine_is_reported,
    test_cancel_ends_one_request,
    test_failed_load_is_reported,
    test_failing_close_is_reported,
    test_kill_and_close_after_the_end_do_nothing,
    test_kill_ends_a_load,
    test_life_of_a_worker,
    test_many_deltas_in_order,
    test_probes_tell_whether_the_loop_gets_on,
    test_refused_requests_harm_nobody,
)
from waits_for_tests import GUARD, has_ended, until

from lllms_core import Host, hookimpl, parse_config
from lllms_core.engines import NoOptions
from lllms_core.errors import EngineDied, PlaceFull, PlacementFailed
from lllms_core.placements import Ending, FileKey, Launch
from lllms_core.plugins import Plugins
from lllms_core.pool.far_places import FarPlaces
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import MemoryLimit, ModelLimits, PoolLimits
from lllms_core.rendezvous import SILENCE, versions
from lllms_core.types import Message, ModelSpec
from lllms_core.worker.socket_worker import SocketWorker
from lllms_core.worker.wire import Deltas, Load, Loaded, Open

WHY_NOT = missing()
UNLESS = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
pytestmark = [pytest.mark.ray, UNLESS, pytest.mark.asyncio(loop_scope="module")]

MB = 2**20
TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
BUDGET = 150 * MB
"""What instances may take of a node."""
TWO, THREE = "10.77.0.2", "10.77.0.3"
FOUND_SECONDS = 5.0
"""How soon a cut link must be found."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three nodes: the server's, and two others. The third has a disk without room."""
    path = os.pathsep.join([str(Path(__file__).parents[3] / "tests"), str(Path(__file__).parent)])
    common = {"PYTHONPATH": path, "LLLMS_MEMORY_LIMIT": str(BUDGET), "OMP_NUM_THREADS": "2"}
    folder = tmp_path_factory.mktemp("full")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    environment = {
        number: {**common, "LLLMS_TEST_PLACE": f"10.77.0.{number}", "LLLMS_MODELS_DIR": str(store)}
        for number, store in ((1, tmp_path_factory.mktemp("own")), (2, tmp_path_factory.mktemp("store")), (3, folder))
    }
    try:
        with nodes(3, environment) as cluster:
            yield cluster
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(cluster):
    """The placement over the nodes other than the server's."""
    shared = SharedPlacement()
    try:
        async with asyncio.timeout(3 * GUARD):
            await shared.begin(RayOptions(cluster.head, here=False))
            await shared.whole(TWO, THREE)
        yield shared
    finally:
        await shared.end()


@pytest.fixture
def isolation(shared):
    """For the worker suite: where its workers run."""
    return shared, shared.place(TWO)


@pytest.fixture
def gate(tmp_path):
    """A pipe that blocks a load, as in the tests of the core."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path
    end = os.open(path, os.O_RDWR)
    path.unlink()
    os.close(end)


async def start(shared, place, **options) -> tuple[SocketWorker, Listener]:
    listener = Listener()
    load = Load(ScriptedEngine(), ModelSpec("scripted", Options(**options), threads=1))
    async with asyncio.timeout(GUARD):
        worker = await SocketWorker.start(load, listener, shared, place)
        await listener.until(Loaded)
    return worker, listener


def tell(what, seconds):
    """Show a time that was measured, with `pytest -rP`."""
    print(f"{what} after {seconds:.2f} s")  # noqa: T201  # as the docstring says


async def over(pid):
    """Wait until a process of this machine has ended, perhaps without having been reaped."""
    await until(lambda: has_ended(pid))


# -- the contract -----------------------------------------------------------------------------------------------------


async def test_nodes_are_places(shared):
    """The nodes are places with a budget of their own and the versions of this server; the server's own is left out."""
    assert sorted(place.name for place in shared.places.values()) == [TWO, THREE]
    for place in shared.places.values():
        assert (place.memory, place.versions) == (BUDGET, versions())
        assert place.cores >= 1


async def test_a_process_has_tuned_sockets(shared):
    """A launched process connects by as many sockets as asked for, tuned at this end, from its own node."""
    launched = await shared.launch(shared.place(TWO).id, Launch("test", sockets=2))
    assert len(launched.sockets) == 2
    for one in launched.sockets:
        assert one.getpeername()[0] == TWO
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SILENCE * 1000
        one.close()
    async with asyncio.timeout(GUARD):
        assert await launched.ended() == Ending(0)


async def test_the_environment_is_the_nodes(shared, cluster):
    """A process has the environment and priority with which Ray was started on its node, not those of Ray's actors."""
    wanted = Launch("test", {"LLLMS_TEST_PLACE": "engine", "ENGINE": "1"})
    launched = await shared.launch(shared.place(THREE).id, wanted)
    variables = psutil.Process(launched.pid).environ()
    assert variables["LLLMS_TEST_PLACE"] == THREE
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["ENGINE"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in variables
    assert psutil.Process(launched.pid).nice() == psutil.Process(cluster.raylet(3)).nice()
    launched.kill()
    async with asyncio.timeout(GUARD):
        assert await launched.ended() == Ending(-signal.SIGKILL)
    launched.sockets[0].close()


async def test_files_are_found_or_fetched_by_the_node(shared):
    """A node finds a file of a shared disk, fetches others into its own store, and says if its disk has no room."""
    data = TINY.read_bytes()
    two, three = shared.place(TWO).id, shared.place(THREE).id
    assert await shared.find(two, FileKey(TINY, len(data))) == TINY
    wanted = FileKey(Path("/nonexistent/model.gguf"), len(data))
    assert await shared.find(two, wanted) is None
    with served({"/model.gguf": data}, host="10.77.0.1") as site:
        source = f"{site.url}/model.gguf"
        shares = []
        path = await shared.fetch(two, source, wanted, shares.append)
        assert await shared.find(two, evolve(wanted, path=path)) == path
        assert shares[-1] == 1.0
        with pytest.raises(PlaceFull, match=f"{THREE}: no room for"):
            await shared.fetch(three, source, wanted, shares.append)


async def test_logs_come_home(shared, caplog):
    """What a worker logs and prints on a node arrives in the server's log, with the node's name."""
    caplog.set_level(logging.DEBUG, "lllms")
    worker, listener = await start(shared, shared.place(TWO), load="print")
    await until(lambda: f"scripted at {TWO}: written to standard error" in caplog.text)
    worker.kill()
    await listener.reason()


async def test_a_killed_child_tells_its_signal(shared):
    """A worker that is killed on its node is told with the signal, at once; the place stays."""
    worker, listener = await start(shared, shared.place(TWO))
    worker.send(Open(ask("count")))
    await listener.until(Deltas)
    os.kill(worker._launched.pid, signal.SIGKILL)
    assert "SIGKILL" in await listener.reason()
    assert worker.lost == ""
    assert shared.has(TWO)


# -- pools and servers ------------------------------------------------------------------------------------------------


def pool_of(shared, *models, memory=100 * MB, **limits):
    """A pool of models that say where they are."""
    return Pool(
        {name: PoolModel(PlaceEngine(), ModelSpec(name, NoOptions()), ModelLimits(**limits), memory=memory)
         for name in models},
        PoolLimits(cores=2, memory=MemoryLimit(MB)), far=FarPlaces(shared, None),
    )


async def say(pool, prompt, model="a"):
    return (await pool.submit(ask(prompt, model)).gather()).text


async def test_two_models_spread_over_two_nodes(shared):
    """Two models that do not fit into the budget of one node are loaded on two, at the same time."""
    pool = pool_of(shared, "a", "b")
    async with asyncio.timeout(GUARD):
        await pool.start()
        assert sorted([await say(pool, "where", "a"), await say(pool, "where", "b")]) == [TWO, THREE]
        assert len(pool.status().instances) == 2
        await pool.close(grace=0)


class SharedPlugin:
    """A plugin with the shared placement."""

    def __init__(self, shared) -> None:
        self.shared = shared

    @hookimpl
    def lllms_placements(self):
        return [self.shared]


async def test_sessions_across_nodes(shared):
    """A conversation that began on one node is resumed on another, from the session in the server's memory."""
    config = parse_config({
        "placement": {"kind": "ray"}, "sessions": {"min_tokens": 16, "store": "memory"},
        "models": {"tiny": {
            "engine": "llamacpp", "file": str(TINY), "memory": "100MB",
            "options": {"slots": 2, "context_length": 512, "threads": 1, "kept_tokens": 0},
        }},
    })
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "llamacpp"}, extra={"shared": SharedPlugin(shared)})
    async with asyncio.timeout(2 * GUARD), Host(config, plugins) as host:
        async def turn(*texts):
            messages = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
            request = host.request("tiny", messages=messages, parameters={"temperature": 0, "max_tokens": 40})
            return await host.submit(request).gather()

        first = "My name is Bob. The secret word is blimp. Do not forget it."
        said = await turn(first)
        [instance] = host.pool.status().instances
        await host.pool.unload("tiny")
        shared.hide(instance.place)
        again = await turn(first, said.text, "What is the secret word?")
        [other] = host.pool.status().instances
        assert {instance.place, other.place} == {TWO, THREE}
        assert "blimp" in again.text
        assert again.finish.usage.cached_tokens > 16


# -- failures ---------------------------------------------------------------------------------------------------------


def agent_of(cluster, number):
    """The process of an agent of this server on a node."""
    [found] = [one for one in cluster.processes() if "Agent" in one.name() or "Agent" in " ".join(one.cmdline()[:1])
               if psutil.Process(one.pid).environ().get("LLLMS_TEST_PLACE") == f"10.77.0.{number}"]
    return found


async def test_a_killed_agent_takes_its_workers_and_comes_back(shared, cluster):
    """When an agent is killed, its workers die with it, its place is gone at once, and back with the next agent."""
    place = shared.place(TWO)
    worker, listener = await start(shared, place)
    shared.told.clear()
    agent_of(cluster, 2).kill()
    begin = time.monotonic()
    assert f"{TWO} was lost: the connection to its agent has ended" in await listener.reason()
    tell("actor killed: known", time.monotonic() - begin)
    await over(worker._launched.pid)
    assert [name for name, _ in shared.told] == [TWO]
    await shared.whole(TWO, THREE)
    assert shared.place(TWO).id == place.id


async def test_a_cut_link_is_found(shared, cluster):
    """A cut link, of which nobody tells, is found within 5 s at both ends; silent requests are served elsewhere."""
    pool = pool_of(shared, "a", max_instances=1)
    async with asyncio.timeout(3 * GUARD):
        await pool.start()
        where = await say(pool, "where")
        number = int(where[-1])
        begun = pool.submit(ask("count", "a"))
        await begun.take()
        [worker] = [one for one in cluster.processes() if "lllms_core.worker.far_child" in " ".join(one.cmdline())]
        shared.told.clear()
        cluster.link(number, "down")
        begin = time.monotonic()
        with pytest.raises(EngineDied, match=f"{where} was lost"):
            await begun.gather()
        found = time.monotonic() - begin
        tell("link cut: known", found)
        assert found < FOUND_SECONDS
        assert {where, await say(pool, "where")} == {TWO, THREE}
        await over(worker.pid)
        tell("link cut: the worker on the other side ended", time.monotonic() - begin)
        cluster.link(number, "up")
        await shared.whole(TWO, THREE)
        tell("link mended: the node is back", time.monotonic() - begin)
        await pool.close(grace=0)


async def test_a_killed_node_is_found(shared, cluster):
    """When Ray's process of a node is killed, its workers are given up within seconds; restarted, it is a new place."""
    place = shared.place(THREE)
    worker, listener = await start(shared, place)
    worker.send(Open(ask("count")))
    await listener.until(Deltas)
    os.kill(cluster.raylet(3), signal.SIGKILL)
    begin = time.monotonic()
    assert f"{THREE} was lost" in await listener.reason()
    tell("node killed: known", time.monotonic() - begin)
    await over(worker._launched.pid)
    async with asyncio.timeout(2 * GUARD):
        await shared.whole(TWO, THREE)
    assert shared.place(THREE).id != place.id


CONFIG = """
[server]
log_level = "warning"

[placement]
kind = "ray"

[placement.options]
address = "auto"
here = false

[models.bot]
engine = "mock"
memory = "100MB"
min_instances = 1
"""


async def test_nothing_is_left_of_a_killed_server(cluster, tmp_path):
    """When the server is killed, its workers on the nodes end within a second, and its agents soon."""
    config = tmp_path / "lllms.toml"
    config.write_text(CONFIG)
    before = {one.pid for one in cluster.processes()}
    log = (tmp_path / "log").open("wb")
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lllms_core", "serve", "--config", str(config), "--port", "3999",
        stdout=log, stderr=log, cwd=tmp_path,
    )
    async with asyncio.timeout(3 * GUARD), httpx.AsyncClient() as client:
        async def serves():
            with suppress(httpx.HTTPError):
                return (await client.get("http://127.0.0.1:3999/health")).status_code == 200
            return False

        while not await serves():
            assert server.returncode is None, (tmp_path / "log").read_text()
            await asyncio.sleep(0.1)
        body = {"model": "bot", "messages": [{"role": "user", "content": "Hello!"}]}
        answer = await client.post("http://127.0.0.1:3999/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"]
        workers = [one for one in cluster.processes() if "far_child" in " ".join(one.cmdline())]
        assert workers
        server.kill()
        begin = time.monotonic()
        for worker in workers:
            await over(worker.pid)
        ended = time.monotonic() - begin
        tell("server killed: its workers ended", ended)
        assert ended < 1.0
        await server.wait()
        await until(lambda: {one.pid for one in cluster.processes()} <= before, 0.1)
        tell("server killed: its agents ended", time.monotonic() - begin)
    log.close()
    assert "ray" not in (tmp_path / "log").read_text().lower()  # nothing of what it likes to say


async def test_without_a_cluster_the_error_says_what_to_do():
    """Where no cluster runs, the placement fails with the command that starts one."""
    async with asyncio.timeout(2 * GUARD):
        with pytest.raises(PlacementFailed, match=r"there is no Ray cluster at '127.0.0.1:1'.*ray start --head"):
            await RayCluster().open("127.0.0.1:1", lambda _: None, lambda _: None)
