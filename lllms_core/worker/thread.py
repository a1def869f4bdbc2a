"""A worker in a thread of this process: for engines of pure Python, and for debugging."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.loop import Inbox, WorkerLoop
from lllms_core.worker.wire import Close, Crashed, FromWorker, Load, ToWorker

T = TypeVar("T")


class ThreadWorker(Worker):
    """Runs the same loop as a worker process, without the process; it cannot be killed, only asked to end."""

    def __init__(self, load: Load, events: WorkerEvents) -> None:
        self._loop = asyncio.get_running_loop()
        self._events = events
        self._inbox = Inbox()
        self._reason = "closed"
        Thread(target=self._run, args=[load], name=f"lllms {load.spec.name}", daemon=True).start()

    def send(self, message: ToWorker) -> None:
        """Put the message into the loop's inbox."""
        self._inbox.put(message)

    def kill(self) -> None:
        """Ask the loop to end after its step."""
        self._inbox.put(Close())

    def _run(self, load: Load) -> None:
        WorkerLoop(self._inbox, self._send).run(load)
        self._tell(self._events.ended, self._reason)

    def _send(self, message: FromWorker) -> None:
        if isinstance(message, Crashed):
            self._reason = message.reason
        self._tell(self._events.message, message)

    def _tell(self, listener: Callable[[T], None], value: T) -> None:
        # A daemon thread may outlive the event loop of a program that ends without closing its host.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(listener, value)
