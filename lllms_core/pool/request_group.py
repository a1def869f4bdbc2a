"""Several requests of one client that take turns: only a few are queued or running at a time."""

from collections import deque
from collections.abc import Callable, Iterable
from copy import copy

from lllms_core.answers import Stream
from lllms_core.queries import AnyRequest, Prepared

Enter = Callable[[Stream, AnyRequest | Prepared, bool], None]
"""Submits a request; a refused stream has ended when this returns. True: a full queue does not refuse it."""


class RequestGroup:
    """Submits each request when those before it leave room.

    The first is accepted or refused like any request; if it is refused, all are. Once it is accepted, one of the others
    may always wait, however full the queue is: the client has been admitted.
    """

    def __init__(
        self, requests: Iterable[tuple[Stream, AnyRequest | Prepared]], enter: Enter, room: Callable[[], bool],
        width: int,
    ) -> None:
        self._pending = deque(requests)
        self._enter = enter
        self._room = room
        self._width = width
        self._open = 0
        self._taken = False
        self._feeding = False

    def feed(self) -> None:
        """Submit as many requests as the pool has room for now."""
        if self._feeding:
            return  # a refused request ends while it is being submitted
        self._feeding = True
        try:
            while self._pending and self._open < self._width and (not self._open or self._room()):
                self._submit(*self._pending.popleft())
        finally:
            self._feeding = False

    def _submit(self, stream: Stream, request: AnyRequest | Prepared) -> None:
        if stream.ended:
            return  # closed while it waited its turn
        self._open += 1
        stream.left = self._leave
        self._enter(stream, request, self._taken)
        if not self._taken and stream.error is not None:
            while self._pending:
                self._pending.popleft()[0].fail(copy(stream.error))
        self._taken = True

    def _leave(self) -> None:
        self._open -= 1
        self.feed()
