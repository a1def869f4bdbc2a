"""The routes that tell of downloads, and end them."""

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from lllms_core.builtin.openai.answers import dumps
from lllms_core.builtin.openai.errors import answer_error
from lllms_core.builtin.status.report import downloads
from lllms_core.host import Host


def make_downloads(host: Host) -> Blueprint:
    """Return the routes over `host`."""
    routes = Blueprint("downloads", __name__, url_prefix="/api/v1/downloads")
    routes.register_error_handler(Exception, answer_error)

    @routes.get("")
    async def tell() -> Response:
        return _answer({"object": "list", "data": downloads(host)})

    @routes.delete("/<download_id>")
    async def cancel(download_id: str) -> Response:
        if not host.fetcher.cancel(download_id):
            raise NotFound
        return _answer({"deleted": [download_id]})

    return routes


def _answer(value: object) -> Response:
    return Response(dumps(value), content_type="application/json")
