"""The memory of a real worker at work, beside what was told of it."""

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


@frozen
class Taken:
    """The memory of a worker, in bytes."""

    private: int
    """What no other process shares."""
    mapped: int
    """The pages of the model's file that are in memory."""
    libraries: int
    """Its share of the pages of programs and libraries."""


def taken(pid: int, file: Path) -> Taken:
    """Return the memory of a process that may have mapped the file."""
    private = mapped = libraries = 0
    path = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            path = " ".join(rest[4:])
        elif name in {"Anonymous:", "Swap:"}:
            private += int(rest[0]) * 1024
        elif name in {"Pss:", "Rss:"} and path == str(file):
            mapped += int(rest[0]) * 1024 * (name == "Rss:")
        elif name == "Pss:":
            libraries += int(rest[0]) * 1024
    return Taken(private, mapped, max(0, libraries - private))


async def at_work(file: Path, options: Mapping[str, object], prompts: int, tokens: int) -> tuple[Need, Taken]:
    """Load a model in a worker, answer `prompts` prompts of `tokens` tokens at once; return what is told, and taken."""
    model = {"engine": "llamacpp", "file": str(file), "options": {"threads": 2, **options}, "sessions": "none"}
    async with Host(parse_config({"models": {"m": model}})) as host:
        [entry] = host.catalog.entries
        asked = [
            TextRequest(f"r{number}", "m", prompt=(5 + number, *range(5, 5 + tokens - 1)), max_tokens=2)
            for number in range(prompts)
        ]
        await asyncio.gather(*(host.submit(one).gather() for one in asked))
        [instance] = host.status().instances
        assert instance.pid is not None
        return need_of(PoolModel.of(entry), entry.spec), taken(instance.pid, file)
