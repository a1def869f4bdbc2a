"""Receives request bodies within limits of size and time, and notices clients that leave."""

import asyncio
from collections.abc import Generator
from typing import Any, cast

from quart import Request
from quart.wrappers.request import Body
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from lllms_core.errors import Overloaded
from lllms_core.web.body_memory import KEY, MOST, BodyMemory

DISCARD = 100 * 2**20
"""The most bytes of a body that is too large that are read and thrown away before it is refused."""
DISCARD_SECONDS = 30.0
"""The longest time spent on that."""
RETRY_SECONDS = 5

SILENCE_SECONDS = 30.0
"""A body is given up after this long without a single byte."""
START_SECONDS = 30.0
SLOWEST = 8 * 2**10
"""Bytes per second that a body must average after its first `START_SECONDS`; even a bad mobile link does."""


class PatientBody(Body):
    """A body that is refused for its size only after the client has sent all of it, or very much.

    A client that is refused while it sends usually sees a broken connection, not the reason. A client that stops
    sending, or sends very slowly, is refused with 408.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._received = 0
        self._discarded = 0
        self._begun = self._heard = asyncio.get_running_loop().time()
        self._refused = self._begun
        self.held = BodyMemory()
        """Replaced by that of the request."""

    def append(self, data: bytes) -> None:
        """Take the bytes that have arrived."""
        self._heard = asyncio.get_running_loop().time()
        self._received += len(data)
        if self._must_raise is None:
            self._data.extend(data)
            self._has_data.set()
            if self._max_content_length is not None and len(self._data) > self._max_content_length:
                self._refuse(RequestEntityTooLarge())
            elif not self.held.add(len(data)):
                self._refuse(Overloaded(
                    f"the requests at work have bodies of {MOST} bytes together, as many as the server holds; "
                    "try again later", RETRY_SECONDS,
                ))
        else:
            self._discarded += len(data)
            if self._discarded > DISCARD:
                self.set_complete()

    def _refuse(self, error: Exception) -> None:
        self._must_raise = error
        self._refused = self._heard
        self._data.clear()
        self.held.release()

    def __await__(self) -> Generator[object, None, bytes]:
        # Not `wait_for`, which in Python 3.11 swallows a cancellation that arrives together with the last byte: then
        # the request of a client that has left would run to its end.
        while not self._complete.is_set() and (left := self._patience()) > 0:
            yield from self._wait(left).__await__()
        if not self._complete.is_set() and self._must_raise is None:
            self._must_raise = RequestTimeout("the body did not arrive in time; send it faster, or a smaller one")
            self._data.clear()
        if self._must_raise is not None:
            raise self._must_raise
        return bytes(self._data)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._complete.wait()
        except TimeoutError:
            pass  # more may have arrived meanwhile

    def _patience(self) -> float:
        """The seconds that the rest of the body may still take."""
        now = asyncio.get_running_loop().time()
        if self._must_raise is not None:
            return self._refused + DISCARD_SECONDS - now
        on_average = self._begun + START_SECONDS + self._received / SLOWEST
        return min(on_average, self._heard + SILENCE_SECONDS) - now


class PatientRequest(Request):
    """A request with a `PatientBody`."""

    body_class = PatientBody

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        if isinstance(self.body, PatientBody):
            self.body.held = cast("dict[str, Any]", self.scope).get(KEY, self.body.held)
