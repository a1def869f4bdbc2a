"""A worker in a thread of this process: for engines of pure Python, and for debugging."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.loop import Inbox, WorkerLoop
from lllms_core.worker.wire import Alive, Close, FromWorker, Load, Probe, ToWorker

T = TypeVar("T")


class ThreadWorker(Worker):
    """Runs the same loop as a worker process, without the process; it cannot be killed, only asked to end."""

    def __init__(self, load: Load, events: WorkerEvents) -> None:
        self._loop = asyncio.get_running_loop()
        self._events = events
        self._inbox = Inbox()
        self._ended = False
        Thread(target=self._run, args=[load], name=f"lllms {load.spec.name}", daemon=True).start()

    def send(self, message: ToWorker, frame: bytes | None = None) -> None:  # noqa: ARG002  # nothing is pickled here
        """Put the message into the loop's inbox; a probe is answered here."""
        if not isinstance(message, Probe):
            self._inbox.put(message)
        elif self._inbox.moved():
            self._loop.call_soon(self._message, Alive())

    def kill(self) -> None:
        """Ask the loop to end without waiting for it: it ends after its load or step, and reports nothing more."""
        self._inbox.put(Close())
        self._loop.call_soon(self._end, "the worker was asked to end")

    def _run(self, load: Load) -> None:
        try:
            WorkerLoop(self._inbox, lambda message: self._tell(self._message, message)).run(load)
        finally:
            self._tell(self._end, "the worker ended")

    def _tell(self, listener: Callable[[T], None], value: T) -> None:
        # A daemon thread may outlive the event loop of a program that ends without closing its host.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(listener, value)

    def _message(self, message: FromWorker) -> None:
        if not self._ended:
            self._events.message(message)

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._events.ended(reason)
