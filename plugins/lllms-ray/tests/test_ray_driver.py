"""The process that speaks with Ray, over something that only looks like Ray."""

import json
import os
import re
import sys
from types import SimpleNamespace

import pytest
from lllms_ray import driver
from lllms_ray.agent import Agent
from lllms_ray.driver import Driver, join

from lllms_core.rendezvous import ADDRESS


class GetTimeoutError(Exception):
    pass


class ActorUnavailableError(Exception):
    pass


class RayTaskError(Exception):
    def __init__(self, cause):
        super().__init__("a long traceback\nof the other machine")
        self.cause = cause


class LooksLikeRay:
    """Actors whose `connect` raises the errors that a test lists, and then succeeds."""

    exceptions = SimpleNamespace(
        GetTimeoutError=GetTimeoutError, ActorUnavailableError=ActorUnavailableError, RayTaskError=RayTaskError,
    )

    def __init__(self, *errors, alive=()):
        self.errors = list(errors)
        self.alive = alive
        self.made = []
        self.killed = []
        self.util = SimpleNamespace(scheduling_strategies=SimpleNamespace(
            NodeAffinitySchedulingStrategy=lambda node_id, soft: (node_id, soft),
        ))

    def remote(self, kind):
        assert kind is Agent

        def options(**chosen):
            self.made.append(chosen)
            connect = SimpleNamespace(remote=lambda environment: environment)
            return SimpleNamespace(remote=lambda: SimpleNamespace(connect=connect))

        return SimpleNamespace(options=options)

    def get(self, _, timeout):
        assert timeout > 0
        if self.errors:
            raise self.errors.pop(0)

    def kill(self, agent):
        self.killed.append(agent)

    def nodes(self):
        return self.alive


ENVIRONMENT = {ADDRESS: "10.0.0.1 1234"}


@pytest.fixture
def answers():
    """The end of a pipe to write to, and a function that reads what was written."""
    ours, theirs = os.pipe()
    yield theirs, lambda: [json.loads(line) for line in os.read(ours, 1 << 16).splitlines()]
    os.close(ours)
    os.close(theirs)


def test_an_agent_is_brought_to_its_node(answers):
    """An agent has a name, takes no CPUs, stays on its node, is restarted by Ray, and is brought once."""
    output, read = answers
    ray = LooksLikeRay()
    one = Driver(ray, output)
    one.connect(1, "node-a", ENVIRONMENT)
    one.connect(2, "node-a", ENVIRONMENT)
    [made] = ray.made
    assert made.pop("name").startswith("lllms agent ")
    assert made == {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": ("node-a", False)}
    assert read() == [{"id": 1, "failed": ""}, {"id": 2, "failed": ""}]


@pytest.mark.parametrize(("error", "words", "again"), [
    (GetTimeoutError(), "its agent did not start within 90 s", True),
    (ActorUnavailableError(), "its agent is being started again", False),
    (RayTaskError(OSError(113, "No route")), "it cannot reach this server at 10.0.0.1 port 1234: OSError: ", False),
    (RuntimeError("No module named 'lllms_ray'"), "lllms-ray is not installed there: install what", True),
    (RuntimeError("the actor died\nwith details"), "RuntimeError: the actor died", True),
])
def test_why_an_agent_does_not_connect(answers, error, words, again):
    """Each failure is told in words; an agent that cannot be used any more is replaced by another at the next try."""
    output, read = answers
    ray = LooksLikeRay(error)
    one = Driver(ray, output)
    one.connect(1, "node-a", ENVIRONMENT)
    one.connect(2, "node-a", ENVIRONMENT)
    [first, second] = read()
    assert first["failed"].startswith(words)
    assert second["failed"] == ""
    assert len(ray.made) == (2 if again else 1)
    assert len(ray.killed) == (1 if again else 0)


def test_nodes_that_are_alive():
    """Only live nodes are told, by their names, or else their addresses."""
    alive = [
        {"NodeID": "a", "Alive": True, "NodeName": "attic", "NodeManagerAddress": "10.0.0.1"},
        {"NodeID": "b", "Alive": True, "NodeManagerAddress": "10.0.0.2"},
        {"NodeID": "c", "Alive": False, "NodeManagerAddress": "10.0.0.3"},
    ]
    assert Driver(LooksLikeRay(alive=alive), 1).nodes() == {"a": "attic", "b": "10.0.0.2"}


def test_without_ray(monkeypatch):
    """If Ray is missing, the error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    ray, failed = join("auto")
    assert ray is None
    assert failed.startswith("Ray cannot be imported")
    assert failed.endswith("install it: pip install lllms-ray")


def test_a_client_of_ray_is_no_node():
    """An address of Ray's client is refused: the server's machine must be a node."""
    assert "this machine must be a node" in join("ray://10.0.0.1:10001")[1]


@pytest.mark.parametrize(("error", "words"), [
    (ConnectionError("nothing answers"), "there is no Ray cluster at '10.0.0.1:6379' .* `ray start --head`"),
    (RuntimeError("Version mismatch:\nlong"), r"cannot join the cluster at '10.0.0.1:6379': .*Version mismatch:$"),
])
def test_a_cluster_that_cannot_be_joined(monkeypatch, error, words):
    """The reason is told in one line, and the way out."""
    def init(**_):
        raise error

    strategies = SimpleNamespace()
    util = SimpleNamespace(scheduling_strategies=strategies)
    monkeypatch.setattr(driver, "reach", lambda address: None)
    ray = SimpleNamespace(init=init, util=util)
    for name, module in {"ray": ray, "ray.util": util, "ray.util.scheduling_strategies": strategies}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert re.search(words, join("10.0.0.1:6379")[1])


def test_a_dead_address_is_found_at_once(monkeypatch):
    """An address at which nothing listens is told as such, without Ray, which would try it for minutes."""
    util = SimpleNamespace(scheduling_strategies=SimpleNamespace())
    strategies = util.scheduling_strategies
    ray = SimpleNamespace(util=util)
    for name, module in {"ray": ray, "ray.util": util, "ray.util.scheduling_strategies": strategies}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert "there is no Ray cluster at '127.0.0.1:1' (ConnectionRefusedError" in join("127.0.0.1:1")[1]


def test_the_process_of_the_driver_has_no_other_name():
    """The placement starts this module by its name."""
    from lllms_ray.cluster import RayCluster

    assert RayCluster()._command[-1] == driver.__name__
