"""The routes that list and cancel requests."""

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from lllms_core.apis import Server
from lllms_core.apis.replies import reply
from lllms_core.builtin.status.report import Report, waiting_values
from lllms_core.status import RequestStatus


def make_requests(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("requests", __name__, url_prefix="/api/v1/requests")

    @routes.get("")
    async def tell() -> Response:
        return reply({"object": "list", "data": [_told(one) for one in server.requests()]})

    @routes.delete("/<request_id>")
    async def cancel(request_id: str) -> Response:
        if not server.cancel_request(request_id):
            raise NotFound
        return reply({"deleted": [request_id]})

    return routes


def _told(one: RequestStatus) -> Report:
    return {
        "id": one.id, "object": "request", "model": one.model, "task": one.task, "instance": one.instance,
        "seconds": round(one.seconds, 3), "tokens": one.tokens, **waiting_values(one.waiting), "state": one.state,
    }
