"""The web application: every API of the plugins over one host, behind the checks that a local server needs."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from ipaddress import ip_address
from socket import gethostname

from attrs import evolve
from quart import Blueprint, Quart, Response, has_request_context, request, websocket
from quart.typing import ResponseReturnValue
from werkzeug.exceptions import Forbidden

from lllms_core.apis import Api, Paths
from lllms_core.apis.ignored import HEADER
from lllms_core.apis.replies import fault_handler, outer_fault_handler, reply
from lllms_core.apis.request_ids import HEADER as REQUEST_ID
from lllms_core.apis.request_ids import TRACE, noted_request, valid_id, valid_trace
from lllms_core.apis.same_paths import SamePaths
from lllms_core.apis.specification import document
from lllms_core.caller import CALLER
from lllms_core.config import Config, ServerConfig, open_keyring
from lllms_core.events import RequestRefused
from lllms_core.host import Host
from lllms_core.host.reloads import Step
from lllms_core.parameters.wording import cut
from lllms_core.tracebacks import described
from lllms_core.web.body import PatientRequest
from lllms_core.web.callers import know_callers
from lllms_core.web.guard import Guard
from lllms_core.web.key_check import KeyCheck

LOG = logging.getLogger("lllms.app")

CORS_METHODS = "GET, POST, DELETE, OPTIONS"
CORS_EXPOSED = f"Retry-After, {HEADER}, {REQUEST_ID}"
CORS_SECONDS = "600"
WEB = ("http", "https")
"""The schemes of web pages."""
LOOPBACK = "127.0.0.1"
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  # compared, not bound
NOT_PUBLIC = (".localhost", ".local", ".internal")
"""Suffixes of names that no public name server resolves: by RFC 6761, by RFC 6762 (a network's devices announce them),
and ICANN's domain for private use, as in `host.docker.internal`."""


def create_app(host: Host, *, manage_host: bool = True) -> Quart:
    """Return an ASGI application that serves `host`; add your own routes to it as you like.

    It starts the host when the web server starts it, and closes the host that it started; one that runs already, or
    any with `manage_host=False`, is left alone. To put the APIs into an application of your own, use `mount`. If the
    configuration has keys, every request needs one, also for routes that you add; only `/health`, the empty page at `/`
    and its scripts need none (`apis.open_routes`).

    Raises `ConfigError` if the file of keys cannot be used.
    """
    server = host.config.server
    key_check = _key_check(host)
    app = Quart(__name__, static_folder=None)
    app.asgi_app = Guard(app.asgi_app)  # type: ignore[method-assign]  # which is how Quart wants it
    app.url_map.strict_slashes = False  # for plugins' routes that end with a slash, which the guard removes
    app.request_class = PatientRequest
    app.config["MAX_CONTENT_LENGTH"] = server.max_body
    app.config["BODY_TIMEOUT"] = None  # the body of a PatientRequest has limits of its own
    app.register_error_handler(Exception, outer_fault_handler([one.object for one in host.plugins.apis.values()]))
    same_paths = SamePaths(app)
    app.before_request(same_paths.choose)
    for check in (_host_check(host), _origin_check(host)):
        app.before_request(check)
        app.before_websocket(check)
    _allow_origins(app, host)
    key_check.guard(app)
    host.reloads.join(lambda config: Step(lambda: app.config.update(MAX_CONTENT_LENGTH=config.server.max_body)))
    if manage_host:
        _manage(app, host)
    _mount(app, host, same_paths, None)
    return app


def mount(app: Quart, host: Host, *, prefix: str | None = None) -> None:
    """Add the routes of every API to an application, under `prefix`; the caller starts and closes the host.

    `/openapi.json` describes them together. Where several serve one path, a header decides (`apis.same_paths`). The
    checks of `create_app` (Host header, size of bodies, origins) are not included, but requests need a key if the
    configuration has keys. An API whose plugin fails to make its routes is left out, and the reason is logged.

    Raises `ConfigError` if the file of keys cannot be used.
    """
    key_check = _key_check(host)
    same_paths = SamePaths(app)
    app.before_request(same_paths.choose)
    _mount(app, host, same_paths, prefix, key_check)


def _key_check(host: Host) -> KeyCheck:
    """Return the check of keys, which takes those of each new configuration. Raises `ConfigError`."""
    check = KeyCheck(open_keyring(host.config.server))

    def prepare(config: Config) -> Step:
        keyring, server = open_keyring(config.server), host.config.server
        # What the configuration itself says of keys, and what has changed of that, is known already.
        in_file = keyring != check.keyring and config.server.api_keys == server.api_keys
        return Step(lambda: check.take(keyring), ("server.api_keys_file",) if in_file else ())

    host.reloads.join(prepare)
    return check


def _mount(
    app: Quart, host: Host, same_paths: SamePaths, prefix: str | None, key_check: KeyCheck | None = None,
) -> None:
    for name, provided in sorted(host.plugins.apis.items()):
        api = provided.object
        try:
            routes = api.blueprint(host)
            routes.register_error_handler(Exception, fault_handler(api))
            routes.after_request(_name_request(host))
            if key_check is not None:
                key_check.guard(routes)
            know_callers(routes, lambda: host.config.server)
            routes.before_request(_know_ids)
            # Quart takes the prefix in place of the API's own.
            app.register_blueprint(routes, url_prefix=None if prefix is None else prefix + (routes.url_prefix or ""))
        except Exception as error:
            told = described(error)  # no request is being served yet
            LOG.exception("API '%s' of plugin '%s' is left out: %s", name, provided.plugin, told)
        else:
            same_paths.apis[routes.name] = api
    description = _description([*same_paths.apis.values()], host)
    if key_check is not None:
        key_check.guard(description)
    app.register_blueprint(description, url_prefix=prefix)


async def _know_ids() -> None:
    """Let observers know how the client calls the request."""
    headers = request.headers
    if REQUEST_ID in headers or TRACE in headers:
        CALLER.set(evolve(
            CALLER.get(), request_id=valid_id(headers.get(REQUEST_ID)), trace=valid_trace(headers.get(TRACE)),
        ))


def _name_request(host: Host) -> Callable[[Response], Awaitable[Response]]:
    async def name_request(response: Response) -> Response:
        """Tell the client the id of the request that it has made, if it has, and observers of a refusal."""
        request_id, client_id = noted_request(), valid_id(request.headers.get(REQUEST_ID))
        if client_id or request_id is not None:
            response.headers[REQUEST_ID] = client_id or request_id
        if response.status_code >= 400 and request_id is None:
            rule = request.url_rule
            route, key = "" if rule is None else rule.rule, CALLER.get().key or ""
            host.observers(RequestRefused(request.method, route, response.status_code, key, client_id))
        return response

    return name_request


def _description(apis: Sequence[Api], host: Host) -> Blueprint:
    """Return the route with the combined description of these APIs."""
    path = "/openapi.json"
    routes = Blueprint("openapi", __name__)
    routes.register_error_handler(Exception, fault_handler())

    def described_by(api: Api) -> Paths:
        try:
            return api.describe(host)
        except Exception:
            LOG.exception("API '%s' does not describe itself", api.name)
            return {}

    @routes.get(path)
    async def describe() -> Response:
        # Both the routes and the application may be mounted under a prefix.
        prefix = f"{request.root_path}{request.path}".removesuffix(path)
        return reply(document([described_by(api) for api in apis], version("lllms-core"), prefix))

    return routes


def is_own_name(name: str, server: ServerConfig) -> bool:
    """Whether a server answers to `name`, as browsers send it in the Host header without the port.

    It answers to localhost, its own addresses, the name it listens on, `allowed_hosts`, the machine's name, and names
    that end as in `NOT_PUBLIC`. A foreign web page can make its own name resolve to this machine, but none of these,
    and it cannot make the browser send another name.
    """
    if server.socket_path is not None:
        return True  # web pages cannot reach a socket
    name = name.lower().rstrip(".")
    bound = server.host.lower().strip("[]")
    if name in {"localhost", bound, *(one.lower() for one in server.allowed_hosts)} or "*" in server.allowed_hosts:
        return True
    if name.endswith(NOT_PUBLIC) or name in _machine_names():
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or bound in ANY_ADDRESS


def _machine_names() -> set[str]:
    """Return the names of this machine, with and without its domain."""
    name = gethostname().lower().rstrip(".")
    return {name, name.partition(".")[0]} - {""}


def _host_check(host: Host) -> Callable[[], Awaitable[None]]:
    async def check_host() -> None:
        asked = request if has_request_context() else websocket
        name = _without_port(asked.headers.get("Host", ""))
        # Only programs leave the header out, and they could write into it what they like.
        if name and not is_own_name(name, host.config.server):
            raise Forbidden(
                f"this server does not answer to the name '{name}'; call it localhost, or add the name to"
                " server.allowed_hosts",
            )

    return check_host


def _origin_check(host: Host) -> Callable[[], Awaitable[None]]:
    async def check_origin() -> None:
        asked = request if has_request_context() else websocket
        origin, origins = asked.headers.get("Origin"), host.config.server.cors_origins
        if origin is None or origin in origins or "*" in origins:
            return
        scheme, _, name = origin.partition("://")
        if name and scheme not in WEB:
            return  # of a program, like vscode-webview://; no web page can send one
        # A page's own server may be reached by any name that passes the check of the Host header.
        if not name or not (name == asked.headers.get("Host") or is_own_name(_without_port(name), narrow())):
            raise Forbidden(
                f"web pages of the origin '{cut(origin)}' may not use this server; to allow it, add it to"
                " server.cors_origins",
            )

    def narrow() -> ServerConfig:
        server = host.config.server
        hosts = tuple(one for one in server.allowed_hosts if one != "*")
        # A server bound to all addresses answers at each, but a page at any address is not its own.
        bound = LOOPBACK if server.socket_path is not None or server.host.strip("[]") in ANY_ADDRESS else server.host
        return evolve(server, allowed_hosts=hosts, host=bound)

    return check_origin


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _allow_origins(app: Quart, host: Host) -> None:
    """Let web pages of the configured origins call the API from a browser."""

    async def answer_preflight() -> ResponseReturnValue | None:
        if not host.config.server.cors_origins:
            return None
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return Response(status=204)
        return None

    async def add_headers(response: Response) -> Response:
        origins = host.config.server.cors_origins
        if not origins:
            return response
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
