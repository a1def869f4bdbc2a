"""Hosts whose configuration a test changes, and what can be compared of their states."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lllms_core.config import Config, parse_config
from lllms_core.host import Host
from lllms_core.plugins import Plugins


class Source:
    """The configuration of a host, as its file would be: change `table`, and reload."""

    def __init__(self, **table: Any) -> None:
        self.table: Mapping[str, Any] = table
        self.reads = 0

    def __call__(self) -> Config:
        self.reads += 1
        return parse_config(self.table)


def bot(reply: str, **more: Any) -> dict[str, Any]:
    """Return a model that always answers the same; `more` are keys of the model, or options with `option_`."""
    options = {key.removeprefix("option_"): more.pop(key) for key in [*more] if key.startswith("option_")}
    return {
        "engine": "mock", "isolation": "thread", **more, "options": {"script": [{"replies": [reply]}], **options},
    }


@asynccontextmanager
async def hosting(source: Source, plugins: Plugins | None = None) -> AsyncIterator[Host]:
    """Run a host whose configuration comes from `source`."""
    async with Host(source(), plugins, read=source) as host:
        yield host


async def say(host: Host, model: str) -> str:
    """Ask a model something, and return its answer."""
    async with host.submit(host.request(model, prompt="x")) as stream:
        return (await stream.gather()).text


def state_of(host: Host) -> dict[str, object]:
    """Return what a configuration determines of a host; equal for equal configurations."""
    pool, scheduler = host.pool, host.pool._scheduler
    entries = {entry.name: entry for entry in host.catalog.entries}
    return {
        "config": host.config,
        "problems": host.problems(),
        "catalog": {
            name: (one.aliases, one.engine.name, one.spec, one.config, one.defaults, one.isolation, one.source)
            for name, one in entries.items()
        },
        "names": {name: one.name for name, one in host.catalog._by_name.items()},
        "models": {
            name: (
                one.engine.name, one.spec, one.limits, one.isolation, one.sessions, one.prepare, one.memory,
                one.blocking,
            )
            for name, one in pool._models.items()
        },
        "limits": scheduler.limits,
        "model limits": scheduler._models,
        "places": [entry.place for entry in scheduler.fleet.places.values()],
        "seating": (scheduler.placing.limits, scheduler.seating._limits, scheduler.seating.fixed),
        "waits": scheduler.queue._max_wait,
        "absent": scheduler.placing.absent,
        "devices": pool._watch.devices._limit,
        "spares": (pool._spares._count, set(pool._spares._engines)),
        "sessions": None if host.sessions is None else host.sessions.limits,
    }
