"""Wait for a host that has to fetch files first, with visible progress."""

import asyncio
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import printable

if TYPE_CHECKING:
    from lllms_core.host import Host

LOOK_SECONDS = 0.2


async def started(host: "Host") -> None:
    """Start a host; show on stderr the downloads that it waits for."""
    start = asyncio.create_task(host.start())
    try:
        await watch(host, start)
    finally:
        start.cancel()  # no effect if it is done
        await asyncio.gather(start, return_exceptions=True)
    start.result()


async def watch(host: "Host", until: "asyncio.Future[None]") -> None:
    """Show the downloads of a host until `until` is done, and the choices made for their sources."""
    told: set[str] = set()
    done, _ = await asyncio.wait([until], timeout=LOOK_SECONDS)
    if not done:
        from lllms_core.cli.transfers import display

        with display() as shown:
            while not done:
                for status in host.downloads():
                    if status.note and status.state != "failed" and status.source not in told:
                        told.add(status.source)
                        shown.note(f"{status.source}: {status.note}")
                    shown.show(status.source, status)
                done, _ = await asyncio.wait([until], timeout=LOOK_SECONDS)
    for source, note in host.fetcher.chosen.items():  # from downloads too short to be seen
        if source not in told:
            click.echo(printable(f"{source}: {note}"), err=True)
