"""A streamed answer: from the deltas of a `Stream` to the bytes of server-sent events."""

from collections.abc import AsyncIterator, Callable

from lllms_core.answers import Stream
from lllms_core.builtin.openai.answers import Events, event
from lllms_core.builtin.openai.errors import explain
from lllms_core.types import Delta

Start = Callable[[], Events]
"""Called at the first delta: before it, nobody knows which instance answers."""


Waits = Callable[[], str]
"""Says what the answer waits for."""


def comment(text: str) -> bytes:
    """Return what readers of event streams skip, and by which they know that the connection lives."""
    return f": {' '.join(text.split())}\n\n".encode()


def nothing_known() -> str:
    """Say no more than that the answer is waited for."""
    return "waiting"


async def write_events(
    stream: Stream, first: list[Delta] | None, start: Start, interval: float, waits: Waits = nothing_known,
) -> AsyncIterator[bytes]:
    """Yield the answer's events, those of all deltas that have arrived in one piece, and comments in between.

    `first` are deltas that were taken already. An error becomes the last event, with no end mark after it.
    """
    try:
        deltas = first or []
        if not deltas:
            yield comment(waits())
            while not await stream.wait(interval):
                yield comment(waits())
            deltas = await stream.take()
        events = start()
        while deltas:
            data = b"".join([events.delta(delta) for delta in deltas])
            if stream.finish is not None:
                yield data + events.end(stream.finish)
                return
            if data:
                yield data
            while not await stream.wait(interval):
                yield comment(waits())
            deltas = await stream.take()
    except Exception as error:  # noqa: BLE001  # the headers are out: whatever happens is told in the stream
        yield event(explain(error).body)
