"""The memory that the bodies of all requests may hold together."""

MOST = 512 * 2**20
"""Bytes. While it waits or runs, a request takes about as much memory as its body; queues only bound their number."""
KEY = "lllms.held"
"""Names a request's `BodyMemory` in its ASGI scope."""


class BodyMemory:
    """The bytes of one request's body; released when the request is over."""

    total = 0
    """Of all requests."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, count: int) -> bool:
        """Count more bytes; False, and they do not count, if all requests together would hold more than `MOST`."""
        if BodyMemory.total + count > MOST:
            return False
        BodyMemory.total += count
        self._bytes += count
        return True

    def release(self) -> None:
        """Count none of them any more."""
        BodyMemory.total -= self._bytes
        self._bytes = 0
