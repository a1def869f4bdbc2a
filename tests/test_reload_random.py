"""Configurations in any order, with requests in flight: none is lost or answered wrongly, and the end is a start's."""

import asyncio
import random
from typing import Any

import pytest
from reloading_for_tests import Source, bot, hosting, state_of
from waits_for_tests import GUARD, until

from lllms_core.answers import Stream
from lllms_core.errors import ConfigError, ModelUnknown
from lllms_core.host import Host

pytestmark = pytest.mark.slow

NAMES = ("a", "b", "c", "d")


class Play:
    """One run: what was in force when, and what each request was answered."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.version = 0
        self.source = Source(**self.table())
        self.history: list[dict[str, str]] = [self.replies()]
        """The replies of the models of each configuration that was in force."""
        self.open: list[tuple[str, int, Stream]] = []
        self.ended = 0
        self.removed = 0

    def table(self) -> dict[str, Any]:
        draw = self.random
        self.version += 1
        models = {}
        for name in draw.sample(NAMES, draw.randint(1, len(NAMES))):
            old = self.source.table["models"].get(name) if self.version > 1 else None
            if old is not None and draw.random() < 0.4:
                models[name] = old if draw.random() < 0.5 else {**old, "ttl": draw.choice([0, 1, 300]),
                                                                "priority": draw.choice(["high", "low"])}
            else:
                models[name] = bot(
                    f"{name}{self.version}", min_instances=draw.choice([0, 0, 1]), max_instances=draw.randint(1, 2),
                    ttl=draw.choice([0, 300]), option_slots=draw.randint(1, 3),
                    option_load_seconds=draw.choice([0.0, 0.0, 0.01]),
                    option_tokens_per_second=draw.choice([None, 300.0]), aliases=draw.choice([[], [f"{name}-too"]]),
                )
        server = {
            "concurrency": draw.randint(1, 6), "max_instances": draw.randint(5, 8), "queue_size": 500,
            "min_residency": draw.choice([0, 0.01]), "max_wait_before_swap": draw.choice([0, 0.02]),
            "memory_limit": draw.choice(["1GB", "2GB"]), "spare_workers": 0, "queue_timeout": draw.choice([100, 200]),
        }
        return {"server": server, "models": models}

    def replies(self) -> dict[str, str]:
        """The reply of each model by the table; the mock is told to say that and nothing else."""
        return {
            name: model["options"]["script"][0]["replies"][0] for name, model in self.source.table["models"].items()
        }

    def submit(self, host: Host) -> None:
        name = self.random.choice(NAMES)
        try:
            request = host.request(name, prompt="x")
        except ModelUnknown:
            assert name not in self.history[-1]
            return
        assert name in self.history[-1]
        self.open.append((name, len(self.history) - 1, host.submit(request)))

    async def leave(self) -> None:
        """A client does not wait for its answer."""
        if self.open:
            _, _, stream = self.open.pop(self.random.randrange(len(self.open)))
            await stream.aclose()

    async def reload(self, host: Host) -> None:
        good = self.source.table
        self.source.table = self.table()
        if self.random.random() < 0.2:
            self.source.table["models"]["a"] = {"engine": "mock", "max_instances": 0}
            with pytest.raises(ConfigError):
                await host.reload()
            self.source.table = good
        else:
            await host.reload()
            self.history.append(self.replies())

    async def judge(self, name: str, since: int, stream: Stream) -> None:
        """A request is answered by a configuration that was in force while it was open, or its model was removed."""
        try:
            async with asyncio.timeout(GUARD):
                text = (await stream.gather()).text
        except ModelUnknown:
            assert any(name not in models for models in self.history[since:])
            self.removed += 1
        else:
            assert text in {models.get(name) for models in self.history[since:]}
            self.ended += 1


@pytest.mark.parametrize("seed", range(8))
async def test_no_request_is_lost_and_the_end_is_that_of_a_start(seed: int) -> None:
    """Random models, limits, faults, requests and reloads; then state and instances are those of a fresh host."""
    play = Play(seed)
    async with hosting(play.source) as host:
        for _ in range(60):
            what = play.random.random()
            if what < 0.6:
                play.submit(host)
            elif what < 0.65:
                await play.leave()
            elif what < 0.85:
                await play.reload(host)
            else:
                await asyncio.sleep(play.random.choice([0, 0.001, 0.02]))
        await host.reload()  # the last one may have had a fault
        await asyncio.gather(*(play.judge(*one) for one in play.open))
        assert play.ended + play.removed == len(play.open) > 0
        # What is kept is loaded, what is left of former configurations has gone.
        await until(lambda: not host.lacks())
        await until(lambda: not any(one.retired for one in host.pool._scheduler.instances.values()))
        fresh = Host(play.source())
        assert state_of(host) == state_of(fresh)
        fingerprints = {entry.name: entry.fingerprint for entry in fresh.catalog.entries}
        for one in host.status().instances:
            assert one.fingerprint == fingerprints[one.model]
        scheduler = host.pool._scheduler
        assert (scheduler.running, scheduler.waiting, scheduler.placing.working) == ({}, {}, [])
        assert host.pool._dispatcher.waiting == {}
        known = fingerprints.keys()
        for names in (scheduler.seating.needs, scheduler.preparing, scheduler.measuring, scheduler.placing.failed):
            assert set(names) <= known
