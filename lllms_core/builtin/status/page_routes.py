"""The routes of the page for people: its script and style, and the events that keep it up to date."""

from importlib.resources import files

from quart import Blueprint, Response
from werkzeug.exceptions import ServiceUnavailable

from lllms_core.apis import Server
from lllms_core.apis.assets import asset_view
from lllms_core.apis.streaming import HEADERS
from lllms_core.builtin.status.live import MOST_PAGES, OpenPages

ASSETS = {"page.js": "text/javascript; charset=utf-8", "page.css": "text/css; charset=utf-8"}
RETRY = 30
"""Seconds after which a page that found no place may try again."""


def make_page(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("page", __name__, url_prefix="/api/v1/status")
    pages = OpenPages(server)
    for name, kind in ASSETS.items():
        data = files(__package__).joinpath("page", name).read_bytes()
        routes.add_url_rule(f"/{name}", name.replace(".", "_"), asset_view(data, kind))

    @routes.get("/events")
    async def events() -> Response:
        if pages.full:
            raise ServiceUnavailable(f"{MOST_PAGES} pages show this server already; close one", retry_after=RETRY)
        response = Response(pages.follow(), headers={"Content-Type": "text/event-stream", **HEADERS})
        response.timeout = None  # it lasts as long as the page is open
        return response

    return routes
