"""A bounded buffer of a stream's encoded events, which several readers follow, each from its own position."""

import asyncio
from collections.abc import AsyncIterator, Sequence


class EventBuffer:
    """Numbers events from 0 and keeps the last ones; call it from the event loop."""

    def __init__(self, most: int) -> None:
        self.first = 0
        """The number of the oldest event here."""
        self.size = 0
        """Bytes of all events here."""
        self.ended = False
        """Whether no more events will come."""
        self._most = most
        self._written: list[bytes] = []
        self._waiting: set[asyncio.Future[bool]] = set()
        """The readers that have read everything."""

    @property
    def next(self) -> int:
        """The number that the next event will have."""
        return self.first + len(self._written)

    def put(self, events: Sequence[bytes]) -> None:
        """Add events; the oldest ones make room for them."""
        self._written += events
        self.size += sum(map(len, events))
        surplus = 0
        while self.size > self._most and surplus < len(self._written):
            self.size -= len(self._written[surplus])
            surplus += 1
        if surplus:
            del self._written[:surplus]
            self.first += surplus
        self._wake()

    def end(self) -> None:
        """Let readers end once they have read everything."""
        self.ended = True
        self._wake()

    async def follow(self, number: int, interval: float, ping: bytes, lost: bytes = b"") -> AsyncIterator[bytes]:
        """Yield the events from this number on as they come, and `ping` after each `interval` seconds of silence.

        A reader that is too slow for the buffer gets `lost`, and no more.
        """
        while number >= self.first:
            new = self._written[number - self.first :]
            if new:
                number += len(new)
                yield b"".join(new)
            elif self.ended:
                return
            elif not await self._wait(interval):
                yield ping
        if lost:
            yield lost

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for one in waiting:
            _set(one, more=True)

    async def _wait(self, seconds: float) -> bool:
        """Wait until there is more; return whether it came in time."""
        loop = asyncio.get_running_loop()
        more: asyncio.Future[bool] = loop.create_future()
        self._waiting.add(more)
        # This runs for every token, and asyncio.timeout would cost several times as much.
        timer = loop.call_later(seconds, _set, more)
        try:
            return await more
        finally:
            timer.cancel()
            self._waiting.discard(more)


def _set(future: asyncio.Future[bool], *, more: bool = False) -> None:
    if not future.done():
        future.set_result(more)
