"""The routes that list, explain and cancel requests."""

from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from lllms_core.apis import Server
from lllms_core.apis.own_machine import refuse_other_machines
from lllms_core.apis.replies import reply
from lllms_core.builtin.status.report import Report, waiting_values
from lllms_core.builtin.status.timelines import parting, record_values, summary
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut
from lllms_core.status import RequestRecord, RequestStatus


def make_requests(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("requests", __name__, url_prefix="/api/v1/requests")

    @routes.get("")
    async def tell() -> Response:
        running = [_told(one) for one in server.requests()]
        return reply({"object": "list", "data": running, "ended": [summary(one) for one in server.ended_requests()]})

    @routes.get("/<request_id>")
    async def tell_one(request_id: str) -> Response:
        wanted = request.args.get("text", "false")
        if wanted not in {"true", "false"}:
            raise InvalidRequest(f"'text' must be true or false, not '{cut(wanted)}'", "text", "invalid_value")
        if wanted == "true":
            refuse_other_machines("the text around the place where a prompt differs from what was cached")
        record = server.find_request(request_id)
        if record is None:
            raise NotFound
        text = await _text(server, record) if wanted == "true" else None
        return reply({**record_values(record), **({} if wanted == "false" else {"text": text})})

    @routes.delete("/<request_id>")
    async def cancel(request_id: str) -> Response:
        if not server.cancel_request(request_id):
            raise NotFound
        return reply({"deleted": [request_id]})

    return routes


async def _text(server: Server, record: RequestRecord) -> Report | None:
    """Return the text around the place where a prompt parts from what was cached.

    None if it does not part, or if the instance is gone: other files might give the tokens other texts.
    """
    parts = None if record.reuse is None else parting(record.reuse)
    alive = any(one.id == record.instance and one.state == "ready" for one in server.status().instances)
    if parts is None or not alive:
        return None
    return {
        name: await server.detokenize(record.model, tokens) if tokens else "" for name, tokens in parts.items()
    }


def _told(one: RequestStatus) -> Report:
    return {
        "id": one.id, "object": "request", "model": one.model, "task": one.task, "instance": one.instance,
        "place": one.place or None,
        "seconds": round(one.seconds, 3), "tokens": one.tokens, **waiting_values(one.waiting), "state": one.state,
    }
