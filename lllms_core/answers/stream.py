"""The answer to one request, as a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from attrs import evolve

from lllms_core.answers.answer import Answer, choices
from lllms_core.errors import LllmsError
from lllms_core.queries import AnyRequest
from lllms_core.types import Delta, Finish

PassOn = Callable[[Sequence[Delta]], bool]
"""Takes deltas on the spot, in a callback of the event loop; False if it does not."""


class Stream:
    """The deltas of one answer. Close it (`async with`) when you want no more of it: that cancels the request.

    Deltas that arrive faster than they are taken wait here together, so a slow reader costs few wake-ups.
    """

    def __init__(self, request: AnyRequest, cancel: Callable[["Stream"], None]) -> None:
        self.request = request
        self.instance: str | None = None
        """The id of the instance that runs the request; None while it waits."""
        self.fingerprint = ""
        """The instance's fingerprint of engine, options and files; "" while the request waits."""
        self.finish: Finish | None = None
        """The end of the answer, once it was taken."""
        self.frame: bytes | None = None
        """The encoded message to a worker process, if it exists already."""
        self.error: LllmsError | None = None
        """The error with which the request failed."""
        self.submitted = 0.0
        """The time of its submission, on the clock of `monotonic`."""
        self.left: Callable[[], None] | None = None
        """Called once, when the answer ends or its reader has left."""
        self.unenforced: tuple[str, ...] = ()
        """The restrictions of the request's schemas that nothing enforces, as in `Delta`."""
        self._cancel = cancel
        self._said: list[Delta] | None = None
        """All deltas so far, if the first one named such restrictions."""
        self._begun = False
        self._deltas: list[Delta] = []
        self._arrived: asyncio.Future[bool] | None = None
        self._pass_on: PassOn | None = None
        self._passing = False
        """Whether a callback is due that passes deltas on."""
        self._passed_at = 0.0
        """When one last did, on the clock of the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._ended = False

    @property
    def id(self) -> str:
        """Names the instance and the request; before there is an instance, the model and the request."""
        return f"{self.instance or self.request.model}-{self.request.id}"

    @property
    def begun(self) -> bool:
        """Whether a delta was put."""
        return self._begun

    @property
    def ended(self) -> bool:
        """Whether the last delta was put or the stream closed: there is nothing left to cancel."""
        return self._ended or self._closed

    def put(self, delta: Delta) -> None:
        """Add a delta; the pool calls this from the event loop."""
        if self._closed or self._ended:
            return
        self._ended = delta.last
        if delta.unenforced:
            self.unenforced = tuple(dict.fromkeys((*self.unenforced, *delta.unenforced)))
            self._said = self._said if self._begun else []
        if self._said is not None:
            self._said.append(delta)
        self._begun = True
        if delta.error is not None and (delta.text or delta.reasoning or delta.calls):
            self._deltas.append(evolve(delta, error=None))  # taken before the error is raised
        self._deltas.append(delta)
        arrived = self._arrived
        if arrived is not None and not arrived.done():
            if self._pass_on is None or self._ended:
                arrived.set_result(True)
            elif not self._passing:  # later, with everything else that is being read from the worker
                self._passing = True
                arrived.get_loop().call_soon(self._pass)
        if self._ended:
            self.error = delta.error
            self._leave()

    def fail(self, error: LllmsError) -> None:
        """End the answer with an error."""
        self.put(Delta(self.request.id, error=error))

    async def wait(self, seconds: float | None = None, pass_on: PassOn | None = None) -> bool:
        """Wait for something to take, without taking it; return whether it came within `seconds` (None: no limit).

        With `pass_on`, what comes meanwhile is passed on to that, which spares the switch to this task, and only what
        it does not take, or the end of the answer, ends the wait; `seconds` count from the last time that it took
        something. Raises what it raises.
        """
        if self._deltas or self.finish is not None or self._closed:
            return True
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[bool] = loop.create_future()
        self._arrived, self._pass_on = arrived, pass_on
        # This runs for every token, and asyncio.timeout would cost several times as much.
        self._timer = None if seconds is None else loop.call_later(seconds, self._give_up, arrived, seconds)
        try:
            return await arrived
        finally:
            self._arrived = self._pass_on = None
            if self._timer is not None:
                self._timer.cancel()

    async def take(self) -> list[Delta]:
        """Return every delta that has arrived, at least one; an empty list means that the answer is complete.

        Raises the error with which the request failed, after the deltas before it were taken.
        """
        await self.wait()
        deltas, self._deltas = self._deltas, []
        error = deltas[-1].error if deltas else None
        if error is not None:
            last = deltas.pop()
            if not deltas:
                self._closed = True
                raise error
            self._deltas = [last]
        if deltas and deltas[-1].finish is not None:
            self.finish = deltas[-1].finish
        return deltas

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield the deltas, one by one."""
        while deltas := await self.take():
            for delta in deltas:
                yield delta

    async def gather(self) -> Answer:
        """Wait for the whole answer. Raises the error with which the request failed."""
        deltas = [delta async for delta in self]
        if self.finish is None:
            raise RuntimeError("the stream was closed before the end of the answer")
        return Answer(self.id, choices(self.request, deltas, self.finish), self.finish, self.unenforced)

    def unenforced_answer(self) -> Answer | None:
        """Return the whole answer once it has been read, if its schemas have restrictions that nothing enforces."""
        if self.finish is None or self._said is None:
            return None
        return Answer(self.id, choices(self.request, self._said, self.finish), self.finish, self.unenforced)

    async def aclose(self) -> None:
        """Stop reading: cancels the request unless it has ended. Safe to call again."""
        if not self._closed:
            self._closed = True
            self._deltas.clear()
            if self._arrived is not None and not self._arrived.done():
                self._arrived.set_result(True)
            if not self._ended:
                self._cancel(self)
                self._leave()

    def _pass(self) -> None:
        """Pass on the deltas that have arrived, or end the wait for them."""
        self._passing = False
        arrived, pass_on, deltas = self._arrived, self._pass_on, self._deltas
        if not deltas or pass_on is None or arrived is None or arrived.done():
            return
        try:
            passed = pass_on(deltas)
        except Exception as error:  # noqa: BLE001  # it belongs to the reader of this stream
            self._deltas = []
            arrived.set_exception(error)
            return
        if passed:
            self._deltas = []
            self._passed_at = arrived.get_loop().time()
        else:
            arrived.set_result(True)

    def _give_up(self, arrived: asyncio.Future[bool], seconds: float) -> None:
        loop = arrived.get_loop()
        left = self._passed_at + seconds - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._give_up, arrived, seconds)
        elif not arrived.done():
            arrived.set_result(False)

    def _leave(self) -> None:
        left, self.left = self.left, None
        if left is not None:
            left()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        await self.aclose()
