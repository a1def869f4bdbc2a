"""The routes: read the body, submit the request, answer whole or as events."""

from quart import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed

from lllms_anthropic.events import MessageEvents
from lllms_anthropic.message_values import message_value
from lllms_anthropic.model_list import ModelList
from lllms_anthropic.request_body import Asked, Vain, read_request
from lllms_core.answers import Stream
from lllms_core.apis import Api, Fault, Server
from lllms_core.apis.bodies import LARGE, read_body, read_object, work
from lllms_core.apis.fault import INVALID
from lllms_core.apis.replies import reply, reply_answers, reply_fault
from lllms_core.apis.streaming import gather_answers, stream_answer
from lllms_core.apis.wishes import submit_with_wishes
from lllms_core.errors import RequestError
from lllms_core.parameters.wording import cut
from lllms_core.queries import CountRequest, Prepared
from lllms_core.types import ChatRequest, new_request_id

PREFIXES = ("/anthropic/v1", "/v1")
OTHER_METHODS = ("GET", "PUT", "PATCH", "DELETE")
ASTRAY = ("/v1/messages/<path:rest>", "/anthropic/<path:rest>", "/messages", "/messages/<path:rest>", "/v1/complete")
"""The rest of Anthropic's API, and paths by which its clients miss ours: the answer tells the way."""


def make_blueprint(server: Server, api: Api, patience: float, interval: float) -> Blueprint:
    """Return the routes over `server`; see `AnthropicApi` for the two times."""
    views, models = Views(server, patience, interval), ModelList(server)
    routes = Blueprint("anthropic", __name__)

    async def refuse() -> Response:
        raise MethodNotAllowed(["POST"])

    async def lead(rest: str = "") -> Response:  # noqa: ARG001  # the path is in the request
        base = f"{request.scheme}://{cut(request.host)}{request.root_path}"
        served = ", ".join(f"{base}/v1/{path}" for path in ("messages", "messages/count_tokens", "models"))
        text = f"there is nothing at {cut(request.path)}; of Anthropic's API, these are served: {served}"
        return reply_fault(Fault(404, text, INVALID, None, "not_found", {}), api)

    for prefix in PREFIXES:
        for path, view in (("/messages", views.messages), ("/messages/count_tokens", views.count_tokens)):
            name = view.__name__
            routes.add_url_rule(f"{prefix}{path}", name, view, methods=["POST"])
            routes.add_url_rule(f"{prefix}{path}", f"not_{name}", refuse, methods=OTHER_METHODS)
        routes.add_url_rule(f"{prefix}/models", "models", models.list)
        routes.add_url_rule(f"{prefix}/models/<path:name>", "model", models.one)
    for path in ASTRAY:
        routes.add_url_rule(path, "lead", lead, methods=["POST", *OTHER_METHODS])
    return routes


class Views:
    """The handlers of the routes for messages."""

    def __init__(self, server: Server, patience: float, interval: float) -> None:
        self._server = server
        self._patience = patience
        self._interval = interval
        self._vain: Vain = set()

    async def messages(self) -> Response:
        """Answer a conversation."""
        body = await read_body()
        asked, ready = await work(len(body), lambda: self._read(body))
        stream = self._submit(asked, ready)
        if asked.stream:
            events = MessageEvents(lambda: _names(stream), asked.stops)
            return await stream_answer(
                self._server, [stream], events, patience=self._patience, interval=self._interval,
            )
        [answer] = await gather_answers([stream])
        return await reply_answers(
            [stream], [answer], len(answer.text), lambda: message_value(*_names(stream), answer, asked.stops),
        )

    async def count_tokens(self) -> Response:
        """Count the tokens of a conversation's prompt, exactly; this loads the model."""
        body = await read_body()
        asked, query = await work(len(body), lambda: self._read_count(body))
        while True:
            try:
                return reply({"input_tokens": await self._server.ask(query, int)}, asked.request.unused)
            except RequestError as error:
                again = asked.without(error, self._vain)
                if again is None:
                    raise
                asked, query = again, _count(again.request)

    def _read(self, body: bytes) -> tuple[Asked, ChatRequest | Prepared]:
        """Return a request, and what to submit of it: a large one is prepared."""
        asked = read_request(self._server, read_object(body, self._server.json_levels), self._vain)
        return asked, self._server.prepare(asked.request) if len(body) > LARGE else asked.request

    def _read_count(self, body: bytes) -> tuple[Asked, CountRequest | Prepared]:
        asked = read_request(self._server, read_object(body, self._server.json_levels), self._vain)
        query = _count(asked.request)
        return asked, self._server.prepare(query) if len(body) > LARGE else query

    def _submit(self, asked: Asked, ready: ChatRequest | Prepared) -> Stream:
        """Submit a request; an effort that the model's template does not know is no reason to refuse it."""
        if not asked.wishes:
            return self._server.submit(ready)
        current: Asked | None = asked

        def without(refusal: RequestError) -> ChatRequest | None:
            nonlocal current
            current = None if current is None else current.without(refusal, self._vain)
            return None if current is None else current.request

        return submit_with_wishes(self._server, ready, without)


def _count(request: ChatRequest) -> CountRequest:
    return CountRequest(new_request_id(), request.model, request, request.timeout)


def _names(stream: Stream) -> tuple[str, str]:
    """Return the id of a message, and the name of its model."""
    return f"msg_{stream.request.id}", stream.request.model
