r"""A dialect of one's own: a question in, an answer out, one JSON object per line.

    python examples/dialect.py
    curl http://127.0.0.1:3000/lines -H 'Content-Type: application/json' \
        -d '{"model": "tiny-chat", "question": "Hi!"}'

CONTRIBUTING.md says how to make a package of it, and how to test that.
"""

from typing import TYPE_CHECKING

from lllms_core.apis import Api, Encoder, Fault, Paths, Server
from lllms_core.apis.specification import STRING, closed_object, operation, takes
from lllms_core.apis.writing import line
from lllms_core.hookspecs import hookimpl
from lllms_core.types import Delta, Finish, Message

if TYPE_CHECKING:
    from quart import Blueprint


class LineEncoder(Encoder):
    """Writes one answer."""

    content_type = "application/x-ndjson"

    def delta(self, delta: Delta) -> bytes:
        """Write a piece; a dialect that shows thoughts and calls looks at `delta.reasoning` and `delta.calls`, too."""
        return line({"text": delta.text}) if delta.text else b""

    def end(self, finish: Finish) -> bytes:
        """Write the end."""
        return line({"end": finish.reason, "tokens": finish.usage.completion_tokens})

    def fault(self, fault: Fault) -> bytes:
        """Write the error that ends the answer."""
        return line({"error": fault.message})

    def ping(self, waiting: str) -> bytes:
        """Write what the answer waits for."""
        return line({"waiting": waiting})


class LinesApi(Api):
    """`POST /lines` with `model` and `question`."""

    name = "lines"

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the route."""
        from quart import Blueprint, Response

        from lllms_core.apis.bodies import read_request, take_text
        from lllms_core.apis.streaming import stream_answer

        routes = Blueprint("lines", __name__)

        @routes.post("/lines")
        async def answer() -> Response:
            request = await read_request(server, lambda members: server.request(
                take_text(members, "model"), messages=[Message("user", take_text(members, "question"))],
            ))
            return await stream_answer(server, [server.submit(request)], LineEncoder())

        return routes

    def describe(self, server: Server) -> Paths:  # noqa: ARG002  # it does not depend on the models
        """Return the route."""
        error = closed_object(["error"], {"error": STRING})
        told = operation("Answer a question", "Lines of JSON", kind=LineEncoder.content_type, error=error)
        question = closed_object(["model", "question"], {"model": STRING, "question": STRING})
        return {"/lines": {"post": takes(told, question)}}

    def fault(self, fault: Fault) -> object:
        """Return an error in this dialect's shape."""
        return {"error": fault.message}


@hookimpl
def lllms_apis() -> list[Api]:
    """Provide the dialect."""
    return [LinesApi()]


if __name__ == "__main__":
    import asyncio
    import sys

    from lllms_core import Host, load_config
    from lllms_core.plugins import Plugins
    from lllms_core.serve import serve

    plugins = Plugins.discover(extra={"lines": sys.modules[__name__]})
    asyncio.run(serve(Host(load_config(), plugins), on_ready=print))
