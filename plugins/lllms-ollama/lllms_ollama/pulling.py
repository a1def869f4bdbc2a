"""`POST /api/pull`: fetch a model, with its progress as lines of JSON."""

import asyncio
from collections.abc import AsyncIterator

from attrs import frozen
from quart import Response

from lllms_core.apis import ModelCard, Server
from lllms_core.apis.bodies import read_request
from lllms_core.apis.explanations import explain
from lllms_core.apis.replies import reply
from lllms_core.apis.writing import line
from lllms_core.errors import ModelUnknown
from lllms_core.status import DownloadStatus, moved
from lllms_ollama.lines import fault_value
from lllms_ollama.members import take_flag, take_name
from lllms_ollama.names import find_named, hub_source, is_repository, pulled_name

INTERVAL = 0.25
"""Seconds between two looks at the progress."""
SUCCESS = {"status": "success"}


@frozen
class Wanted:
    """The model to fetch."""

    name: str
    source: str | None
    """None: a model that can be served already."""
    stream: bool
    unused: tuple[str, ...]
    card: ModelCard | None = None


async def pull(server: Server) -> Response:
    """Fetch a model; it is served by the name that the client used. The client's leaving cancels the download."""
    wanted = await read_request(server, lambda values: read_pull(server, values), any_type=True)
    fetching = asyncio.ensure_future(server.pull(wanted.name, wanted.source))
    caller = asyncio.current_task()
    assert caller is not None  # noqa: S101  # views run in tasks
    caller.add_done_callback(lambda _: fetching.cancel())
    if not wanted.stream:
        await fetching
        return reply(SUCCESS, wanted.unused)
    response = Response(_progress(server, wanted, fetching), headers={"Content-Type": "application/x-ndjson"})
    response.timeout = None  # large models take hours
    return response


def read_pull(server: Server, values: dict[str, object]) -> Wanted:
    """Read the members of `POST /api/pull`. Raises `LllmsError`."""
    name, stream = take_name(values), take_flag(values, "stream", default=True)
    unused = ("insecure",) if take_flag(values, "insecure", default=False) else ()
    for given in ("username", "password"):
        values.pop(given, None)  # of Ollama's first versions; the hub's token is the server's
    card = find_named(server, name)
    if card is None and is_repository(name):
        return Wanted(pulled_name(name), hub_source(name), stream, unused)
    if card is None:
        try:
            card = server.model(name)  # by a pattern
        except ModelUnknown:
            source = server.known_source(name)
            return Wanted(pulled_name(name), source or hub_source(name), stream, unused)
    return Wanted(card.name, None, stream, unused, card)


async def _progress(
    server: Server, wanted: Wanted, fetching: "asyncio.Future[ModelCard]",
) -> AsyncIterator[bytes]:
    yield line({"status": "pulling manifest"})
    last: dict[str, object] = {}
    while not fetching.done():
        status = _status(server, wanted)
        if status is not None:
            shown = progress_value(status)
            if shown != last:
                yield line(shown)
                last = shown
        await asyncio.wait([fetching], timeout=INTERVAL)
    error = None if fetching.cancelled() else fetching.exception()
    if isinstance(error, Exception):
        yield line(fault_value(explain(error)))
    else:
        yield line(SUCCESS)


def _status(server: Server, wanted: Wanted) -> DownloadStatus | None:
    if wanted.source is not None:
        return server.download_of(wanted.source)
    known = None if wanted.card is None else wanted.card.download_id
    return next((one for one in server.downloads() if one.id == known and one.state != "failed"), None)


def progress_value(status: DownloadStatus) -> dict[str, object]:
    """Return a line of progress: bytes of all files; the hash of the one that is fetched, or else the download's id."""
    if status.total is None or status.state in {"starting", "waiting", "done", "failed"}:
        return {"status": "waiting for another program" if status.state == "waiting" else "pulling manifest"}
    digest = f"sha256:{status.sha256}" if status.sha256 else status.id
    pulling = f"pulling {digest.removeprefix('sha256:')[:12]}"
    word = "verifying sha256 digest" if status.state == "verifying" else pulling
    return {"status": word, "digest": digest, "total": status.total, "completed": moved(status)}
