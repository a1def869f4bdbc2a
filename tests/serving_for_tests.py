"""The real server, run inside a test."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.serve import listen, serve
from lllms_core.web.limits import ConnectionLimits
from lllms_core.web.server import serve_app


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


@asynccontextmanager
async def published(
    host: Host, limits: ConnectionLimits | None = None, tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve a host that is already running; yields its URL."""
    listener = listen("127.0.0.1", 0)
    url = f"{'http' if tls is None else 'https'}://127.0.0.1:{listener.getsockname()[1]}"
    stop = asyncio.Event()
    server = asyncio.create_task(
        serve_app(create_app(host, manage_host=False), listener, stop.wait, limits, tls and (lambda: tls)),
    )
    try:
        yield url
    finally:
        stop.set()
        await server
