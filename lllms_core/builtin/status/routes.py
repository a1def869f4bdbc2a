"""The routes of the status."""

from quart import Blueprint, Response, jsonify, render_template, request

from lllms_core.builtin.status.downloads import make_downloads
from lllms_core.builtin.status.report import health, make_report
from lllms_core.host import Host

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def make_blueprint(host: Host) -> Blueprint:
    """Return the routes over `host`."""
    routes = Blueprint("status", __name__, template_folder="templates")

    @routes.get("/")
    async def status() -> Response:
        # JSON unless HTML is preferred, as browsers do: a bare `curl` takes anything.
        report = make_report(host)
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            return Response(await render_template("lllms/status.html", **report), headers=PAGE_HEADERS)
        response = jsonify(report)
        response.headers["Vary"] = "Accept"
        return response

    @routes.get("/health")
    async def check_health() -> Response:
        response = jsonify({"status": health(host)})
        response.status_code = 200 if host.ready else 503
        return response

    routes.register_blueprint(make_downloads(host))
    return routes
