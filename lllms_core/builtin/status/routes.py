"""The routes of the status."""

from quart import Blueprint, Response, render_template, request
from werkzeug.exceptions import Forbidden

from lllms_core.apis import Server
from lllms_core.apis.replies import reply
from lllms_core.builtin.status.download_routes import make_downloads
from lllms_core.builtin.status.model_routes import make_models
from lllms_core.builtin.status.report import Report, health, lacking, make_report
from lllms_core.builtin.status.request_routes import make_requests
from lllms_core.caller import CALLER
from lllms_core.errors import InvalidRequest

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def make_blueprint(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("status", __name__, template_folder="templates")

    @routes.get("/")
    async def status() -> Response:
        # JSON unless HTML is preferred, as browsers do: a bare `curl` takes anything.
        report = make_report(server)
        base = f"{request.root_path}{request.path}".rstrip("/")  # these routes may be mounted under a prefix
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            return Response(await render_template("lllms/status.html", base=base, **report), headers=PAGE_HEADERS)
        response = reply(report)
        response.headers["Vary"] = "Accept"
        return response

    @routes.get("/health")
    async def check_health() -> Response:
        wanted = request.args.get("ready", "false")
        if wanted not in {"true", "false"}:
            text = f"'ready' is true, to ask for the models that are kept, too, or false; got {wanted[:200]!r}"
            raise InvalidRequest(text, "ready", "invalid_value")
        missing = lacking(server) if wanted == "true" else []
        body: Report = {"status": "unavailable" if missing else health(server)}
        # Who has shown no key learns no names.
        response = reply({**body, "lacking": missing} if wanted == "true" and CALLER.get().known else body)
        response.status_code = 200 if server.ready and not missing else 503
        return response

    @routes.get("/metrics")
    async def measure() -> Response:
        if CALLER.get().models is not None:
            raise Forbidden("the metrics tell of every model; read them with a key that may use every model")
        body, content_type = server.measurements(request.headers.get("Accept", ""))
        return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    for more in (make_downloads(server), make_models(server), make_requests(server)):
        routes.register_blueprint(more)
    return routes
