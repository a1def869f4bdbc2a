"""The routes that load and unload models."""

from typing import cast

from attrs import frozen
from quart import Blueprint, Response

from lllms_core.answers import Stream
from lllms_core.apis import Encoder, Fault, Server, openai_shape
from lllms_core.apis.bodies import read_optional
from lllms_core.apis.replies import reply
from lllms_core.apis.streaming import gather_answers, stream_answer
from lllms_core.apis.writing import event
from lllms_core.builtin.status.report import Report, waiting_values
from lllms_core.parameters import ROUTES
from lllms_core.parameters.kinds import Flag
from lllms_core.queries import LoadRequest
from lllms_core.types import Delta, Finish, new_request_id

PATIENCE = 0.2
"""Seconds after which a load that is streamed sends its headers: its client wants to see the progress."""
INTERVAL = 5.0


@frozen
class Options:
    """The members of a load's body."""

    ttl: float | None = None
    stream: bool = False


class LoadEvents(Encoder):
    """Writes the progress of a load as server-sent events, then that the model is loaded, or why not."""

    content_type = "text/event-stream"

    def __init__(self, server: Server, stream: Stream) -> None:
        self._server = server
        self._stream = stream

    def delta(self, delta: Delta) -> bytes:  # noqa: ARG002  # the only one is the end
        """Write nothing."""
        return b""

    def end(self, finish: Finish) -> bytes:
        """Write that the model is loaded."""
        return event({**_loaded(self._stream, finish), "state": "loaded"})

    def fault(self, fault: Fault) -> bytes:
        """Write why it is not."""
        return event(openai_shape(fault))

    def ping(self, waiting: str) -> bytes:  # noqa: ARG002  # its values are sent, not only its text
        """Write what the load waits for, or how far it is."""
        asked = self._stream.request
        known = self._server.waiting(asked)
        return b"" if known is None else event({"model": asked.model, **waiting_values(known)})


def make_models(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("models", __name__, url_prefix="/api/v1/models")

    @routes.post("/<path:name>/load")
    async def load(name: str) -> Response:
        model = server.model(name).name
        options = await read_optional(server, _load_options, Options())
        stream = server.submit(LoadRequest(new_request_id(), model, options.ttl))
        if options.stream:
            return await stream_answer(
                server, [stream], LoadEvents(server, stream), patience=PATIENCE, interval=INTERVAL,
            )
        [answer] = await gather_answers([stream])
        return reply(_loaded(stream, answer.finish))

    @routes.post("/<path:name>/unload")
    async def unload(name: str) -> Response:
        model = server.model(name).name
        await read_optional(server, lambda _: None, None)
        before = {one.id for one in server.status().instances if one.model == model}
        await server.unload(model)
        left = [one for one in server.status().instances if one.model == model]
        busy = [one.id for one in left if one.running or one.state != "ready"]
        return reply({
            "model": model,
            "unloaded": sorted(before - {one.id for one in left}),
            "busy": busy,
            "kept": [one.id for one in left if one.id not in busy],
        })

    return routes


def _load_options(members: dict[str, object]) -> Options:
    ttl = members.pop("ttl", None)
    stream = Flag().check("stream", members.pop("stream", False))
    return Options(None if ttl is None else cast(float, ROUTES["chat"]["ttl"].kind.check("ttl", ttl)), stream)


def _loaded(stream: Stream, finish: Finish) -> Report:
    return {"model": stream.request.model, "instance": stream.instance, "seconds": round(finish.timings.load, 3)}
