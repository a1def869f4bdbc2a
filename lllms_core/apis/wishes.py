"""Parameters that a client wishes for: a model that cannot do what they ask for answers without them.

Only a worker knows what a template can do, so a wish turns out to be in vain after the request was queued.
"""

import asyncio
from collections.abc import Callable

from lllms_core.answers import Stream
from lllms_core.apis.contract import Server
from lllms_core.errors import LllmsError, RequestError
from lllms_core.queries import Prepared
from lllms_core.types import Request


def submit_with_wishes(
    server: Server, asked: Request | Prepared, without: Callable[[RequestError], Request | Prepared | None],
) -> Stream:
    """Return the answer to a request; if it is refused, the answer to `without(refusal)`, unless that is None.

    The stream's `request` is then the second one, whose `unused` should name the wish. Closing the stream cancels
    either. Call it in an event loop.
    """
    current = server.submit(asked)
    told = Stream(current.request, lambda _: stop())

    async def pass_on() -> None:
        nonlocal current
        try:
            while True:
                again = await _pass_on(current, told, without)
                if again is None:
                    return
                current = server.submit(again)
                told.request = current.request
        except LllmsError as error:
            told.fail(error)

    tasks = [asyncio.create_task(pass_on())]

    def stop() -> None:
        tasks[0].cancel()
        tasks.append(asyncio.create_task(current.aclose()))

    return told


async def _pass_on(
    stream: Stream, told: Stream, without: Callable[[RequestError], Request | Prepared | None],
) -> Request | Prepared | None:
    """Pass a stream's deltas on to its end; return the request to submit instead if a wish was refused."""
    begun = False
    try:
        while deltas := await stream.take():
            begun = True
            told.instance, told.fingerprint = stream.instance, stream.fingerprint
            for delta in deltas:
                told.put(delta)
    except RequestError as error:
        again = None if begun else without(error)
        if again is None:
            raise
        return again
    return None
