"""The routes that serve the client for web pages and JavaScript programs, and its hook for React."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files

from quart import Blueprint, Response, request

SCRIPTS = ("client.js", "react.js")


def add_script_routes(routes: Blueprint) -> None:
    """Add a route for each script."""
    for name in SCRIPTS:
        text = files(__package__).joinpath("scripts", name).read_bytes()
        routes.add_url_rule(f"/{name}", name.partition(".")[0], _view(text, sha256(text).hexdigest()[:16]))


def _view(text: bytes, tag: str) -> Callable[[], Awaitable[Response]]:
    headers = {
        "Content-Type": "text/javascript; charset=utf-8", "ETag": f'"{tag}"', "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",  # kept by browsers, but compared with the server's at each use
    }

    async def script() -> Response:
        if tag in request.if_none_match.as_set(include_weak=True):
            return Response(status=304, headers={"ETag": f'"{tag}"', "Cache-Control": headers["Cache-Control"]})
        return Response(text, headers=headers)

    return script
