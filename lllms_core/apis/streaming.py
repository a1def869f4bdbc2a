"""Streamed answers for every dialect: from the deltas of requests to the bytes of a response."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from quart import Response

from lllms_core.answers import Answer, Stream, merge
from lllms_core.apis.contract import Encoder, Server
from lllms_core.apis.direct import DirectBody, direct_body
from lllms_core.apis.explanations import explain
from lllms_core.apis.ignored import ignored_header
from lllms_core.apis.unkept import log_unkept, unkept_header
from lllms_core.types import Delta, Request

PATIENCE = 2.0
"""Seconds within which a refusal still becomes an error with a status of its own."""
INTERVAL = 15.0
"""Seconds of silence after which a client gets a ping."""
LOOK = 1.0
"""Seconds between two checks of why an answer has not begun."""

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def stream_answer(
    server: Server, streams: Sequence[Stream], encoder: Encoder, *, patience: float = PATIENCE,
    interval: float = INTERVAL,
) -> Response:
    """Return one response that streams the answers to requests that were just submitted.

    An answer that is refused within `patience` seconds is an error with its own status: this raises `LllmsError`.
    After that the headers are sent, and errors are sent with `Encoder.fault`. Until the answer begins, `Encoder.ping`
    reports the request's state (its place in the queue, the load, the prompt) within about a second of each change.
    After `interval` seconds of silence there is another ping, so that no proxy or client gives the connection up.
    Headers name the `unused` parts of the request, and the restrictions of its schemas that are not enforced (see
    `lllms_core.apis.unkept`), unless they had to be sent before the answer began; violations are then logged. The
    requests are cancelled when the client leaves, in any phase. No time limit cuts the response.
    """
    close_with_client(streams)
    request = streams[0].request
    stream = streams[0] if len(streams) == 1 else merge(streams, request.n if isinstance(request, Request) else 1)
    first = await stream.take() if await stream.wait(patience) else None
    request = streams[0].request  # another one, if a wish was in vain
    unused = request.unused if isinstance(request, Request) else ()

    def waits() -> str:
        return next((str(known) for one in streams if (known := server.waiting(one.request)) is not None), "waiting")

    headers = {
        "Content-Type": encoder.content_type, **HEADERS, **ignored_header(unused), **unkept_header(stream.unenforced),
    }
    answer = _write(stream, first, encoder, interval, waits, parts=streams, direct=direct_body())
    response = Response(answer, headers=headers)
    response.timeout = None  # neither a slow model nor a slow reader is a reason to cut an answer
    return response


async def gather_answers(streams: Sequence[Stream]) -> list[Answer]:
    """Return the whole answers to requests that were just submitted; they are cancelled when the client leaves.

    Raises the `LllmsError` with which the first of them failed.
    """
    close_with_client(streams)
    return list(await asyncio.gather(*(stream.gather() for stream in streams)))


async def _write(
    stream: Stream, first: list[Delta] | None, encoder: Encoder, interval: float, waits: Callable[[], str],
    *, parts: Sequence[Stream], direct: DirectBody | None,
) -> AsyncIterator[bytes]:
    """Yield the answer; deltas that arrive together make one piece. `first` are the deltas already taken.

    `stream` has the answers of all `parts`. After the first piece, those that the client is ready for are written to
    `direct`, which costs less than half as much.
    """

    def pass_on(deltas: Sequence[Delta]) -> bool:
        if direct is None or not direct.free:
            return False
        data = b"".join([encoder.delta(delta) for delta in deltas])
        if data:
            direct.write(data)
        return True

    try:
        deltas = first or []
        if not deltas:
            async for ping in _pings(stream, encoder, interval, waits):
                yield ping
            deltas = await stream.take()
        while deltas:
            data = b"".join([encoder.delta(delta) for delta in deltas])
            if stream.finish is not None:
                if stream.unenforced:
                    await log_unkept(parts)
                yield data + encoder.end(stream.finish)
                return
            if data:
                yield data
            while not await stream.wait(interval, None if direct is None else pass_on):
                yield encoder.ping(waits())
            deltas = await stream.take()
    except Exception as error:  # noqa: BLE001  # the headers are out: whatever happens is told in the stream
        yield encoder.fault(explain(error))


async def _pings(
    stream: Stream, encoder: Encoder, interval: float, waits: Callable[[], str],
) -> AsyncIterator[bytes]:
    """Yield a ping now, at each change of the request's state, and after each interval, until the answer begins."""
    clock = asyncio.get_running_loop().time
    told = None
    at = clock()
    while True:
        text, now = waits(), clock()
        if text != told or now - at >= interval:
            told, at = text, now
            yield encoder.ping(text)
        if await stream.wait(min(LOOK, interval)):
            return


_CLOSING: set[asyncio.Task[None]] = set()  # the event loop holds tasks only weakly


def close_with_client(streams: Sequence[Stream]) -> None:
    """Close the streams when the task that serves this HTTP request ends, however it ends.

    The server cancels that task when the client leaves. A `finally` in the response would miss a phase: an async
    generator that has not started yet, as while the headers are sent, runs none.
    """

    def close(_: object) -> None:
        for stream in reversed(streams):  # those that wait for their turn first: else they would get it
            closing = asyncio.ensure_future(stream.aclose())
            _CLOSING.add(closing)
            closing.add_done_callback(_CLOSING.discard)

    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # views run in tasks
    task.add_done_callback(close)
