"""Errors as OpenAI's clients know them: one table from our tree to HTTP status, `type` and `code`."""

import logging
from collections.abc import Mapping

from attrs import frozen
from quart import Response, current_app, has_request_context, request, websocket
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import WebsocketMismatch

from lllms_core import errors
from lllms_core.builtin.openai.answers import dumps

LOG = logging.getLogger("lllms.api")

INVALID = "invalid_request_error"
SERVER = "server_error"


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
        """The JSON of the answer, or of the event that ends a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


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
    path = request.path if has_request_context() else websocket.path
    if isinstance(error, NotFound):
        message = f"there is nothing at {path}"
    elif isinstance(error, WebsocketMismatch):
        message = f"{path} is no WebSocket; send a plain HTTP request"
    elif isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        method = request.method if has_request_context() else "WebSockets"
        message = f"{path} does not take {method}; it takes {headers['Allow']}"
    elif isinstance(error, RequestEntityTooLarge):
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        message = f"the body is larger than {limit} bytes; shorten it, or raise server.max_body"
    return Fault(status, message, INVALID, None, error.name.lower().replace(" ", "_"), headers)
