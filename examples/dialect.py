r"""A dialect of one's own: a question in, an answer out, one JSON object per line.

    python examples/dialect.py
    curl http://127.0.0.1:3000/lines -H 'Content-Type: application/json' \
        -d '{"model": "tiny-chat", "question": "Hi!"}'

To share it, put it into a package whose pyproject.toml says

    [project.entry-points.lllms]
    lines = "your_module"
"""

import sys
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Fault, Paths, Server
from lllms_core.apis.specification import STRING, closed_object, operation, takes
from lllms_core.apis.writing import dumps
from lllms_core.hookspecs import hookimpl
from lllms_core.types import Delta, Finish, Message, Request

if TYPE_CHECKING:
    from quart import Blueprint, Response


class LineEncoder:
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

    def __init__(self, patience: float = 5.0, interval: float = 15.0) -> None:
        self.patience = patience
        self.interval = interval

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the route."""
        from quart import Blueprint

        from lllms_core.apis.bodies import read_body, read_object, refuse_others, take_text, work
        from lllms_core.apis.streaming import stream_answer

        routes = Blueprint("lines", __name__)

        def read(body: bytes) -> Request:
            values = read_object(body, server.json_levels)
            model, question = take_text(values, "model"), take_text(values, "question")
            refuse_others(values)
            return server.request(model, messages=[Message("user", question)])

        @routes.post("/lines")
        async def answer() -> "Response":
            body = await read_body()
            streams = [server.submit(await work(len(body), lambda: read(body)))]
            return await stream_answer(
                server, streams, LineEncoder(), patience=self.patience, interval=self.interval,
            )

        return routes

    def describe(self, server: Server) -> Paths:  # noqa: ARG002  # it does not depend on the models
        """Return the route."""
        schema = closed_object(["model", "question"], {"model": STRING, "question": STRING})
        return {"/lines": {"post": takes(operation("Answer a question, line by line", "Lines"), schema)}}

    def fault(self, fault: Fault) -> object:
        """Return an error in this dialect's shape."""
        return {"error": fault.message}


def line(value: object) -> bytes:
    """Write one line."""
    return dumps(value) + b"\n"


@hookimpl
def lllms_apis() -> list[Api]:
    """Provide the dialect."""
    return [LinesApi()]


if __name__ == "__main__":
    import asyncio

    from lllms_core import Host, load_config
    from lllms_core.plugins import Plugins
    from lllms_core.serve import serve

    asyncio.run(serve(Host(load_config(), Plugins.discover(extra={"lines": sys.modules[__name__]})), on_ready=print))
