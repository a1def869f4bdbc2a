"""The placement: each node of a cluster is a place, for as long as an agent on it is connected to this server."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from attrs import evolve

from lllms_core.placements import FileKey, Launch, Place, PlaceEvents, PlaceLost, Placement, PlacementFailed
from lllms_core.rendezvous import Arrival, Expected, Rendezvous
from lllms_core.types import Device
from lllms_ray.cluster import Cluster, ClusterNode, RayCluster
from lllms_ray.options import RayOptions
from lllms_ray.remote import Answer, FarProcess, Remote, Started

LOG = logging.getLogger("lllms.ray")

START_SECONDS = 120.0
"""How long a node's agent may take to connect, after Ray was told to start it."""
LAUNCH_SECONDS = 60.0
"""How long a worker may take to connect."""
OPEN_SECONDS = 30.0
"""How long the server's start waits for the agents of the nodes that are there; later ones join when they come."""
MUCH = 32
"""A fraction: room on a disk that has changed by more than one part in this many is told anew."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two tries to reach a node or the cluster."""


class RayPlacement(Placement):
    """Runs workers on the nodes of a cluster of Ray."""

    name = "ray"
    Options = RayOptions

    def __init__(self, cluster: Callable[[], Cluster] = RayCluster) -> None:
        self._make = cluster
        self._cluster: Cluster | None = None
        self._options = RayOptions()
        self._events: PlaceEvents | None = None
        self._rendezvous = Rendezvous()
        self._own = ClusterNode("", "")
        self._listens = False
        self._nodes: dict[str, ClusterNode] = {}
        """Those that Ray says are alive."""
        self._keeping: dict[str, asyncio.Task[None]] = {}
        """By node."""
        self._settled: dict[str, asyncio.Event] = {}
        """By node: set once its first try to connect has succeeded or failed."""
        self._remotes: dict[str, Remote] = {}
        """By node: the connected agents."""
        self._places: dict[str, Place] = {}
        """By node: as they were told."""
        self._opening: asyncio.Task[None] | None = None

    async def open(self, options: object, events: PlaceEvents) -> None:
        """Join the cluster, and start an agent on each node."""
        assert isinstance(options, RayOptions)  # noqa: S101  # made by the host
        self._options, self._events = options, events
        self._cluster = self._make()
        try:
            self._own = await self._cluster.open(options.address, self._seen, self._ended)
            await self._rendezvous.open(options.host or self._own.name, options.port)
        except BaseException:
            await self._cluster.close()
            raise
        self._listens = True
        self._settle()
        waiting = [asyncio.create_task(one.wait()) for one in self._settled.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=OPEN_SECONDS)
        for task in waiting:
            task.cancel()

    async def launch(self, place: str, launch: Launch) -> FarProcess:
        """Let the agent start a worker, and wait for its connections."""
        remote = self._remote(place)
        expected = self._rendezvous.expect(launch.sockets)
        process = remote.launch(
            launch.label, launch.sockets, launch.environment, expected.environment, launch.output,
        )
        try:
            arrival = await self._arrival(expected, process, remote)
        except BaseException:
            remote.kill(process)
            raise
        return FarProcess(arrival.pid, arrival.sockets, remote, process)

    async def find(self, place: str, file: FileKey) -> PurePath | None:
        """Ask the node for the file: at the same path, or in its own store."""
        about = {"path": str(file.path), "size": file.size, "sha256": file.sha256}
        path = (await self._ask(place, "find", about)).get("path")
        return None if path is None else Path(str(path))

    async def fetch(
        self, place: str, source: str, file: FileKey, progress: Callable[[float], None],
    ) -> PurePath:
        """Let the node's own store fetch the file."""
        def tell(answer: Answer) -> None:
            if "share" in answer:
                progress(float(str(answer["share"])))

        about = {"source": source, "size": file.size, "sha256": file.sha256}
        return Path(str((await self._ask(place, "fetch", about, tell))["path"]))

    async def close(self) -> None:
        """End the workers, then the agents."""
        self._events = None
        tasks = [*self._keeping.values(), *([] if self._opening is None else [self._opening])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(remote.close() for remote in self._remotes.values()))
        self._remotes.clear()
        if self._cluster is not None:
            await self._cluster.close()
        await self._rendezvous.close()

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _seen(self, nodes: Sequence[ClusterNode]) -> None:
        """Take the nodes that are alive."""
        self._nodes = {one.id: one for one in nodes}
        self._settle()

    def _settle(self) -> None:
        """Keep an agent on each node that is alive, and on no other."""
        if not self._listens or self._events is None:
            return
        wanted = {node: one for node, one in self._nodes.items() if self._options.here or node != self._own.id}
        for node in self._keeping.keys() - wanted.keys():
            self._keeping.pop(node).cancel()
            self._drop(node, "Ray says that the node is gone")
        for node in wanted.keys() - self._keeping.keys():
            self._settled[node] = asyncio.Event()
            self._keeping[node] = asyncio.create_task(self._keep(wanted[node], self._settled[node]))

    async def _keep(self, node: ClusterNode, settled: asyncio.Event) -> None:
        """Keep an agent on a node, which is a place while the agent is connected."""
        pause, said = FIRST_PAUSE, ""
        while True:
            try:
                remote = await self._connect(node)
            except PlacementFailed as error:
                level, said = logging.DEBUG if str(error) == said else logging.WARNING, str(error)
                LOG.log(level, "%s is not used: %s", node.name, error)
                settled.set()
            else:
                pause, said = FIRST_PAUSE, ""
                settled.set()
                self._drop(node.id, await remote.lost())
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self, node: ClusterNode) -> Remote:
        """Let a node's agent connect, ask it for the facts, and tell of the place."""
        assert self._cluster is not None  # noqa: S101  # it is open
        expected = self._rendezvous.expect(1)
        arriving = asyncio.create_task(expected.arrived(START_SECONDS))
        try:
            await self._cluster.connect(node.id, expected.environment)
            remote = await Remote.open(node.name, (await asyncio.shield(arriving)).sockets[0])
        except BaseException:
            await _abandon(arriving)
            raise
        try:
            place = described(node, await remote.ask("facts"))
        except BaseException:
            remote.cut("it was given up")
            raise
        self._remotes[node.id], self._places[node.id] = remote, place
        if self._events is not None:
            self._events.there(place)
        return remote

    async def _ask(
        self, place: str, question: str, about: Answer, tell: Callable[[Answer], None] = lambda _: None,
    ) -> Answer:
        """Ask a node about files, and tell if the room on its disk has changed by much."""
        def take(answer: Answer) -> None:
            tell(answer)
            known, disk = self._places.get(place), answer.get("disk")
            if known is None or not isinstance(disk, int) or self._events is None:
                return
            if known.disk is None or abs(disk - known.disk) > known.disk // MUCH:
                self._places[place] = evolve(known, disk=disk)
                self._events.there(self._places[place])

        return await self._remote(place).ask(question, about, take)

    def _drop(self, node: str, reason: str) -> None:
        """Give up a node's agent, if there is one, and tell that the place is gone."""
        self._places.pop(node, None)
        if (remote := self._remotes.pop(node, None)) is not None:
            remote.cut(reason)
            if self._events is not None:
                self._events.gone(node, reason)

    # -- the cluster --------------------------------------------------------------------------------------------------

    def _ended(self, reason: str) -> None:
        """The connection to the cluster has ended; agents may still be connected."""
        if self._events is not None:
            LOG.error("the connection to the cluster has ended, and is tried again: %s", reason)
            self._opening = asyncio.create_task(self._reopen())

    async def _reopen(self) -> None:
        assert self._cluster is not None  # noqa: S101  # it was open
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            try:
                self._own = await self._cluster.open(self._options.address, self._seen, self._ended)
            except PlacementFailed as error:
                LOG.debug("the cluster cannot be reached: %s", error)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                LOG.info("the connection to the cluster is there again")
                return

    # -- workers ------------------------------------------------------------------------------------------------------

    def _remote(self, place: str) -> Remote:
        if (found := self._remotes.get(place)) is None:
            raise PlaceLost("the node was lost before the worker began")
        return found

    async def _arrival(self, expected: Expected, process: Started, remote: Remote) -> Arrival:
        """Wait for a worker's connections, or its end."""
        arriving = asyncio.create_task(expected.arrived(LAUNCH_SECONDS))
        try:
            either: list[asyncio.Future[Any]] = [arriving, process.over]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if arriving.done():
                return arriving.result()
        except BaseException:
            await _abandon(arriving)
            raise
        await _abandon(arriving)
        ending = process.over.result()
        if ending.lost:
            raise PlaceLost(f"{remote.name} was lost: {ending.lost}")
        why = process.failed or f"the worker ended with status {ending.status} before it connected"
        raise PlacementFailed(f"{remote.name}: {why}")


def described(node: ClusterNode, facts: Answer) -> Place:
    """Return a node as a place, by the facts from its agent. Raises `PlacementFailed` if that makes no sense."""
    match facts:
        case {
            "cores": int(cores), "memory": None | int() as memory, "disk": None | int() as disk, "devices": list(gpus),
            "versions": dict(versions),
        }:
            devices = tuple(Device(str(one["name"]), int(one["total"]), int(one["free"])) for one in gpus)
            return Place(node.id, node.name, cores, memory, devices, _texts(versions), disk)
    raise PlacementFailed(f"{node.name} tells nonsense of itself")


def _texts(versions: Mapping[object, object]) -> Mapping[str, str]:
    return {str(name): str(version) for name, version in versions.items()}


async def _abandon(arriving: asyncio.Task[Arrival]) -> None:
    """Expect connections no more, and close those that have come."""
    arriving.cancel()
    [came] = await asyncio.gather(arriving, return_exceptions=True)
    if isinstance(came, Arrival):
        for connection in came.sockets:
            connection.close()
