"""Files of a package that web pages load, such as scripts: kept by browsers, and compared at each use."""

from collections.abc import Awaitable, Callable
from hashlib import sha256

from quart import Response, request

from lllms_core.apis.open_routes import needs_no_key


def asset_view(data: bytes, content_type: str) -> Callable[[], Awaitable[Response]]:
    """Return the view of a route that serves these bytes, to callers without an API key, too: they are no secret."""
    tag = sha256(data).hexdigest()[:16]
    headers = {
        "Content-Type": content_type, "ETag": f'"{tag}"', "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",  # kept by browsers, but compared with the server's at each use
    }

    @needs_no_key
    async def asset() -> Response:
        if tag in request.if_none_match.as_set(include_weak=True):
            return Response(status=304, headers={"ETag": f'"{tag}"', "Cache-Control": headers["Cache-Control"]})
        return Response(data, headers=headers)

    return asset
