"""Serve the OpenAI API next to your own routes, in one Quart app.

    python examples/mount_app.py
    curl http://127.0.0.1:3000/hello
    curl http://127.0.0.1:3000/v1/models
"""

from quart import Quart

from lllms_core import Host, create_app


def make_app() -> Quart:
    """Make the app: the host's models start and stop with it."""
    host = Host()
    app = create_app(host)

    @app.get("/hello")
    async def hello() -> dict[str, list[str]]:
        return {"models": [entry.name for entry in host.catalog.entries]}

    return app


if __name__ == "__main__":
    make_app().run(port=3000)
