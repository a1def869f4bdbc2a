"""A new configuration in a running host: only what has changed is touched, and nothing at all if it has faults."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import lllms_llamacpp
import pytest
from attrs import fields
from gates_for_tests import Gate, GatePlugin
from reloading_for_tests import Source, bot, hosting, say, state_of
from waits_for_tests import GUARD, until

from lllms_core.config import Config, parse_config
from lllms_core.config.changes import NEEDS_RESTART
from lllms_core.errors import ConfigError, ModelUnknown, Overloaded, ShuttingDown
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.types import Message

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"


def gated_plugins(gate: Gate) -> Plugins:
    return Plugins.discover(environ={"LLLMS_PLUGINS": "mock"}, extra={"gate": GatePlugin(gate)})


def gate_model(**more: Any) -> dict[str, Any]:
    return {"engine": "gate", **more}


def ids(host: Host) -> dict[str, str]:
    """The instances of each model that runs one."""
    return {one.model: one.id for one in host.status().instances}


async def test_only_what_has_changed_is_touched() -> None:
    """A model that stays the same keeps its instance; one that changes gets a new one, and an unknown one ends."""
    source = Source(models={"same": bot("a"), "other": bot("b"), "gone": bot("c")})
    async with hosting(source) as host:
        assert [await say(host, name) for name in ("same", "other", "gone")] == ["a", "b", "c"]
        before = ids(host)
        source.table = {"models": {"same": bot("a"), "other": bot("B"), "new": bot("d", min_instances=1)}}
        changed = await host.reload()
        assert (changed.added, changed.removed, changed.replaced, changed.adjusted) == (
            ("new",), ("gone",), ("other",), (),
        )
        await until(lambda: host.lacks() == () and "gone" not in ids(host))  # what is kept is loaded without a request
        assert [await say(host, name) for name in ("same", "other", "new")] == ["a", "B", "d"]
        after = ids(host)
        assert after["same"] == before["same"]
        assert after["other"] != before["other"]
        with pytest.raises(ModelUnknown, match="no model 'gone'"):
            host.model("gone")
        assert (await host.reload()).lines == []


async def test_what_is_known_of_a_model_goes_with_it() -> None:
    """Whatever names the configurations bring, the server remembers only those of the last one."""
    source = Source(models={"same": bot("a")})
    async with hosting(source) as host:
        for number in range(3):
            source.table = {"models": {"same": bot("a"), f"model-{number}": bot("b")}}
            await host.reload()
            await host.examine()
            await host.abilities(f"model-{number}")
            await say(host, "same")
            await say(host, f"model-{number}")
        durations, cards = host.pool._scheduler.durations, host._cards
        for known in (durations._requests, durations._loads, cards._looks, cards._locks, host._foreseen):
            assert known.keys() == {"same", "model-2"}


async def test_running_requests_finish_and_waiting_ones_take_the_new_configuration() -> None:
    """The answer that runs ends where it is; the next in the queue is served by a new instance."""
    source = Source(models={"m": bot("old", option_slots=1, option_tokens_per_second=20)})
    source.table["models"]["m"]["options"]["script"][0]["tokens"] = 10
    async with hosting(source) as host:
        first = host.submit(host.request("m", prompt="x"))
        await until(lambda: host.status().running == 1)
        second = host.submit(host.request("m", prompt="x"))
        assert host.status().waiting == 1
        source.table = {"models": {"m": bot("new")}}
        assert (await host.reload()).replaced == ("m",)
        assert [one.retired for one in host.status().instances if one.running] == [True]
        assert (await second.gather()).text == "new"
        assert set((await first.gather()).text.split()) == {"old"}
        await until(lambda: len(host.status().instances) == 1)  # the former one has ended


async def test_waiting_requests_of_a_removed_model_are_refused() -> None:
    """Their error says that their model is gone; the running one finishes."""
    gate = Gate()
    gate.load.set()
    source = Source(server={"concurrency": 1}, models={"gate": gate_model(), "m": bot("a")})
    async with hosting(source, gated_plugins(gate)) as host:
        running = host.submit(host.request("gate", messages=[Message("user", "x")]))
        await until(lambda: gate.answering)
        waiting = host.submit(host.request("gate", messages=[Message("user", "y")]))
        source.table = {"server": {"concurrency": 1}, "models": {"m": bot("a")}}
        await host.reload()
        with pytest.raises(ModelUnknown, match="model 'gate' was removed from the configuration while"):
            await waiting.gather()
        gate.pieces.put("done")
        gate.pieces.put(None)
        assert (await running.gather()).text == "done"
        await until(lambda: "gate" not in ids(host))
        assert await say(host, "m") == "a"


@pytest.mark.parametrize("engine", ["gate", "mock"])
async def test_a_waiting_request_is_only_given_to_an_engine_that_honours_it(engine: str) -> None:
    """If its model gets another engine: one that lacks parameters of the former refuses it, with a hint to retry."""
    gate = Gate()
    gate.load.set()
    tables = {"gate": gate_model(), "mock": bot("mocked")}
    other = tables.pop(engine)
    [now] = tables.values()
    hold = {"server": {"concurrency": 1}}
    source = Source(**hold, models={"hold": gate_model(), "m": now})
    async with hosting(source, gated_plugins(gate)) as host:
        running = host.submit(host.request("hold", messages=[Message("user", "x")]))
        await until(lambda: gate.answering)
        waiting = host.submit(host.request("m", messages=[Message("user", "x")]))
        source.table = {**hold, "models": {"hold": gate_model(), "m": other}}
        assert (await host.reload()).replaced == ("m",)
        gate.pieces.put(None)
        await running.gather()
        if engine == "mock":
            assert (await waiting.gather()).text == "mocked"
        else:
            with pytest.raises(Overloaded, match="another engine while the request waited; send it again"):
                await waiting.gather()


async def test_a_model_that_is_being_loaded_takes_the_new_configuration() -> None:
    """Its load is given up, and the request that waits for it is answered by the new one."""
    gate = Gate()
    source = Source(models={"m": gate_model()})
    async with hosting(source, gated_plugins(gate)) as host:
        waiting = host.submit(host.request("m", messages=[Message("user", "x")]))
        await until(lambda: [one.state for one in host.status().instances] == ["loading"])
        source.table = {"models": {"m": bot("new")}}
        source.table["models"]["m"]["aliases"] = ["n"]
        await host.reload()
        gate.load.set()
        assert (await waiting.gather()).text == "new"
        await until(lambda: [one.state for one in host.status().instances] == ["ready"])
        assert host.failed_loads() == ()


async def test_a_successor_waits_for_its_place() -> None:
    """If there may be only one instance, it is loaded when the former one has finished, and its requests say so."""
    gate = Gate()
    gate.load.set()
    server = {"max_instances": 1}
    source = Source(server=server, models={"m": gate_model()})
    async with hosting(source, gated_plugins(gate)) as host:
        running = host.submit(host.request("m", messages=[Message("user", "x")]))
        await until(lambda: gate.answering)
        source.table = {"server": server, "models": {"m": bot("new")}}
        await host.reload()
        request = host.request("m", prompt="x")
        waiting = host.submit(request)
        await until(lambda: "model's former configuration has yet to finish its requests" in str(host.waiting(request)))
        gate.pieces.put("old")
        gate.pieces.put(None)
        assert (await running.gather()).text == "old"
        assert (await waiting.gather()).text == "new"


async def test_real_models_keep_their_caches() -> None:
    """Of two real models in processes, the one that stays the same has the same process, which knows its prompt."""
    def tiny(context: int) -> dict[str, Any]:
        return {"engine": "llamacpp", "file": str(TINY), "options": {"threads": 1, "context_length": context}}

    source = Source(models={"a": tiny(512), "b": tiny(512)})

    async def ask(host: Host, name: str) -> Any:
        wanted, said = {"temperature": 0, "max_tokens": 8}, [Message("user", "Count to five.")]
        return await host.submit(host.request(name, messages=said, parameters=wanted)).gather()

    async with hosting(source) as host:
        first = {name: await ask(host, name) for name in "ab"}
        before = {one.model: one.pid for one in host.status().instances}
        source.table = {"models": {"a": tiny(512), "b": tiny(1024)}}
        assert (await host.reload()).replaced == ("b",)
        second = {name: await ask(host, name) for name in "ab"}
        after = {one.model: one.pid for one in host.status().instances if not one.retired}
        assert (after["a"], after["b"] != before["b"]) == (before["a"], True)
        assert {name: one.text for name, one in second.items()} == {name: one.text for name, one in first.items()}
        assert second["a"].finish.usage.cached_tokens > 0 == second["b"].finish.usage.cached_tokens


async def test_a_load_in_a_process_is_given_up() -> None:
    """Nobody waits for a long load of a former configuration, whose process ends at once."""
    source = Source(models={"m": bot("old", isolation="process", option_load_seconds=10 * GUARD)})
    async with hosting(source) as host:
        waiting = host.submit(host.request("m", prompt="x"))
        await until(lambda: [one.pid is not None for one in host.status().instances] == [True])
        source.table = {"models": {"m": bot("new")}}
        await host.reload()
        assert (await waiting.gather()).text == "new"
        await until(lambda: len(host.status().instances) == 1)


async def test_a_failed_load_is_forgotten_with_its_configuration() -> None:
    """A model that cools down after a failed load is tried at once with another configuration."""
    source = Source(models={"m": bot("a", option_load_fault="fail")})
    async with hosting(source) as host:
        with pytest.raises(Exception, match="cannot be loaded"):
            await say(host, "m")
        assert host.failed_loads()
        source.table = {"models": {"m": bot("a")}}
        await host.reload()
        assert host.failed_loads() == ()
        assert await say(host, "m") == "a"


async def test_what_needs_no_new_instance_is_taken_in_place() -> None:
    """Aliases, defaults, priority, ttl, watchdog and limits change under a running instance, which stays."""
    source = Source(models={"m": bot("a")})
    async with hosting(source) as host:
        await say(host, "m")
        before = ids(host)
        source.table = {"models": {"m": bot(
            "a", aliases=["n"], defaults={"max_tokens": 3}, priority="high", ttl=7, watchdog=11, max_instances=2,
            timeout=9, load_timeout=5,
        )}}
        assert (await host.reload()).adjusted == ("m",)
        assert await say(host, "n") == "a"
        assert ids(host) == before
        [instance] = host.status().instances
        assert (instance.ttl, instance.watchdog) == (7, 11)
        request = host.request("n", prompt="x")
        assert (request.max_tokens, request.timeout) == (3, 9)
        assert state_of(host) == state_of(Host(source()))


async def test_lowered_limits_unload_what_is_idle() -> None:
    """Instances beyond a lowered `max_instances`, of all or of one model, end when they are idle: the oldest first."""
    source = Source(server={"max_instances": 3}, models={name: bot(name, ttl=-1) for name in "abc"})
    async with hosting(source) as host:
        for name in "abc":
            await say(host, name)
        source.table = {**source.table, "server": {"max_instances": 1}}
        assert (await host.reload()).settings == ("server.max_instances",)
        await until(lambda: list(ids(host)) == ["c"])


async def test_settings_that_need_a_restart_are_named_and_kept() -> None:
    """They are told, by each reload, and the former values stay in force."""
    source = Source(server={"port": 1, "queue_size": 5}, models={"m": bot("a")})
    async with hosting(source) as host:
        source.table = {**source.table, "server": {"port": 2, "queue_size": 6}, "sessions": {"store": "none"}}
        for live in (("server.queue_size",), ()):
            changed = await host.reload()
            assert (changed.settings, changed.restart) == (live, ("server.port", "sessions.store"))
        assert (host.config.server.port, host.config.server.queue_size) == (1, 6)
        assert host.status().queue_size == 6


LIVE = {
    "server": {
        "api_keys": ["k"], "api_keys_file": "{folder}/keys", "insecure": True, "allow_remote": True, "concurrency": 3,
        "max_instances": 7, "memory_limit": "3GB", "gpu_memory_limit": "5GB", "spare_workers": 0, "queue_size": 9,
        "queue_timeout": 8, "max_wait_before_swap": 7, "min_residency": 6, "trusted_clients": ["10.0.0.1"],
        "pull": True, "log_level": "error", "log_format": "json", "allowed_hosts": ["a"], "cors_origins": ["null"],
        "max_body": 5, "max_json_depth": 9, "unknown_parameters": "name", "shutdown_timeout": 4,
    },
    "sessions": {"max_size": 10_000, "ttl": 5},
}
"""Another value than the default for each setting that a running server takes."""


async def test_each_setting_is_taken_or_needs_a_restart(tmp_path: Path) -> None:
    """All that do not need one are in force after a reload, and after another one they are as before."""
    (tmp_path / "keys").write_text("sk-1")
    every = {(table, one.name) for table in NEEDS_RESTART for one in fields(type(getattr(Config(), table)))}
    restart = {(table, key) for table, keys in NEEDS_RESTART.items() for key in keys}
    assert every - restart == {(table, key) for table, keys in LIVE.items() for key in keys} | {
        ("server", "tls_certificate"), ("server", "tls_key"),  # see the tests of what is served
    }
    source = Source(models={"m": bot("a")})
    async with hosting(source) as host:
        await say(host, "m")
        before, running = state_of(host), ids(host)
        text = json.dumps(LIVE).replace("{folder}", str(tmp_path))
        source.table = {**source.table, **json.loads(text)}
        changed = await host.reload()
        assert {*changed.settings} == {f"{table}.{key}" for table, key in every - restart if not key.startswith("tls")}
        assert state_of(host) == state_of(Host(source()))
        assert state_of(host) != before
        source.table = {"models": source.table["models"]}
        await host.reload()
        assert state_of(host) == before
        assert ids(host) == running


@pytest.mark.parametrize(("table", "reason"), [
    ({"models": {"m": {"engine": "mock", "colour": "red"}}}, "models.m.colour: unknown key"),
    ({"models": {"m": {"engine": "nothing"}}}, "no engine 'nothing'"),
    ({"models": {"m": {"engine": "mock", "options": {"slots": 0}}}}, "'slots' must be >= 1"),
    ({"models": {"m": {"engine": "llamacpp", "file": "missing.gguf"}}}, "there is no file"),
    ({"sessions": {"store": "attic"}}, "there is no store 'attic'"),
])
async def test_a_faulty_configuration_changes_nothing(table: dict[str, Any], reason: str) -> None:
    """The reload says why, the problems of the server too until it is mended, and everything goes on as before."""
    source = Source(server={"queue_size": 5}, models={"m": bot("a"), "n": bot("b")})
    async with hosting(source) as host:
        await say(host, "m")
        right, before, running = source.table, state_of(host), ids(host)
        source.table = {"server": {"queue_size": 7}, **table}
        with pytest.raises(ConfigError, match=reason):
            await host.reload()
        [problem] = host.problems()
        assert reason in problem.text
        assert "the former one stays in force" in problem.text
        assert {**state_of(host), "problems": ()} == before
        assert await say(host, "m") == "a"
        assert ids(host) == running
        source.table = right
        assert (await host.reload()).lines == []
        assert host.problems() == ()


async def test_what_stays_until_the_restart_is_checked_with_the_rest() -> None:
    """A configuration that is right by itself, but would open the server as it listens now, is refused."""
    public = {"host": "0.0.0.0", "port": 1, "api_keys": ["k"]}
    source = Source(server=public, models={"m": bot("a")})
    async with hosting(source) as host:
        source.table = {"server": {"host": "127.0.0.1"}, "models": {"m": bot("a")}}
        with pytest.raises(ConfigError, match=r"needs a restart.*other machines can reach"):
            await host.reload()
        assert host.config.server.has_keys


async def test_reloads_take_turns() -> None:
    """Several at once run one after the other, and the last one's configuration is in force."""
    source = Source(models={"m": bot("0")})
    reading, most = threading.Lock(), 0

    def read() -> Any:
        assert reading.acquire(blocking=False), "two reloads at once"
        try:
            number = source.reads
            source.table = {"models": {"m": bot(str(number))}}
            return source()
        finally:
            reading.release()

    async with Host(source(), read=read) as host:
        changed = await asyncio.gather(*(host.reload() for _ in range(8)))
        assert [one.replaced for one in changed] == [("m",)] * 8
        assert await say(host, "m") == "8"
        most = len(host.status().instances)
    assert most == 1


async def test_a_reload_waits_for_the_start_and_is_refused_at_the_end() -> None:
    """One that comes before the start is done after it begins; one during the shutdown changes nothing."""
    source = Source(models={"m": bot("a")})
    host = Host(source(), read=source)
    early = asyncio.create_task(host.reload())
    await asyncio.sleep(0)
    source.table = {"models": {"m": bot("b")}}
    await host.start()
    await early
    assert await say(host, "m") == "b"
    closing = asyncio.create_task(host.close(0))
    await asyncio.sleep(0)
    source.table = {"models": {"m": bot("c")}}
    with pytest.raises(ShuttingDown):
        await host.reload()
    await closing
    assert host.status().instances == ()


async def test_a_shutdown_during_a_reload_comes_first() -> None:
    """A reload that reads its file while the server closes is refused, and starts nothing."""
    source, reading, go = Source(models={"m": bot("a")}), threading.Event(), threading.Event()

    def read() -> Any:
        reading.set()
        assert go.wait(GUARD)
        return parse_config({"models": {"m": bot("a", min_instances=1)}})

    host = Host(source(), read=read)
    await host.start()
    late = asyncio.create_task(host.reload())
    await until(reading.is_set)
    await host.close(0)
    go.set()
    with pytest.raises(ShuttingDown):
        await late
    assert host.status().instances == ()


async def test_a_host_of_a_program_has_nothing_to_load_again() -> None:
    """A configuration that a program made is no file: the reload says so."""
    async with Host(parse_config({"models": {"m": bot("a")}})) as host:
        with pytest.raises(ConfigError, match="from a program"):
            await host.reload()
