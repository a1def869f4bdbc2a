"""The routes that serve the client for web pages and JavaScript programs, and its hook for React."""

from importlib.resources import files

from quart import Blueprint

from lllms_core.apis.assets import asset_view

SCRIPTS = ("client.js", "react.js")
CONTENT_TYPE = "text/javascript; charset=utf-8"


def add_script_routes(routes: Blueprint) -> None:
    """Add a route for each script."""
    for name in SCRIPTS:
        text = files(__package__).joinpath("scripts", name).read_bytes()
        routes.add_url_rule(f"/{name}", name.partition(".")[0], asset_view(text, CONTENT_TYPE))
