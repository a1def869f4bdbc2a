"""The parent's handle on a worker: the same for a process and for a thread."""

from abc import ABC, abstractmethod
from typing import Protocol

from lllms_core.worker.wire import FromWorker, ToWorker


class WorkerEvents(Protocol):
    """Told what a worker does, in the event loop."""

    def message(self, message: FromWorker) -> None:
        """The worker said this."""

    def ended(self, reason: str) -> None:
        """The worker is gone, and has said all it will ever say; `reason` is for people."""


class Worker(ABC):
    """A started worker."""

    pid: int | None = None
    """Its process; None for a thread."""

    @abstractmethod
    def send(self, message: ToWorker, frame: bytes | None = None) -> None:
        """Tell the worker something; nothing happens if it is gone.

        A `frame` is the message as `encode` has made it already. Raises whatever encoding raises; then nothing is sent.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the worker at once; a thread is only abandoned, and ends after its load or step."""
