"""The routes for sessions."""

from collections.abc import Awaitable
from typing import TypeVar

from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from lllms_core.apis import Server
from lllms_core.apis.own_machine import refuse_other_machines
from lllms_core.apis.replies import reply
from lllms_core.errors import InvalidRequest, Overloaded
from lllms_core.parameters.wording import cut
from lllms_core.status import SessionInfo

T = TypeVar("T")


def make_blueprint(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("sessions", __name__, url_prefix="/api/v1/sessions")
    index = server.session_index

    def model() -> str | None:
        name = _arguments("model").get("model")
        return None if name is None else server.model(name).name

    @routes.get("")
    async def tell() -> Response:
        return reply({"object": "list", "data": [_told(one) for one in await _in_time(index.list(model()))]})

    @routes.get("/<session_id>")
    async def tell_one(session_id: str) -> Response:
        wanted = _arguments("text").get("text", "false")
        if wanted not in {"true", "false"}:
            raise InvalidRequest(f"'text' must be true or false, not '{cut(wanted)}'", "text", "invalid_value")
        told = next((_told(one) for one in await _in_time(index.list()) if one.id == session_id), None)
        if told is None:
            raise NotFound
        if wanted == "true":
            refuse_other_machines("the text of a session")
            text = await _in_time(server.session_text(session_id))
            if text is None:
                raise NotFound
            told["text"] = text
        return reply(told)

    @routes.delete("")
    async def forget_all() -> Response:
        return reply({"deleted": await _in_time(index.forget_all(model()))})

    @routes.delete("/<session_id>")
    async def forget_one(session_id: str) -> Response:
        _arguments()
        deleted = await _in_time(index.forget(session_id))
        if not deleted:
            raise NotFound
        return reply({"deleted": deleted})

    return routes


def _arguments(*known: str) -> dict[str, str]:
    for unknown in request.args.keys() - set(known):
        raise InvalidRequest(f"unknown parameter: '{cut(unknown)}'", cut(unknown), "unknown_parameter")
    return request.args.to_dict()


def _told(info: SessionInfo) -> dict[str, object]:
    return {
        "id": info.id, "object": "session", "model": info.model, "tokens": info.tokens, "bytes": info.size,
        "last_used": round(info.used, 3), "where": info.where,
    }


async def _in_time(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except TimeoutError as error:
        raise Overloaded(
            "the session store, or an instance that holds sessions, does not answer in time; try again later", 5,
        ) from error
