"""The faults that clients see for errors of HTTP itself, like an unknown path."""

from quart import current_app, has_request_context, request, websocket
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import WebsocketMismatch

from lllms_core.apis.fault import INVALID, Fault
from lllms_core.apis.foreign_paths import find_way_out
from lllms_core.parameters.wording import cut


def explain_http(error: Exception) -> Fault | None:
    """Return the fault for an error of HTTP; None for any other error."""
    if not isinstance(error, HTTPException):
        return None
    status = error.code or 500
    message = error.description or error.name
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    path = cut(request.path if has_request_context() else websocket.path)
    if type(error) is NotFound:  # subclasses bring their own words
        asked = request if has_request_context() else websocket
        base = f"{asked.scheme.replace('ws', 'http')}://{cut(asked.host)}{asked.root_path}"
        way_out = find_way_out(asked.path, base, current_app.blueprints)
        message = f"there is nothing at {path}{'' if way_out is None else f': {way_out}'}"
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
