"""The process of a server that speaks with Ray: it tells of nodes, and brings agents to them.

It reads orders from standard input, JSON objects, one a line: first `{"address": ...}`, then any number of
`{"id": N, "connect": NODE, "environment": {...}}`. It writes `{"node": ID, "host": ADDRESS, "nodes": {ID: NAME}}` once
it is connected, `{"nodes": {ID: NAME}}` when they have changed, `{"id": N, "failed": REASON or ""}`. It ends when its
input does.
"""

import json
import os
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from lllms_core.rendezvous import ADDRESS
from lllms_ray.agent import Agent

LOOK_SECONDS = 1.0
"""Between two looks at the nodes."""
CONNECT_SECONDS = 90.0
"""How long an agent may take to start and connect: a node that has just joined may have to start processes first."""
REACH_SECONDS = 10.0
NAMESPACE = "lllms"
START = (
    "start a cluster with `ray start --head` on this machine and `ray start --address=HEAD:6379` on the others, in the"
    " environment that lllms is installed in; the README of lllms-ray has the details"
)


class Driver:
    """Brings agents to the nodes of the cluster that this process has joined."""

    def __init__(self, ray: Any, output: int) -> None:
        """Use this module, `ray`; write to this descriptor."""
        self._ray = ray
        self._output = output
        self._writing = threading.Lock()
        self._agents: dict[str, Any] = {}
        """By node."""
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._count = 0

    def tell(self, what: Mapping[str, object]) -> None:
        """Write a line; ends the process if nobody reads it."""
        with self._writing:
            try:
                os.write(self._output, json.dumps(what).encode() + b"\n")
            except OSError:
                os._exit(0)

    def nodes(self) -> dict[str, str]:
        """Return the names of the nodes that are alive, by their ids."""
        return {
            str(one["NodeID"]): str(one.get("NodeName") or one["NodeManagerAddress"])
            for one in self._ray.nodes() if one["Alive"]
        }

    def look(self, known: Mapping[str, str]) -> None:
        """Tell of the nodes whenever they have changed; never returns."""
        while True:
            time.sleep(LOOK_SECONDS)
            nodes = self.nodes()
            if nodes != known:
                self.tell({"nodes": nodes})
                known = nodes

    def connect(self, number: int, node: str, environment: Mapping[str, str]) -> None:
        """Let a node's agent connect to the server, and tell whether it does."""
        with self._locks[node]:
            self.tell({"id": number, "failed": self._try(node, environment)})

    def _try(self, node: str, environment: Mapping[str, str]) -> str:
        """Return why an agent does not connect; "" if it does."""
        errors = self._ray.exceptions
        try:
            agent = self._agents.get(node) or self._bring(node)
            self._ray.get(agent.connect.remote(environment), timeout=CONNECT_SECONDS)
        except errors.GetTimeoutError:
            self._drop(node)
            return f"its agent did not start within {CONNECT_SECONDS:g} s"
        except errors.ActorUnavailableError:  # Ray starts it again
            return "its agent is being started again"
        except errors.RayTaskError as error:
            where = "{} port {}".format(*environment[ADDRESS].split())
            return f"it cannot reach this server at {where}: {_first(error.cause)}; open that port between them"
        except Exception as error:  # noqa: BLE001  # Ray may raise anything
            self._drop(node)
            missing = "lllms_ray" in str(error) and "No module named" in str(error)
            return "lllms-ray is not installed there: install what this server has" if missing else _first(error)
        return ""

    def _bring(self, node: str) -> Any:  # Ray's handles have no type
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        self._count += 1
        self._agents[node] = self._ray.remote(Agent).options(
            name=f"lllms agent {os.getpid()}.{self._count} of {node[:8]}", num_cpus=0, max_restarts=-1,
            scheduling_strategy=affinity,
        ).remote()
        return self._agents[node]

    def _drop(self, node: str) -> None:
        agent = self._agents.pop(node, None)
        if agent is not None:
            self._ray.kill(agent)


def _first(error: BaseException) -> str:
    """Return the first line of an exception, with its kind."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def join(address: str) -> tuple[Any, str]:
    """Join the cluster; return Ray and why it cannot be joined, "" if it can."""
    if "://" in address:
        return None, f"placement.options.address: {address} is no node's address; this machine must be a node: {START}"
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        return None, f"Ray cannot be imported ({error}); install it: pip install lllms-ray"
    try:
        reach(address)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except OSError as error:
        return None, f"there is no Ray cluster at '{address}' ({_first(error)}); {START}"
    except Exception as error:  # noqa: BLE001  # Ray may raise anything
        return None, f"Ray cannot join the cluster at '{address}': {_first(error)}"
    return ray, ""


def reach(address: str) -> None:
    """Connect to `HOST:PORT`: Ray itself tries a dead address for minutes. Raises `OSError`."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


def main() -> None:
    """Serve the parent until it closes standard input, or is gone."""
    output = os.dup(1)
    os.dup2(2, 1)  # what Ray prints is no answer
    ray, failed = join(str(json.loads(sys.stdin.readline())["address"]))
    driver = Driver(ray, output)
    if failed:
        driver.tell({"failed": failed})
        return
    nodes = driver.nodes()
    own = ray.get_runtime_context().get_node_id()
    driver.tell({"node": own, "host": ray.util.get_node_ip_address(), "nodes": nodes})
    threading.Thread(target=driver.look, args=[nodes], daemon=True).start()
    for line in sys.stdin:
        order = json.loads(line)
        arguments = (int(order["id"]), str(order["connect"]), order["environment"])
        threading.Thread(target=driver.connect, args=arguments, daemon=True).start()
    os._exit(0)  # Ray ends the agents when their driver is gone


if __name__ == "__main__":
    main()
