"""The routes that list and cancel downloads."""

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from lllms_core.apis import Server
from lllms_core.apis.replies import reply
from lllms_core.builtin.status.report import downloads


def make_downloads(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("downloads", __name__, url_prefix="/api/v1/downloads")

    @routes.get("")
    async def tell() -> Response:
        return reply({"object": "list", "data": downloads(server)})

    @routes.delete("/<download_id>")
    async def cancel(download_id: str) -> Response:
        if not server.cancel_download(download_id):
            raise NotFound
        return reply({"deleted": [download_id]})

    return routes
