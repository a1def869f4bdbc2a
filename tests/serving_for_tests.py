"""The real server, run inside of a test."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.serve import serve


@asynccontextmanager
async def serving(config: Mapping[str, object]) -> AsyncIterator[str]:
    """Run the real server on a free port; yields its URL."""
    host = Host(parse_config(config))
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(host, on_ready=ready.set_result))
    try:
        yield await ready
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
