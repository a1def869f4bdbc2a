"""The web application: every API of the plugins over one host, behind the checks that a local server needs."""

import logging
from collections.abc import Awaitable, Callable, Generator
from ipaddress import ip_address

from quart import Quart, Request, Response, request
from quart.typing import ResponseReturnValue
from quart.wrappers.request import Body
from werkzeug.exceptions import Forbidden, RequestEntityTooLarge

from lllms_core.builtin.openai.errors import answer_error
from lllms_core.config import ServerConfig
from lllms_core.host import Host
from lllms_core.tracebacks import described

LOG = logging.getLogger("lllms.app")

DISCARD = 100 * 2**20
"""Bytes of a body that is too large which are read, and thrown away, before it is refused."""

CORS_METHODS = "GET, POST, DELETE, OPTIONS"
CORS_EXPOSED = "Retry-After"
CORS_SECONDS = "600"


def create_app(host: Host, *, manage_host: bool = True) -> Quart:
    """Return an ASGI application that serves `host`; add your own routes to it as you like.

    It starts the host when the web server starts it, and closes the host that it started; one that runs already, or
    any with `manage_host=False`, is left alone. To put the APIs into an application of your own, use `mount`.
    """
    server = host.config.server
    app = Quart(__name__, static_folder=None)
    app.request_class = PatientRequest
    app.config["MAX_CONTENT_LENGTH"] = server.max_body
    app.register_error_handler(Exception, answer_error)
    app.before_request(_host_check(server))
    if server.cors_origins:
        _allow_origins(app, frozenset(server.cors_origins))
    if manage_host:
        _manage(app, host)
    mount(app, host)
    return app


def mount(app: Quart, host: Host, *, prefix: str | None = None) -> None:
    """Add the routes of every API to an application, below `prefix`; the caller starts and closes the host.

    The checks of `create_app` (Host header, size of bodies, origins) are not part of it. An API whose plugin fails to
    make its routes is left out, and the log tells why.
    """
    for name, provided in sorted(host.plugins.apis.items()):
        try:
            app.register_blueprint(provided.object.blueprint(host), url_prefix=prefix)
        except Exception as error:
            told = described(error)  # nobody's request is at work yet
            LOG.exception("API '%s' of plugin '%s' is left out: %s", name, provided.plugin, told)


class PatientBody(Body):
    """A body that is refused for its size only when the client has sent it all, or very much of it.

    A client that is refused while it sends mostly sees a broken connection, not the reason.
    """

    _discarded = 0

    def append(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._must_raise is None:
            self._data.extend(data)
            self._has_data.set()
            if self._max_content_length is not None and len(self._data) > self._max_content_length:
                self._must_raise = RequestEntityTooLarge()
                self._data.clear()
        else:
            self._discarded += len(data)
            if self._discarded > DISCARD:
                self.set_complete()

    def __await__(self) -> Generator[object, None, bytes]:
        yield from self._complete.wait().__await__()
        data: bytes = yield from super().__await__()
        return data


class PatientRequest(Request):
    """A request with such a body."""

    body_class = PatientBody


def is_own_name(name: str, server: ServerConfig) -> bool:
    """Whether a server answers to `name`, as browsers send it in the Host header without the port.

    It answers to localhost, to the addresses it can be reached by, to the name it listens on, and to `allowed_hosts`. A
    page from elsewhere can make its own name lead to this machine, but cannot make the browser send another.
    """
    name = name.lower().rstrip(".")
    bound = server.host.lower().strip("[]")
    if name in {"localhost", bound, *(one.lower() for one in server.allowed_hosts)} or "*" in server.allowed_hosts:
        return True
    if name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or bound in {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound


def _host_check(server: ServerConfig) -> Callable[[], Awaitable[None]]:
    async def check_host() -> None:
        name = _without_port(request.headers.get("Host", ""))
        # Only programs leave the header out, and they could write into it what they like.
        if name and not is_own_name(name, server):
            raise Forbidden(
                f"this server does not answer to the name '{name}'; call it localhost, or add the name to"
                " server.allowed_hosts",
            )

    return check_host


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _allow_origins(app: Quart, origins: frozenset[str]) -> None:
    """Let web pages of these origins call the API from a browser."""

    async def answer_preflight() -> ResponseReturnValue | None:
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return Response(status=204)
        return None

    async def add_headers(response: Response) -> Response:
        origin = request.headers.get("Origin")
        response.headers.add("Vary", "Origin")
        if origin is None or not ("*" in origins or origin in origins):
            return response
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = CORS_EXPOSED
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = CORS_METHODS
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            response.headers["Access-Control-Allow-Headers"] = wanted or "Content-Type"
            response.headers["Access-Control-Max-Age"] = CORS_SECONDS
        return response

    app.before_request(answer_preflight)
    app.after_request(add_headers)


def _manage(app: Quart, host: Host) -> None:
    """Start and close the host with the application, unless somebody else has started it."""
    started = False

    async def start() -> None:
        nonlocal started
        if not host.pool.open:
            started = True
            await host.start()

    async def close() -> None:
        if started:
            await host.close()

    app.before_serving(start)
    app.after_serving(close)
