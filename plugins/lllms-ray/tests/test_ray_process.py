"""The server's side of the process that speaks with Ray, over scripts in its place."""

import asyncio
import logging
import sys

import psutil
import pytest
from lllms_ray import cluster
from lllms_ray.cluster import ClusterNode, RayCluster
from waits_for_tests import GUARD

from lllms_core.placements import PlacementFailed

pytestmark = pytest.mark.slow

BEGIN = """
import json, sys, time
def tell(**what): print(json.dumps(what), flush=True)
def hear(): return json.loads(sys.stdin.readline())
print("Ray says a lot", file=sys.stderr, flush=True)
assert hear() == {"address": "auto"}
"""
JOINED = BEGIN + "tell(node='n', host='10.0.0.1', nodes={'a': 'attic'})\n"


def scripted(text: str) -> RayCluster:
    return RayCluster([sys.executable, "-c", text])


async def test_nodes_and_connections(caplog):
    """Nodes are told as they come and go; a connection that fails says why; what Ray prints is only for debuggers."""
    caplog.set_level(logging.DEBUG, "lllms")
    heard: asyncio.Queue[list[ClusterNode]] = asyncio.Queue()
    ray = scripted(JOINED + (
        "tell(nodes={})\n"
        "for line in sys.stdin:\n"
        "    order = json.loads(line)\n"
        "    tell(id=order['id'], failed=order['environment'].get('why', ''))\n"
    ))
    async with asyncio.timeout(GUARD):
        assert await ray.open("auto", heard.put_nowait, lambda _: None) == ClusterNode("n", "10.0.0.1")
        assert await heard.get() == [ClusterNode("a", "attic")]
        assert await heard.get() == []
        await ray.connect("a", {})
        with pytest.raises(PlacementFailed, match="so it is"):
            await ray.connect("a", {"why": "so it is"})
        await ray.close()
    assert [one.levelname for one in caplog.records if "Ray says a lot" in one.getMessage()] == ["DEBUG"]


async def test_a_cluster_that_is_not_there():
    """The reason why the cluster cannot be joined is that of the process."""
    with pytest.raises(PlacementFailed, match="there is none"):
        await scripted(BEGIN + "tell(failed='there is none')").open("auto", lambda _: None, lambda _: None)


async def test_a_process_that_dies_at_once():
    """A process that ends before it has joined fails the start, with its last words."""
    with pytest.raises(PlacementFailed, match="Ray's process has ended: Ray says a lot / farewell"):
        await scripted(BEGIN + "sys.exit('farewell')").open("auto", lambda _: None, lambda _: None)


async def test_a_process_that_dies_later():
    """Its end is told with its last words, fails whatever waits for it, and it can be opened again."""
    ended: asyncio.Queue[str] = asyncio.Queue()
    ray = scripted(JOINED + "hear(); sys.exit('the head is gone')")
    async with asyncio.timeout(GUARD):
        await ray.open("auto", lambda _: None, ended.put_nowait)
        with pytest.raises(PlacementFailed, match="the head is gone"):
            await ray.connect("a", {})
        assert "the head is gone" in await ended.get()
        with pytest.raises(PlacementFailed, match="no connection to Ray"):
            await ray.connect("a", {})
        await ray.open("auto", lambda _: None, ended.put_nowait)
        await ray.close()
    assert ended.empty()


async def test_a_process_that_has_closed_its_end(monkeypatch):
    """Nobody waits for a process that says nothing any more, although it has not ended yet."""
    monkeypatch.setattr(cluster, "CLOSE_SECONDS", 0.1)
    ended: asyncio.Queue[str] = asyncio.Queue()
    ray = scripted(JOINED + "import os\nhear(); os.close(1); time.sleep(600)")
    async with asyncio.timeout(GUARD):
        await ray.open("auto", lambda _: None, ended.put_nowait)
        with pytest.raises(PlacementFailed, match="Ray's process has ended"):
            await ray.connect("a", {})
        await ended.get()
        with pytest.raises(PlacementFailed, match="no connection to Ray"):
            await ray.connect("a", {})
        await ray.close()


async def test_a_cluster_that_does_not_answer(monkeypatch):
    """A process that does not join within the time fails the start, and is ended, even if it does not want to."""
    monkeypatch.setattr(cluster, "OPEN_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "CLOSE_SECONDS", 0.1)
    before = {*psutil.Process().children()}
    with pytest.raises(PlacementFailed, match=r"within 0\.1 s"):
        await scripted("import time; time.sleep(1000)").open("auto", lambda _: None, lambda _: None)
    assert {*psutil.Process().children()} <= before
