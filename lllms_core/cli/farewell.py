"""What a server that was told to stop waits for."""

from typing import TYPE_CHECKING

from lllms_core.values.sizes import human_time

if TYPE_CHECKING:
    from lllms_core.host import Host
    from lllms_core.status import RequestStatus

_MOST = 5
"""Requests that are named."""


def farewell(host: "Host") -> str:
    """Tell what the server waits for before it ends, for how long, and how to end it at once."""
    running = [one for one in host.requests() if one.instance is not None]
    if not running:
        return "stopping"
    names = ", ".join(map(_named, running[:_MOST]))
    more = f" and {len(running) - _MOST} more" if len(running) > _MOST else ""
    count = "1 request is" if len(running) == 1 else f"{len(running)} requests are"
    return (
        f"stopping: {count} still running ({names}{more}); waiting up to "
        f"{host.config.server.shutdown_timeout:g} s, Ctrl-C again (or a second signal) ends at once"
    )


def _named(request: "RequestStatus") -> str:
    return f"{request.task} with {request.model} for {human_time(request.seconds)}"
