"""Responses that are written whether somebody listens or not: their events wait in bounded buffers to be read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from attrs import frozen

from lllms_core.answers import Stream
from lllms_core.apis import explain
from lllms_core.apis.event_buffer import EventBuffer
from lllms_core.apis.writing import comment
from lllms_core.builtin.openai.responses.progress import ResponseProgress
from lllms_core.builtin.openai.responses.response_events import ResponseEvents
from lllms_core.errors import InvalidRequest
from lllms_core.types import Delta

BUFFER = 2 * 2**20
"""Bytes of events of one response that can be read again."""
MOST_ENDED = 16
"""Responses that have ended and can still be streamed again."""
SECONDS_ENDED = 600.0
"""The time for which they can be."""


@frozen
class _Source:
    """Where a response comes from: it refers to the whole request."""

    stream: Stream
    waits: Callable[[], bool]


class BackgroundResponse:
    """One response that is being written, or was, with its events. Once it has ended, it lets go of its request."""

    def __init__(
        self, stream: Stream, progress: ResponseProgress, waits: Callable[[], bool], buffer: int = BUFFER,
    ) -> None:
        self.progress = progress
        self._source: _Source | None = _Source(stream, waits)
        self._events = ResponseEvents(progress)
        self._buffer = EventBuffer(buffer)
        self._task: asyncio.Task[None] | None = None

    @property
    def value(self) -> Mapping[str, object]:
        """The response as far as it has come."""
        value, source = self.progress.value, self._source
        began = value["status"] == "queued" and source is not None and not source.waits()
        return {**value, "status": "in_progress"} if began else value

    def start(self, begun: Sequence[Delta]) -> None:
        """Begin to read the answer; `begun` was already taken."""
        self._buffer.put(self._events.queued())
        assert self._source is not None  # noqa: S101  # it has not ended
        self._task = asyncio.create_task(self._read(self._source.stream, begun))

    def when_ended(self, act: Callable[[], object]) -> None:
        """Call `act` once the started response has ended."""
        assert self._task is not None  # noqa: S101  # it was started
        self._task.add_done_callback(lambda _: act())

    async def cancel(self) -> None:
        """Stop the answer, unless it has ended."""
        if self._source is not None and not self.progress.ended:
            self.progress.cancel()
            await self._source.stream.aclose()
            self._buffer.end()

    def check(self, after: int) -> None:
        """Raise `InvalidRequest` if events after this number are no longer here."""
        first = self._buffer.first
        if after + 1 < first:
            raise InvalidRequest(
                f"the events up to {first - 1} are no longer kept; send 'starting_after' of at least {first - 1}, or "
                "retrieve the response without 'stream'", "starting_after", "invalid_value",
            )

    def follow(self, after: int, interval: float) -> AsyncIterator[bytes]:
        """Yield the events after this number as they come; a comment after each `interval` seconds of silence.

        A reader that is too slow for the buffer gets no more.
        """
        return self._buffer.follow(after + 1, interval, comment("waiting"))

    async def _read(self, stream: Stream, begun: Sequence[Delta]) -> None:
        try:
            deltas = begun or await stream.take()
            while deltas and not self.progress.ended:
                for delta in deltas:
                    self._buffer.put(self._events.added(delta))
                if stream.finish is not None:
                    self._buffer.put(self._events.ended(stream.finish))
                    return
                deltas = await stream.take()
        except Exception as error:  # noqa: BLE001  # nobody waits for this task: the response tells what happened
            if not self.progress.ended:
                self._buffer.put(self._events.failed(explain(error)))
        finally:
            self._buffer.end()
            self._source = None
            await stream.aclose()


class BackgroundResponses:
    """All of them, by id: those that are being written, and some that have ended."""

    def __init__(self, seconds_ended: float = SECONDS_ENDED) -> None:
        self._seconds_ended = seconds_ended
        self._responses: dict[str, BackgroundResponse] = {}

    def add(self, response: BackgroundResponse) -> None:
        """Add one that was started; the first ones that have ended make room."""
        ended = [name for name, one in self._responses.items() if one.progress.ended]
        for name in ended[: max(0, len(ended) - MOST_ENDED + 1)]:
            del self._responses[name]
        response_id, loop = response.progress.head.id, asyncio.get_running_loop()
        self._responses[response_id] = response
        response.when_ended(lambda: loop.call_later(self._seconds_ended, self._responses.pop, response_id, None))

    def get(self, response_id: str) -> BackgroundResponse | None:
        """Return one, if it is here."""
        return self._responses.get(response_id)

    async def drop(self, response_id: str) -> bool:
        """Cancel one and forget it; return whether it was here."""
        found = self._responses.pop(response_id, None)
        if found is not None:
            await found.cancel()
        return found is not None
