"""The routes that tell of stored sessions."""

from collections.abc import Awaitable
from typing import TypeVar

from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from lllms_core.builtin.openai.answers import dumps
from lllms_core.builtin.openai.errors import answer_error
from lllms_core.errors import InvalidRequest, Overloaded
from lllms_core.host import Host
from lllms_core.sessions import SessionEntry

T = TypeVar("T")


def make_blueprint(host: Host) -> Blueprint:
    """Return the routes over `host`; a server that stores none has none to tell of."""
    routes = Blueprint("sessions", __name__, url_prefix="/api/v1/sessions")
    routes.register_error_handler(Exception, answer_error)

    async def entries() -> list[SessionEntry]:
        for unknown in request.args.keys() - {"model"}:
            raise InvalidRequest(f"unknown parameter: '{unknown}'", unknown, "unknown_parameter")
        listed = [] if host.sessions is None else await _in_time(host.sessions.list())
        name = request.args.get("model")
        model = None if name is None else host.model(name).name
        return [entry for entry in listed if model is None or entry.model == model]

    async def forget(session_id: str) -> bool:
        return host.sessions is not None and await _in_time(host.sessions.delete(session_id))

    @routes.get("")
    async def tell() -> Response:
        store = host.config.sessions.store
        return _answer({"object": "list", "data": [_told(entry, store) for entry in await entries()]})

    @routes.delete("")
    async def forget_all() -> Response:
        ids = [entry.id for entry in await entries()]
        return _answer({"deleted": [session_id for session_id in ids if await forget(session_id)]})

    @routes.delete("/<session_id>")
    async def forget_one(session_id: str) -> Response:
        if not await forget(session_id):
            raise NotFound
        return _answer({"deleted": [session_id]})

    return routes


def _told(entry: SessionEntry, store: str) -> dict[str, object]:
    return {
        "id": entry.id, "object": "session", "model": entry.model, "tokens": entry.tokens, "bytes": entry.size,
        "last_used": round(entry.used, 3), "store": store,
    }


async def _in_time(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except TimeoutError as error:
        raise Overloaded("the store of sessions does not answer in time; try again later", 5) from error


def _answer(value: object) -> Response:
    return Response(dumps(value), content_type="application/json")
