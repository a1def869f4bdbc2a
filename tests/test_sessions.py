"""Conversations over whole servers: sessions that survive their instance, and stores that fail."""

import asyncio
import logging
import os
import random
import signal
import threading
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import lllms_llamacpp
import pytest
from attrs import evolve
from lllms_llamacpp import loading
from waits_for_tests import GUARD, until

from lllms_core.builtin.sessions import MemoryStore
from lllms_core.config import parse_config
from lllms_core.errors import ConfigError
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.pool import keeper
from lllms_core.types import Message

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
SECRETS = ["blimp", "zebra", "apple", "robot", "tulip", "ocean", "piano", "tiger", "lemon", "cloud"]
OPTIONS = {"slots": 2, "context_length": 512, "threads": 1, "kept_tokens": 0}


class Store(MemoryStore):
    """A store that can be told to fail."""

    name = "own"

    def __init__(self):
        super().__init__()
        self.gets = self.puts = 0
        self.faults = {}
        self.gate = threading.Event()

    def strike(self, what):
        fault = self.faults.get(what)
        if fault == "raise":
            raise OSError(28, "No space left on device")
        if fault == "hang":
            self.gate.wait(60)
        return fault

    def put(self, entry, data):
        self.puts += 1
        if self.strike("put") != "lose":
            super().put(entry, data)

    def get(self, session_id):
        self.gets += 1
        data = super().get(session_id)
        return b"nonsense" if self.strike("get") == "nonsense" else data

    def list(self):
        self.strike("list")
        return super().list()


class StorePlugin:
    def __init__(self, store):
        self.store = store

    @hookimpl
    def lllms_session_stores(self):
        return [self.store]


@asynccontextmanager
async def serving(store="memory", file=TINY, model=None, **options):
    """A host of tiny-chat, with a small `min_tokens`."""
    sessions = {"min_tokens": 16}
    extra = {}
    if isinstance(store, Path):
        sessions |= {"store": "disk", "options": {"folder": str(store)}}
    elif isinstance(store, str):
        sessions["store"] = store
    else:
        sessions["store"] = store.name
        extra["own"] = StorePlugin(store)
    models = {"tiny": {"engine": "llamacpp", "file": str(file), "options": {**OPTIONS, **options}, **(model or {})}}
    async with asyncio.timeout(GUARD):
        async with Host(parse_config({"models": models, "sessions": sessions}), Plugins.discover(extra=extra)) as host:
            yield host


async def ask(host, *texts, **parameters):
    """The answer to the last of the texts, which alternate between user and assistant."""
    messages = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
    parameters = {"temperature": 0, "max_tokens": 40, **parameters}
    async with host.submit(host.request("tiny", messages=messages, parameters=parameters)) as stream:
        return await stream.gather()


def cached(answer):
    return answer.finish.usage.cached_tokens


async def tell(host, secret):
    """Take a first turn; return its messages, to continue from."""
    text = f"My name is Bob. The secret word is {secret}. Do not forget it."
    return [text, (await ask(host, text)).text]


async def unload(host):
    """End every instance as if its ttl were over."""
    pool = host.pool
    for instance in list(pool._dispatcher.instances.values()):
        pool._dispatcher.apply([pool._scheduler.placing.stop(pool._scheduler.instances[instance.id])])
    while pool._dispatcher.instances:
        await pool._dispatcher.change()


async def stored(host, count):
    """Wait until this many sessions are in the store; the list also has those that wait to be written."""
    while len(await host.sessions.list()) < count:
        await settled(host)
    await settled(host)


async def settled(host):
    """Wait until everything that was put is stored, or lost."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    host.sessions._writing.run(lambda: loop.call_soon_threadsafe(done.set))
    await done.wait()


async def test_moved_out_conversation_comes_back():
    """A conversation that was evicted for another is restored for its next turn, with the same answer as before."""
    async with serving() as host:
        said = await tell(host, "blimp")
        await tell(host, "zebra")
        await stored(host, 1)
        again = await ask(host, *said, "What is the secret word?")
        assert "blimp" in again.text
        assert cached(again) > 16
        fresh = await ask(host, *said, "What is the secret word?", cache_prompt=False)
        assert (again.text, cached(fresh)) == (fresh.text, 0)


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_unloaded_conversation_comes_back(isolation):
    """The conversations of an unloaded instance are available to the next instance."""
    async with serving(model={"isolation": isolation}) as host:
        said = await tell(host, "blimp")
        await unload(host)
        again = await ask(host, *said, "What is the secret word?")
        assert "blimp" in again.text
        assert cached(again) > 16


async def test_conversation_survives_the_server(tmp_path):
    """A conversation is resumed warm after a restart, from files that only its owner can read."""
    async with serving(tmp_path) as host:
        said = await tell(host, "blimp")
    async with serving(tmp_path) as host:
        again = await ask(host, *said, "What is the secret word?")
    assert "blimp" in again.text
    assert cached(again) > 16


async def test_killed_worker_loses_its_sessions_only():
    """Sessions stored before a worker died are available to the next one."""
    async with serving() as host:
        said = await tell(host, "blimp")
        await tell(host, "zebra")
        await stored(host, 1)
        [instance] = host.pool.status().instances
        os.kill(instance.pid, signal.SIGKILL)
        while host.pool.status().instances:
            await host.pool._dispatcher.change()
        again = await ask(host, *said, "What is the secret word?")
        assert "blimp" in again.text
        assert cached(again) > 16


@pytest.mark.parametrize("change", ["option", "engine", "library", "file", "same name"])
async def test_what_has_changed_is_a_miss(tmp_path, caplog, monkeypatch, change):
    """A state is never used with another option, version or file of the same name: a log line, and the right answer."""
    file, folder, options = tmp_path / "model.gguf", tmp_path / "sessions", {}
    file.write_bytes(TINY.read_bytes())
    async with serving(folder, file, {"isolation": "thread"}) as host:
        said = await tell(host, "blimp")
    if change == "option":
        options = {"kv_type_k": "f32"}
    elif change in {"engine", "library"}:
        older = "lllms-llamacpp" if change == "engine" else "llama-cpp-python"
        monkeypatch.setattr(loading, "version", lambda name: "0.0.1" if name == older else version(name))
    elif change == "file":
        file.write_bytes(TINY.read_bytes())
        os.utime(file, (1, 1))
    else:
        data = bytearray(TINY.read_bytes())
        data[-320_000:-640] = bytes(319_360)  # the weights of the last layer, before the last norm
        status = file.stat()
        file.write_bytes(data)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    async with serving(folder, file, {"isolation": "thread"}, **options) as host:
        again = await ask(host, *said, "What is the secret word?")
        fresh = await ask(host, *said, "What is the secret word?", cache_prompt=False)
    assert (cached(again), again.text) == (0, fresh.text)
    assert ("blimp" in again.text) == (change != "same name")
    assert "1 stored sessions of model 'tiny' belong to another file, version or configuration" in caplog.text


async def test_nothing_is_stored_for_a_model_that_wants_none():
    """`sessions = "none"` for a model, or `store = "none"` for all, keeps conversations inside their instance."""
    async with serving(model={"sessions": "none"}) as host:
        said = await tell(host, "blimp")
        assert cached(await ask(host, *said, "What is the secret word?")) > 16
        await unload(host)
        assert list(await host.sessions.list()) == []
        assert cached(await ask(host, *said, "What is the secret word?")) == 0
    async with serving("none") as host:
        assert host.sessions is None
        said = await tell(host, "blimp")
        assert cached(await ask(host, *said, "What is the secret word?")) > 16


async def test_uncached_request_leaves_nothing():
    """`cache_prompt: false` neither uses nor leaves anything, in the instance or in the store."""
    async with serving() as host:
        text = "The secret word is blimp. Do not forget it, whatever they say."
        for _ in range(2):
            assert cached(await ask(host, text, cache_prompt=False)) == 0
        await unload(host)
        assert list(await host.sessions.list()) == []


@pytest.mark.parametrize("what", ["put", "get", "list"])
@pytest.mark.parametrize("fault", ["raise", "hang"])
async def test_failing_store_is_a_miss(caplog, monkeypatch, what, fault):
    """A store that raises or hangs costs its sessions and a line in the log; every request is answered."""
    monkeypatch.setattr(keeper, "FIND_SECONDS", 0.2)
    monkeypatch.setattr("lllms_core.pool.pool.STORE_SECONDS", 0.2)
    store = Store()
    with caplog.at_level(logging.WARNING, logger="lllms.sessions"):
        async with serving(store) as host:
            said = await tell(host, "blimp")
            await tell(host, "zebra")
            if what == "get":
                await stored(host, 1)
            store.faults[what] = fault
            for _ in range(3):
                again = await ask(host, *said, "What is the secret word?")
                assert "blimp" in again.text
                await tell(host, "zebra")
        store.gate.set()
    if (what, fault) != ("put", "hang"):
        assert any("own" in record.getMessage() for record in caplog.records)


async def test_nonsense_from_a_store_is_a_miss():
    """Bytes that are not a session are not used."""
    store = Store()
    async with serving(store) as host:
        said = await tell(host, "blimp")
        await tell(host, "zebra")
        await stored(host, 1)
        store.faults["get"] = "nonsense"
        again = await ask(host, *said, "What is the secret word?")
        assert store.gets == 1
        assert cached(again) < 20  # the common prefix of both conversations
        assert "blimp" in again.text


async def test_wrong_tokens_are_never_used():
    """A session that is stored under the hashes of other tokens is compared, and not used."""
    store = Store()
    async with serving(store) as host:
        said = await tell(host, "blimp")
        other = await tell(host, "zebra")
        await tell(host, "apple")
        await stored(host, 2)
        (one, a), (two, b) = store._sessions.values()
        store._sessions = {one.id: (one, b), two.id: (two, a)}
        for secret, talk in (("blimp", said), ("zebra", other)):
            assert secret in (await ask(host, *talk, "What is the secret word?")).text


async def test_room_is_bounded():
    """Stored sessions never take more than `max_size`; the least recently used are removed."""
    store = Store()
    async with serving(store) as host:
        host.sessions.limits = evolve(host.sessions.limits, max_size=300_000)
        for secret in SECRETS[:6]:
            await tell(host, secret)
            await settled(host)
            assert store.size() <= 300_000
        await until(lambda: 0 < len(store.list()) < store.puts)  # the last ones may still be on their way


def test_unknown_store_is_named():
    """An unknown store is an error that names the known ones."""
    with pytest.raises(ConfigError, match=r"sessions\.store: there is no store 'attic'; there are: none, disk, memory"):
        Host(parse_config({"sessions": {"store": "attic"}, "models": {}}))


async def test_next_turn_goes_to_the_instance_that_knows():
    """Of two instances, the one with a conversation in its cache gets the next turn, and no other client sees it."""
    async with serving("none", model={"min_instances": 2, "max_instances": 2}, slots=1) as host:
        fact = "My name is Bob. The secret word is blimp. Do not forget it."
        first, other = await asyncio.gather(ask(host, fact), ask(host, "What is the secret word?"))
        assert "blimp" not in other.text
        assert _instance(first) != _instance(other)
        again = await ask(host, fact, first.text, "What is the secret word?")
        assert _instance(again) == _instance(first)
        assert cached(again) > 16
        assert "blimp" in again.text


def _instance(answer):
    return answer.id.rpartition("-")[0]


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("store", ["memory", "disk"])
async def test_store_can_be_tried_without_a_model(tmp_path, isolation, store):
    """The mock's sessions are tiny and real: they go through the store, and tell what was heard before."""
    model = {"engine": "mock", "isolation": isolation, "options": {"sessions": True}}
    sessions = {"store": store, "min_tokens": 5, "options": {"folder": str(tmp_path)} if store == "disk" else {}}
    config = parse_config({"models": {"tiny": model}, "sessions": sessions})
    text = "I have been thinking about my mother and about all the computers in her house " * 6
    async with asyncio.timeout(GUARD):
        async with Host(config) as host:
            first = await ask(host, text)
            assert cached(first) == 0
            await stored(host, 1)
            onwards = await ask(host, text, first.text, "Why do you say that?")
            assert cached(onwards) >= first.finish.usage.prompt_tokens
            assert cached(await ask(host, text, cache_prompt=False)) == 0
            assert cached(await ask(host, "Another thing is that " + text)) == 0
        async with Host(config) as host:
            again = await ask(host, text)
            assert (cached(again) > 0) == (store == "disk")


TALKS = [
    *(("The secret word is {}.", "What is the secret word?", secret) for secret in SECRETS),
    *(("My name is {}.", "What is my name?", name) for name in (
        "Xerxo", "Anna", "Bob", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ivy",
    )),
    *(("I live in {}.", "Where do I live?", place) for place in (
        "Zanzibar", "Paris", "Berlin", "London", "Tokyo", "Oslo", "Madrid", "Cairo", "Lima", "Athens",
    )),
]


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("parallel", [False, True])
async def test_nobody_is_told_anothers_secret(tmp_path, where, parallel):
    """Thirty conversations over two slots, with unloads and restarts between turns: each keeps its own secret."""
    shuffled = random.Random(where + str(parallel))
    store = tmp_path if where == "disk" else "memory"
    said = [[] for _ in TALKS]
    reused = 0

    async def turn(host, number):
        nonlocal reused
        tells, asks, secret = TALKS[number]
        said[number].append(asks if said[number] else tells.format(secret))
        answer = await ask(host, *said[number])
        said[number].append(answer.text)
        reused += cached(answer) > 16

    for _ in range(2):
        # Threads load faster, and random unloads cause many loads.
        async with serving(store, model=None if parallel else {"isolation": "thread"}) as host:
            for _ in range(2):
                numbers = list(range(len(TALKS)))
                shuffled.shuffle(numbers)
                if parallel:
                    await asyncio.gather(*(turn(host, number) for number in numbers))
                for number in [] if parallel else numbers:
                    await turn(host, number)
                    if shuffled.random() < 0.05:
                        await unload(host)
                await unload(host)
    for (_, _, own), texts in zip(TALKS, said, strict=True):
        others = {secret for _, _, secret in TALKS} - {own}
        assert not any(other in text for text in texts for other in others)
        assert all(own in text for text in texts[3::2])
    assert reused >= (75 if where == "disk" else 45)
