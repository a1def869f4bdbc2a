"""The parent's handle on a worker: the same for a process and for a thread."""

from abc import ABC, abstractmethod
from typing import Protocol

from lllms_core.worker.wire import FromWorker, ToWorker


class WorkerEvents(Protocol):
    """Callbacks for the events of a worker, in the event loop."""

    def message(self, message: FromWorker) -> None:
        """The worker has sent this message."""

    def ended(self, reason: str) -> None:
        """The worker is gone, and no more messages follow; `reason` is for people."""


class Worker(ABC):
    """A started worker."""

    pid: int | None = None
    """The id of its process; None for a thread."""

    @property
    def starved(self) -> bool:
        """Whether it has ended for lack of memory, as far as is known; settled when `WorkerEvents.ended` is called."""
        return False

    @property
    def lost(self) -> str:
        """Why it is gone, if its place is lost, or the way there; "" if not. Settled as `starved` is."""
        return ""

    @abstractmethod
    def send(self, message: ToWorker, frame: bytes | None = None) -> None:
        """Send the worker a message; nothing happens if it is gone.

        A `frame` is the message already encoded by `encode`. Raises whatever encoding raises; then nothing is sent.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the worker at once; a thread is only abandoned and ends after its load or step."""
