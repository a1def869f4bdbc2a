"""The memory of a real worker at work, beside its estimate."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.pool.budget import Need
from lllms_core.pool.models import PoolModel
from lllms_core.pool.needs import need_of
from lllms_core.types import TextRequest

LIBRARY_PAGES = 11 * 2**20
"""Counted for the pages of programs and libraries, of which a worker's share depends on who else uses them."""


@frozen
class Taken:
    """The memory of a worker, in bytes."""

    private: int
    """Its own, and `LIBRARY_PAGES`."""
    mapped: int
    """The pages of the model's file that are in memory, also those that nobody reads any more."""


def taken(pid: int, file: Path) -> Taken:
    """Return the memory of a process that may have mapped the file."""
    private, mapped, path = LIBRARY_PAGES, 0, ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            path = " ".join(rest[4:])
        elif name in {"Anonymous:", "Swap:"}:
            private += int(rest[0]) * 1024
        elif name == "Rss:" and path == str(file):
            mapped += int(rest[0]) * 1024
    return Taken(private, mapped)


async def at_work(file: Path, options: Mapping[str, object], prompts: int, tokens: int) -> tuple[Need, Taken]:
    """Load a model in a worker, and answer `prompts` prompts of `tokens` tokens at once, or embed as many texts.

    Returns the estimate, and the memory that the worker took.
    """
    embeds = "pooling" in options
    given = {"threads": 1, **options, **({"token_inputs": True} if embeds else {})}
    model = {"engine": "llamacpp", "file": str(file), "options": given, "sessions": "none"}
    async with Host(parse_config({"models": {"m": model}})) as host:
        [entry] = host.catalog.entries
        texts = [(5 + number, *(5 + at % 800 for at in range(tokens - 1))) for number in range(prompts)]
        if embeds:
            await host.embed("m", texts)
        else:
            asked = [TextRequest(f"r{number}", "m", prompt=one, max_tokens=2) for number, one in enumerate(texts)]
            await asyncio.gather(*(host.submit(one).gather() for one in asked))
        [instance] = host.status().instances
        assert instance.pid is not None
        return need_of(PoolModel.of(entry), entry.spec), taken(instance.pid, file)
