"""Receives request bodies within limits of size and time, and notices clients that leave."""

import asyncio
from collections.abc import Generator
from typing import Any, cast

from quart import Request
from quart.wrappers.request import Body
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from lllms_core.errors import InvalidRequest, Overloaded
from lllms_core.web.body_memory import KEY, MOST, BodyMemory
from lllms_core.web.codings import Inflater, UnknownCoding, inflater

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
SLICE = 2**18
"""Bytes decompressed in one go, in less than a millisecond; other requests get their turns in between."""


class PatientBody(Body):
    """A body that is refused for its size only after the client has sent all of it, or a great deal.

    A client that is refused while it sends usually sees a broken connection, not the reason. A client that stops
    sending, or sends very slowly, is refused with 408. A compressed body is decompressed as it arrives, no further than
    the limit on its size, which counts decompressed bytes.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._received = 0
        self._discarded = 0
        self._begun = self._heard = asyncio.get_running_loop().time()
        self._refused = self._begun
        self.held = BodyMemory()
        """Replaced by that of the request."""
        self.inflater: Inflater | None = None
        """Decodes the body; None if it is not compressed."""
        self._counted = 0
        """Bytes that `held` counts."""

    def append(self, data: bytes) -> None:
        """Take the bytes that have arrived."""
        self._heard = asyncio.get_running_loop().time()
        self._received += len(data)
        if self._must_raise is None:
            if self.inflater is None:
                self._take(data)
            else:
                self.inflater.feed(data)
                self._inflate(self.inflater)
        else:
            self._discarded += len(data)
            if self._discarded > DISCARD:
                self.set_complete()

    def refuse(self, error: Exception) -> None:
        """Raise `error` instead of returning the body; the rest of it is discarded."""
        self._must_raise = error
        self._refused = self._heard
        self._data.clear()
        self.inflater = None
        self.held.release()

    def _take(self, data: bytes) -> None:
        """Keep bytes of the body, as far as the limits allow."""
        self._data.extend(data)
        self._has_data.set()
        waiting = 0 if self.inflater is None else self.inflater.size
        size = len(self._data) + waiting
        if self._max_content_length is not None and max(size, self._received) > self._max_content_length:
            self.refuse(RequestEntityTooLarge())
        elif not self.held.add(size - self._counted):
            self.refuse(Overloaded(
                f"the requests at work have bodies of {MOST} bytes together, as many as the server holds; "
                "try again later", RETRY_SECONDS,
            ))
        self._counted = size

    def _inflate(self, inflater: Inflater) -> None:
        """Decompress the next slice."""
        try:
            data = inflater.read(SLICE)
        except ValueError as error:
            self.refuse(_not_decoded(inflater, error))
        else:
            self._take(data)

    def __await__(self) -> Generator[object, None, bytes]:
        # Not `wait_for`, which in Python 3.11 swallows a cancellation that arrives together with the last byte: then
        # the request of a client that has left would run to its end.
        while not self._complete.is_set() and (left := self._patience()) > 0:
            yield from self._wait(left).__await__()
        if not self._complete.is_set() and self._must_raise is None:
            self.refuse(RequestTimeout("the body did not arrive in time; send it faster, or a smaller one"))
        while self.inflater is not None and self.inflater.pending:
            self._inflate(self.inflater)
            yield from asyncio.sleep(0).__await__()
        if self.inflater is not None and self._received:
            try:
                self.inflater.end()
            except ValueError as error:
                self.refuse(_not_decoded(self.inflater, error))
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


def _not_decoded(inflater: Inflater, error: ValueError) -> InvalidRequest:
    return InvalidRequest(f"the body is not valid {inflater.coding}: {error}", None, "invalid_encoding")


class PatientRequest(Request):
    """A request with a `PatientBody`. Its headers have no `Content-Encoding`, since its body is decoded."""

    body_class = PatientBody

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        if isinstance(self.body, PatientBody):
            self.body.held = cast("dict[str, Any]", self.scope).get(KEY, self.body.held)
            try:
                self.body.inflater = inflater(self.headers.getlist("Content-Encoding"))
            except UnknownCoding as error:
                self.body.refuse(error)
            self.headers.pop("Content-Encoding", None)
