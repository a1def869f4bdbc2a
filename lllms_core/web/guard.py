"""Refuses requests that Quart cannot parse and would answer with 500 and a traceback, and tidies their paths."""

import re
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope, WebsocketScope

from lllms_core.apis.explanations import openai_shape
from lllms_core.apis.fault import INVALID, Fault
from lllms_core.apis.writing import dumps
from lllms_core.parameters.wording import cut
from lllms_core.web.body_memory import KEY, BodyMemory

HOST = re.compile(r"(\[[0-9A-Za-z:.%_-]+\]|[0-9A-Za-z._-]*)(:[0-9]{0,5})?")


class Guard:
    """An ASGI application around another one; answers malformed requests with 400, and counts what bodies hold.

    A path that ends with a slash, or has several in a row, is answered like the one without: programs that join a base
    URL and a path produce such paths, and a redirect would lose the body.
    """

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            checked = check(scope)
        except ValueError as error:
            await _refuse(scope, send, str(error))
        else:
            held = BodyMemory()
            try:
                await self._app(cast("Scope", {**checked, KEY: held}), receive, send)
            finally:
                held.release()


def check(scope: HTTPScope | WebsocketScope) -> HTTPScope | WebsocketScope:
    """Return the scope with a tidy path, without the rest of a URL. Raises `ValueError` for a malformed request."""
    for name, value in scope["headers"]:
        if name.lower() == b"host" and not is_host(value.decode("latin1")):
            raise ValueError(f"the Host header is not the name of a host: '{cut(value.decode('latin1'))}'")
    try:
        scope["query_string"].decode()
    except ValueError as error:
        raise ValueError("the query is not UTF-8 text") from error
    raw = cast("bytes | None", scope.get("raw_path"))  # servers may leave it out
    target = scope["path"].encode() if raw is None else raw
    if target.startswith(b"/") or target == b"*":
        return _changed(scope, path=tidy(scope["path"], scope.get("root_path", "")))
    try:
        url = urlsplit(target.decode())
    except ValueError:
        url = urlsplit("")
    if url.scheme.lower() not in {"http", "https"} or not url.netloc:
        raise ValueError(f"the request asks for '{cut(target.decode('latin1'))}', which is neither a path nor a URL")
    path = tidy(unquote(url.path) or "/", scope.get("root_path", ""))
    return _changed(scope, path=path, raw_path=url.path.encode() or b"/")


def tidy(path: str, root: str = "") -> str:
    """Return a path without empty parts; the path of an application mounted at `root` keeps its slash."""
    if not path.startswith("/"):
        return path
    whole = f"/{'/'.join(part for part in path.split('/') if part)}"
    return f"{whole}/" if whole == root else whole


def _changed(scope: HTTPScope | WebsocketScope, **changes: object) -> HTTPScope | WebsocketScope:
    return cast("HTTPScope | WebsocketScope", {**scope, **changes})


def is_host(text: str) -> bool:
    """Whether a Host header is valid: a name or an address, and perhaps a port. An empty one is valid."""
    if HOST.fullmatch(text) is None:
        return False
    try:
        text.encode("idna")  # as Werkzeug does, which allows no empty label, nor one above 63 characters
    except UnicodeError:
        return False
    return True


async def _refuse(scope: Scope, send: ASGISendCallable, message: str) -> None:
    body = dumps(openai_shape(Fault(400, message, INVALID, None, "bad_request", {})))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send(cast(Any, {"type": f"{kind}.start", "status": 400, "headers": headers}))
    await send(cast(Any, {"type": f"{kind}.body", "body": body, "more_body": False}))
