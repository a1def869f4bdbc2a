"""The manifests for Kubernetes ask for what the image and the server have, and follow its schemas."""

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from dockerfile_for_tests import Step, read
from test_deploy import DEPLOY, known, variables_in

from lllms_core import parse_config
from lllms_core.app import is_own_name
from lllms_core.config import load_config
from lllms_core.config.settings import ServerConfig
from lllms_core.rendezvous import SILENCE

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SCHEMAS = "1.33"
"""The version of Kubernetes by whose schemas they are checked."""
MOST_STORING = 5.0
"""Seconds that sessions may take to be stored when a server ends."""


def objects(name: str) -> list[Mapping[str, Any]]:
    return [one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()) if one]


def of_kind(name: str, *kinds: str) -> list[Mapping[str, Any]]:
    return [one for one in objects(name) if one["kind"] in kinds]


def image(name: str) -> list[Step]:
    return [step for step in read(DEPLOY / "Dockerfile") if step.name == name]


def pods(name: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The pods of a manifest, each with its only container."""
    for one in of_kind(name, "StatefulSet", "DaemonSet"):
        pod = one["spec"]["template"]["spec"]
        [container] = pod["containers"]
        yield pod, container


def serve(container: Mapping[str, Any]) -> list[str]:
    """The arguments with which a container runs `lllms`."""
    if "command" not in container:
        return list(container.get("args", []))
    last = container["command"][-1].rpartition("&&")[2].split()
    return last[2:] if last[:2] == ["exec", "lllms"] else ["--nothing"]


def each(name: str) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return [(pod, one) for pod, one in pods(name) if serve(one) != ["--nothing"]]


NAMES = [path.name for path in MANIFESTS]


@pytest.mark.parametrize("name", NAMES)
def test_manifests_follow_the_schemas(name: str) -> None:
    """Every object is valid by the schemas of Kubernetes, with no field that they do not know."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: make deploy")
    for one in objects(name):
        validator.validate(one, SCHEMAS, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_server_is_started_as_the_image_starts_it(name: str) -> None:
    """Each manifest has one server: a command that `lllms` knows, on the image's port, as the image's user."""
    [(pod, container)] = each(name)
    assert known(serve(container))
    [port] = [one["containerPort"] for one in container["ports"] if one["name"] == "http"]
    assert [step.words for step in image("EXPOSE")] == [str(port)]
    [user] = [step.words for step in image("USER")]
    assert user == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("name", NAMES)
def test_volumes_are_where_the_image_writes(name: str) -> None:
    """The server's data, and its configuration, are mounted where the image has them; nothing else is writable."""
    [(pod, container)] = each(name)
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts["data"] == image("VOLUME")[-1].words
    assert mounts["config"] == image("WORKDIR")[-1].words
    assert mounts["tmp"] == "/tmp"  # of the container
    assert container["securityContext"]["readOnlyRootFilesystem"]
    claims = {one["metadata"]["name"] for kind in of_kind(name, "StatefulSet")
              for one in kind["spec"].get("volumeClaimTemplates", [])}
    for one, each_container in pods(name):
        there = {volume["name"] for volume in one["volumes"]} | claims
        assert {mount["name"] for mount in each_container["volumeMounts"]} <= there
    assert pod["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("name", NAMES)
def test_variables_and_secrets_are_those_of_the_program(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any,
) -> None:
    """With the image's variables, those of the manifest and its configuration, the server has what it needs."""
    [(_, container)] = each(name)
    environ = dict(pair.split("=", 1) for pair in shlex.split(image("ENV")[-1].words))
    given = {one["name"]: one.get("value", "laptop: sk-x") for one in container["env"] if one["name"] != "POD_IP"}
    [mapped] = [one["data"] for one in of_kind(name, "ConfigMap")]
    (tmp_path / "lllms.toml").write_text(mapped["lllms.toml"])
    monkeypatch.chdir(tmp_path)
    config = load_config(environ={**environ, **{key: value for key, value in given.items() if "LLLMS" in key}})
    assert config.server.api_keys
    assert config.server.host == "0.0.0.0"  # of the container
    assert variables_in(" ".join(given)) == {"LLLMS_API_KEYS"}
    assert set(mapped) == {"lllms.toml"}  # the name that is looked for


@pytest.mark.parametrize("name", NAMES)
def test_services_find_the_pods(name: str) -> None:
    """Each service selects pods by labels that they have, and names a port that they have; so does the policy."""
    pods_labels = [
        (one["spec"]["template"]["metadata"]["labels"], one["spec"]["template"]["spec"]["containers"][0])
        for one in of_kind(name, "StatefulSet", "DaemonSet")
    ]
    for one in of_kind(name, "Service"):
        selector = one["spec"]["selector"]
        selected = [container for labels, container in pods_labels if selector.items() <= labels.items()]
        assert len(selected) == 1
        ports = {port["name"] for port in selected[0]["ports"]}
        assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
    services = {one["metadata"]["name"] for one in of_kind(name, "Service")}
    for one in of_kind(name, "StatefulSet"):
        assert one["spec"]["serviceName"] in services
        assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_called_by_names_that_the_server_answers_to(name: str) -> None:
    """The server answers to its service's names and to a pod's address, by which probes call it."""
    [mapped] = [one["data"]["lllms.toml"] for one in of_kind(name, "ConfigMap")]
    server = parse_config({
        **(tables := tomllib.loads(mapped)), "server": {**tables["server"], "host": "0.0.0.0", "insecure": True},
    }).server
    [service] = [one["metadata"]["name"] for one in of_kind(name, "Service") if "clusterIP" not in one["spec"]]
    for called in (service, f"{service}.default.svc", f"{service}.default.svc.cluster.local", "10.42.0.7"):
        assert is_own_name(called, server), called
    assert not is_own_name("llm.example.org", server)


@pytest.mark.parametrize("name", NAMES)
def test_probes_and_ends_fit_the_server(name: str) -> None:
    """Probes ask a route that needs no key; a pod has time to end: preStop, running answers, and sessions to store."""
    [(pod, container)] = each(name)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 600
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"  # of coreutils, which Debian has
    [mapped] = [one["data"]["lllms.toml"] for one in of_kind(name, "ConfigMap")]
    shutdown = tomllib.loads(mapped)["server"].get("shutdown_timeout", ServerConfig().shutdown_timeout)
    assert pod["terminationGracePeriodSeconds"] > float(seconds) + shutdown + MOST_STORING + SILENCE


def test_nodes_find_the_head() -> None:
    """Each Ray node joins the head by the name and the port of its service, with the same image and token."""
    [(_, server)] = each("ray.yaml")
    [(_, node)] = [(pod, one) for pod, one in pods("ray.yaml") if one is not server and one["name"] == "node"]
    [head] = [one for one in of_kind("ray.yaml", "Service") if one["spec"].get("publishNotReadyAddresses")]
    [port] = head["spec"]["ports"]
    words = shlex.split(node["command"][-1])
    assert f"--address={head['metadata']['name']}:{port['port']}" in words
    assert words[-1] == "--block"  # else the container ends at once
    begin = shlex.split(server["command"][-1].partition("&&")[0])
    assert begin[:3] == ["ray", "start", "--head"]
    assert f"--port={port['port']}" in begin
    assert [one["containerPort"] for one in server["ports"] if one["name"] == port["targetPort"]] == [port["port"]]
    assert node["image"] == server["image"]
    tokens = [[one for one in container["env"] if one["name"].startswith("RAY_AUTH")] for container in (node, server)]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 2
    for container, argv in ((node, words), (server, begin)):
        used = {word.partition("=$")[2] for word in argv if "=$" in word}
        assert used <= {one["name"] for one in container["env"]}
    plugins = (DEPLOY / "kubernetes" / "ray.yaml").read_text().partition('PLUGINS="')[2].partition('"')[0].split()
    assert "lllms-ray" in plugins
