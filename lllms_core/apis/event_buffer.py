"""A bounded buffer of a stream's encoded events, which several readers follow, each from where it likes."""

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
        self._more = asyncio.Event()

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
            more = self._more
            new = self._written[number - self.first :]
            if new:
                number += len(new)
                yield b"".join(new)
            elif self.ended:
                return
            elif not await _wait(more, interval):
                yield ping
        if lost:
            yield lost

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
