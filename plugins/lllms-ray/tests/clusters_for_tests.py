"""A cluster without Ray: the nodes are this machine, and their agents threads of this process."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from attrs import evolve
from lllms_ray import RayOptions, RayPlacement
from lllms_ray.agent import Agent
from lllms_ray.cluster import ClusterNode
from placements_for_tests import Places

from lllms_core.placements import PlacementFailed
from lllms_core.rendezvous import TOKEN

OWN = "own"
"""The id of the node that the server is on."""


class ThreadCluster:
    """A cluster of agents in this process. Its first node is the server's own."""

    def __init__(self, *names: str, environment: Mapping[str, str] | None = None) -> None:
        self.variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})}
        self.agents: dict[str, Agent] = {}
        self.nodes = [ClusterNode(OWN, "own")]
        self.seen: Callable[[Sequence[ClusterNode]], None] | None = None
        self.ended: Callable[[str], None] | None = None
        self.refused = ""
        """Why no agent connects."""
        self.unreachable = 0
        """How many tries to open it fail."""
        self.opened = 0
        self.addresses: list[str] = []
        for name in names:
            self.join(name)

    def join(self, name: str) -> None:
        """Let a node join."""
        self.nodes.append(ClusterNode(f"id-{name}", name))
        self.tell()

    def leave(self, name: str) -> None:
        """Let a node be gone, as far as the cluster knows; its agent and processes stay."""
        self.nodes = [one for one in self.nodes if one.name != name]
        self.tell()

    def tell(self) -> None:
        """Tell of the nodes."""
        if self.seen is not None:
            self.seen(list(self.nodes))

    async def open(
        self, address: str, seen: Callable[[Sequence[ClusterNode]], None], ended: Callable[[str], None],
    ) -> ClusterNode:
        """Tell of the nodes, unless it is unreachable."""
        self.addresses.append(address)
        if self.unreachable:
            self.unreachable -= 1
            raise PlacementFailed("there is no cluster")
        self.opened += 1
        self.seen, self.ended = seen, ended
        self.tell()
        return evolve(self.nodes[0], name="127.0.0.1")

    async def connect(self, node: str, environment: Mapping[str, str]) -> None:
        """Let an agent connect, in a thread as Ray does it elsewhere."""
        if self.refused:
            raise PlacementFailed(self.refused)
        assert len(bytes.fromhex(environment[TOKEN])) == 16
        agent = self.agents.setdefault(node, Agent(lambda: self.variables))
        await asyncio.to_thread(agent.connect, environment)

    async def close(self) -> None:
        """End the agents."""
        for agent in self.agents.values():
            await asyncio.to_thread(agent.disconnect)


@asynccontextmanager
async def placed(
    cluster: ThreadCluster, options: RayOptions = RayOptions(here=False),  # noqa: B008  # a frozen value
) -> AsyncIterator[tuple[RayPlacement, Places]]:
    """Open a placement over a cluster, and close it."""
    placement, places = RayPlacement(lambda: cluster), Places()
    await placement.open(options, places)
    try:
        yield placement, places
    finally:
        await placement.close()
