"""The routes of the status."""

from quart import Blueprint, Response, render_template, request
from werkzeug.exceptions import Forbidden

from lllms_core.apis import Server
from lllms_core.apis.open_routes import needs_no_key
from lllms_core.apis.replies import reply
from lllms_core.builtin.status.download_routes import make_downloads
from lllms_core.builtin.status.model_routes import make_models
from lllms_core.builtin.status.page_routes import make_page
from lllms_core.builtin.status.report import Report, lacking, make_report
from lllms_core.builtin.status.request_routes import make_requests
from lllms_core.caller import CALLER
from lllms_core.errors import InvalidRequest, KeyRefused

FORM = "'Authorization: Bearer KEY'"

PAGE_HEADERS = {
    # Nothing is loaded from elsewhere, nothing inline runs, and no text can become HTML: the browser refuses it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def make_blueprint(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("status", __name__, template_folder="templates")

    @routes.get("/")
    @needs_no_key
    async def status() -> Response:
        # JSON unless HTML is preferred, as browsers do: a bare `curl` takes anything.
        html = request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
        known = CALLER.get().known
        if html:
            # Without a key, the page is empty: it asks for one, and fetches the rest with that.
            base = f"{request.root_path}{request.path}".rstrip("/")  # these routes may be mounted under a prefix
            report = make_report(server) if known else None
            page = await render_template("lllms/page.html", base=base, report=report)
            return Response(page, headers=PAGE_HEADERS)
        if not known:
            raise KeyRefused(f"the status is shown to callers with an API key; send it as {FORM}")
        response = reply(make_report(server))
        response.headers["Vary"] = "Accept"
        return response

    @routes.get("/health")
    @needs_no_key
    async def check_health() -> Response:
        wanted, known = request.args.get("ready", "false"), CALLER.get().known
        if wanted not in {"true", "false"}:
            text = f"'ready' is true, to ask for the models that are kept, too, or false; got {wanted[:200]!r}"
            raise InvalidRequest(text, "ready", "invalid_value")
        missing = lacking(server) if wanted == "true" else []
        body: Report = {"lacking": missing} if wanted == "true" and known else {}  # strangers learn no names
        problem = None
        if (name := request.args.get("model")) is not None:
            if not known:
                raise KeyRefused(f"/health?model= tells of a model, for which it needs an API key; send it as {FORM}")
            problem = await server.problem(name) or None
            own = name if problem else server.model(name).name  # of an alias, the model's own
            ready = sum(one.model == own and one.state == "ready" for one in server.status().instances)
            body |= {"model": own, "ready": ready, "problem": problem}
        well = server.ready and not missing and problem is None
        response = reply({"status": "ok" if well else "unavailable", **body})
        response.status_code = 200 if well else 503
        return response

    @routes.get("/metrics")
    async def measure() -> Response:
        if CALLER.get().models is not None:
            raise Forbidden("the metrics tell of every model; read them with a key that may use every model")
        body, content_type = server.measurements(request.headers.get("Accept", ""))
        return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    for more in (make_downloads(server), make_models(server), make_requests(server), make_page(server)):
        routes.register_blueprint(more)
    return routes
