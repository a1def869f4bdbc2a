"""Errors as OpenAI's clients know them: one table from our tree to HTTP status, `type` and `code`."""

import logging
from collections.abc import Mapping

from attrs import frozen
from quart import Response, current_app, has_request_context, request, websocket
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import WebsocketMismatch

from lllms_core import errors
from lllms_core.builtin.openai.answers import dumps
from lllms_core.parameters.wording import cut

LOG = logging.getLogger("lllms.api")

INVALID = "invalid_request_error"
SERVER = "server_error"

LONGEST_MESSAGE = 1200
"""Bytes of a message in JSON; of a longer one, the middle is left out: the way out stands at its end."""


@frozen
class Fault:
    """What a client is told about an error: `body` is `{"error": {"message", "type", "param", "code"}}`."""

    status: int
    message: str
    type: str
    param: str | None
    code: str
    headers: Mapping[str, str]

    @property
    def body(self) -> dict[str, object]:
        """The JSON of the answer, or of the event that ends a stream; small, whatever the client or an engine wrote."""
        param = None if self.param is None else _shortened(cut(self.param), LONGEST_MESSAGE // 2)
        message = _shortened(self.message, LONGEST_MESSAGE)
        return {"error": {"message": message, "type": self.type, "param": param, "code": self.code}}


TABLE: Mapping[type[errors.LllmsError], tuple[int, str, str]] = {
    errors.ModelUnknown: (404, INVALID, "model_not_found"),
    errors.ModelError: (503, SERVER, "model_not_available"),
    errors.ContextOverflow: (400, INVALID, "context_length_exceeded"),
    errors.UnsupportedParameter: (400, INVALID, "unsupported_parameter"),
    errors.RequestError: (400, INVALID, "invalid_request"),
    errors.OutOfTime: (504, SERVER, "timeout"),
    errors.EngineDied: (500, SERVER, "engine_died"),
    errors.EngineError: (500, SERVER, "engine_failed"),
    errors.DownloadError: (503, SERVER, "model_not_available"),
    errors.QueueFull: (429, "rate_limit_error", "queue_full"),
    errors.WaitedTooLong: (503, SERVER, "waited_too_long"),
    errors.ShuttingDown: (503, SERVER, "shutting_down"),
    errors.Overloaded: (503, SERVER, "overloaded"),
    errors.LllmsError: (500, SERVER, "internal_error"),
}
"""By class; a class that is not listed answers as its nearest base does."""


def explain(error: Exception) -> Fault:
    """Say what a client is told about an error; whatever is not ours is logged, and the client learns no more of it."""
    if isinstance(error, errors.LllmsError):
        return _explain_ours(error)
    if isinstance(error, HTTPException):
        return _explain_http(error)
    if isinstance(error, RecursionError):
        return Fault(400, "the request is nested too deeply; flatten it", INVALID, None, "nested_too_deeply", {})
    LOG.error("unexpected error while a request was served", exc_info=error)
    return Fault(500, "internal error of the server; its log tells more", SERVER, None, "internal_error", {})


def answer_error(error: Exception) -> Response:
    """Answer a request with an error; register it with `app.register_error_handler(Exception, answer_error)`."""
    fault = explain(error)
    headers = {"Content-Type": "application/json", **fault.headers}
    return Response(dumps(fault.body), fault.status, headers)


def _explain_ours(error: errors.LllmsError) -> Fault:
    status, kind, code = next(TABLE[base] for base in type(error).__mro__ if base in TABLE)
    param = None
    headers = {}
    if isinstance(error, errors.RequestError):
        param, code = error.param, error.code or code
    elif isinstance(error, errors.ModelUnknown):
        param = "model"
    elif isinstance(error, errors.Overloaded | errors.DownloadError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Fault(status, error.message, kind, param, code, headers)


def _explain_http(error: HTTPException) -> Fault:
    status = error.code or 500
    message = error.description or error.name
    headers = {}
    path = cut(request.path if has_request_context() else websocket.path)
    if isinstance(error, NotFound):
        message = f"there is nothing at {path}"
    elif isinstance(error, WebsocketMismatch):
        message = f"{path} is no WebSocket; send a plain HTTP request"
    elif isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        method = cut(request.method) if has_request_context() else "WebSockets"
        message = f"{path} does not take {method}; it takes {headers['Allow']}"
    elif isinstance(error, RequestEntityTooLarge):
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        message = f"the body is larger than {limit} bytes; shorten it, or raise server.max_body"
    return Fault(status, message, INVALID, None, error.name.lower().replace(" ", "_"), headers)


def _shortened(text: str, most: int) -> str:
    """Return a text that takes at most `most` bytes as JSON, without its middle if need be."""
    shown, kept = text, min(most, len(text))
    while len(shown) > most or len(dumps(shown)) - 2 > most:
        kept = kept * 2 // 3
        shown = f"{text[: kept * 2 // 3]} ... {text[len(text) - kept // 3 :]}"
    return shown
