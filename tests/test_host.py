"""The facade: configuration, plugins and pool together, without HTTP."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from engines_for_tests import RawEngine, ScriptedEngine
from waits_for_tests import GUARD

from lllms_core.config import parse_config
from lllms_core.engines import Engine
from lllms_core.errors import (
    ConfigError,
    InvalidRequest,
    LllmsError,
    ModelLoadFailed,
    ModelUnknown,
    ShuttingDown,
    UnsupportedParameter,
)
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.types import Constraint, Message, Sampling, ToolCall

MODEL = {"engine": "scripted", "isolation": "thread"}


class CoolEngine(RawEngine):
    """Honours the temperature and nothing else."""

    name = "cool"
    parameters = frozenset({"temperature"})
    constraints = frozenset({"regex"})


@hookimpl
def lllms_engines() -> list[Engine]:
    return [ScriptedEngine(), CoolEngine()]


def make_host(server: dict[str, object] | None = None, **models: dict[str, object]) -> Host:
    plugin = SimpleNamespace(lllms_engines=lllms_engines)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"tests": plugin})
    return Host(parse_config({"server": server or {}, "models": models}), plugins)


async def test_host_answers() -> None:
    """A host answers requests by name and alias while it is open, and takes none after it is closed."""
    host = make_host(one={**MODEL, "aliases": ["first"]})
    assert not host.ready
    async with asyncio.timeout(GUARD):
        async with host:
            assert host.ready
            assert (await host.submit(host.request("first", prompt="echo hello")).gather()).text == "hello"
            assert [instance.model for instance in host.status().instances] == ["one"]
        assert not host.ready
        assert host.status().instances == ()
        with pytest.raises(ShuttingDown):
            await host.submit(host.request("one", prompt="echo x")).gather()


async def test_min_instances_are_loaded_at_the_start() -> None:
    """Once a host has started, `min_instances` of every model are loaded, and no others."""
    kept = {**MODEL, "min_instances": 2, "max_instances": 2}
    async with asyncio.timeout(GUARD), make_host(kept=kept, other=MODEL) as host:
        assert [(one.model, one.state) for one in host.status().instances] == [("kept", "ready")] * 2


async def test_failing_model_does_not_stop_the_host() -> None:
    """A preloaded model that cannot be loaded fails only the requests for it; each of them tries again."""
    bad = {**MODEL, "min_instances": 1, "options": {"load": "refuse"}}
    async with asyncio.timeout(GUARD), make_host(bad=bad, good={**MODEL, "min_instances": 1}) as host:
        assert [one.model for one in host.status().instances] == ["good"]
        assert (await host.submit(host.request("good", prompt="echo x")).gather()).text == "x"
        with pytest.raises(ModelLoadFailed, match="this file is no model"):
            await host.submit(host.request("bad", prompt="echo x")).gather()


async def test_leaving_during_the_start_ends_the_workers(tmp_path: Path) -> None:
    """A program that gives up while the host loads its models leaves no process behind."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    host = make_host(slow={"engine": "scripted", "min_instances": 1, "options": {"gate": str(gate)}})

    async def enter() -> None:
        async with host:
            raise AssertionError("the load never ends")

    task = asyncio.create_task(enter())
    async with asyncio.timeout(GUARD):
        while not any(one.pid for one in host.status().instances):  # noqa: ASYNC110  # nothing tells of a start
            await asyncio.sleep(0)
        [instance] = host.status().instances
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not psutil.pid_exists(instance.pid or 0)


async def test_close_uses_the_configured_grace() -> None:
    """Unless told otherwise, running requests get `server.shutdown_timeout` seconds."""
    host = make_host({"shutdown_timeout": 0}, one=MODEL)
    async with asyncio.timeout(GUARD):
        await host.start()
        stream = host.submit(host.request("one", prompt="count"))
        await stream.take()
        await host.close()
        with pytest.raises(ShuttingDown):
            await stream.gather()


@pytest.fixture
def host() -> Host:
    """A host that is never started; it only builds requests."""
    return make_host(
        one={**MODEL, "timeout": 5, "defaults": {"temperature": 1.5, "max_tokens": 7}}, cool={"engine": "cool"},
    )


def test_request_is_built_over_the_defaults(host: Host) -> None:
    """A request uses the model's defaults for what it leaves out; what it sets wins, 0 included."""
    request = host.request("one", prompt="count", parameters={"top_k": 0, "stop": ["\n"]})
    assert (request.model, request.prompt) == ("one", "count")
    assert request.sampling == Sampling(temperature=1.5, top_k=0)
    assert (request.max_tokens, request.stop, request.timeout) == (7, ("\n",), 5)
    assert host.request("one", prompt="", parameters={"temperature": 0}).sampling.temperature == 0


def test_constraint_that_the_engine_keeps_goes_into_the_request(host: Host) -> None:
    """An engine gets constraints of the kinds that it declares, unchanged."""
    constraint = Constraint("regex", "[ab]+", "grammar")
    assert host.request("cool", prompt="x", constraint=constraint).constraint == constraint


def test_request_ids_differ(host: Host) -> None:
    """No two requests share an id."""
    assert len({host.request("one", prompt="x").id for _ in range(100)}) == 100


CHAT = [Message("user", "hi")]


@pytest.mark.parametrize(("model", "asked", "error", "param"), [
    ("nonsense", {"prompt": "x"}, ModelUnknown, None),
    ("one", {}, InvalidRequest, "messages"),
    ("one", {"prompt": "x", "messages": CHAT}, InvalidRequest, "messages"),
    ("one", {"messages": []}, InvalidRequest, "messages"),
    ("one", {"prompt": "x", "parameters": {"nonsense": 1}}, InvalidRequest, "nonsense"),
    ("one", {"prompt": "x", "parameters": {"temperature": "hot"}}, InvalidRequest, "temperature"),
    ("one", {"prompt": "x", "parameters": {"top_p": 2}}, InvalidRequest, "top_p"),
    ("cool", {"prompt": "x", "parameters": {"top_p": 0.5}}, UnsupportedParameter, "top_p"),
    ("one", {"prompt": "x", "constraint": Constraint("json_object")}, UnsupportedParameter, "response_format"),
    ("cool", {"prompt": "x", "constraint": Constraint("gbnf", "", "grammar")}, UnsupportedParameter, "grammar"),
])
def test_request_that_cannot_be_served(
    host: Host, model: str, asked: dict[str, object], error: type[LllmsError], param: str | None,
) -> None:
    """A request that cannot be served is refused when it is built, with the name of the field."""
    with pytest.raises(error) as raised:
        host.request(model, **asked)  # type: ignore[arg-type]  # a table of cases
    assert getattr(raised.value, "param", None) == param


def test_parameter_that_asks_for_nothing_is_no_fault(host: Host) -> None:
    """A parameter that the engine does not honour may have its neutral value."""
    assert host.request("cool", prompt="x", parameters={"top_p": 1, "temperature": 0.5}).sampling.temperature == 0.5


def test_configuration_faults_come_before_anything_runs() -> None:
    """A configuration that cannot work is refused when the host is created, with the path of the key."""
    with pytest.raises(ConfigError, match=r"models\.one\.options\.nonsense"):
        make_host(one={**MODEL, "options": {"nonsense": 1}})


def test_what_python_gives_is_bounded_as_bodies_are() -> None:
    """Values nested deeper than `server.max_json_depth`, also as JSON within texts, are refused and never sent."""
    host = make_host({"max_json_depth": 10}, cool=MODEL | {"engine": "cool"})
    deep: dict[str, object] = {}
    for _ in range(2000):
        deep = {"a": deep}
    call = ToolCall("c", "f", '{"a":' * 11)
    cases: list[tuple[str, dict[str, object], Message, Constraint | None]] = [
        ("chat_template_kwargs", {"chat_template_kwargs": deep}, Message("user", "x"), None),
        ("messages[0].tool_calls[0].function.arguments", {}, Message("assistant", "", tool_calls=(call,)), None),
        ("response_format", {}, Message("user", "x"), Constraint("json_schema", '{"a":' * 11)),
    ]
    for param, parameters, message, constraint in cases:
        with pytest.raises(InvalidRequest) as caught:
            host.request("cool", messages=[message], parameters=parameters, constraint=constraint)
        assert caught.value.code == "nested_too_deeply"
        assert (caught.value.param or "").startswith(param)
