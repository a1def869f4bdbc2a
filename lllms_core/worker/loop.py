"""What a worker does, in a process or a thread: load, then take requests and step, until it is told to close."""

import queue
import traceback
from collections.abc import Callable
from threading import Event

from lllms_core.engines import Model
from lllms_core.errors import EngineFailed, LllmsError, RequestError
from lllms_core.types import Delta
from lllms_core.worker.wire import (
    Cancel,
    Close,
    Crashed,
    Deltas,
    FromWorker,
    Load,
    Loaded,
    LoadFailed,
    Open,
    Progress,
    ToWorker,
    UseThreads,
)

SMALLEST_PROGRESS = 0.01
"""Engines may report every tensor; a message for each percent is enough."""


class Inbox:
    """Messages for the loop, put by another thread. A cancel or close interrupts the step that is under way."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self.interrupt = Event()
        """The model's own, once there is a model."""

    def put(self, message: ToWorker) -> None:
        """Add a message; from any thread."""
        self._messages.put(message)
        if isinstance(message, Cancel | Close):
            self.interrupt.set()

    def take(self, *, wait: bool) -> list[ToWorker]:
        """Return all messages that are there; with `wait`, at least one."""
        # Cleared first: a cancel that comes after this line may interrupt one step in vain, but none is overlooked.
        self.interrupt.clear()
        messages = [self._messages.get()] if wait else []
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages


class WorkerLoop:
    """Runs one model. Every call of the engine's code comes from the thread that calls `run`."""

    def __init__(self, inbox: Inbox, send: Callable[[FromWorker], None]) -> None:
        self._inbox = inbox
        self._send = send

    def run(self, load: Load) -> None:
        """Load the model and serve until `Close`, or until the engine breaks: then the last message says why."""
        model = self._load(load)
        if model is None:
            return
        try:
            self._serve(model)
        except Exception as error:  # noqa: BLE001  # whatever an engine raises is reported, and ends its worker
            self._send(Crashed(f"{type(error).__name__}: {error}", traceback.format_exc()))
        finally:
            model.close()

    def _load(self, load: Load) -> Model | None:
        told = 0.0

        def progress(fraction: float) -> None:
            nonlocal told
            if fraction >= told + SMALLEST_PROGRESS:
                told = fraction
                self._send(Progress(fraction))

        try:
            model = load.engine.load(load.spec, progress)
            model.use_threads(load.spec.threads)
            info = model.info
        except LllmsError as error:
            self._send(LoadFailed(error.message, ""))
            return None
        except Exception as error:  # noqa: BLE001  # whatever an engine raises is reported
            self._send(LoadFailed(f"{type(error).__name__}: {error}", traceback.format_exc()))
            return None
        self._inbox.interrupt = model.interrupt
        self._send(Loaded(info))
        return model

    def _serve(self, model: Model) -> None:
        while True:
            deltas: list[Delta] = []
            for message in self._inbox.take(wait=model.idle):
                match message:
                    case Open(request):
                        try:
                            model.open(request)
                        except (RequestError, EngineFailed) as error:
                            deltas.append(Delta(request.id, error=error))
                    case Cancel(request_id):
                        deltas.extend(model.cancel(request_id))
                    case UseThreads(count):
                        model.use_threads(count)
                    case Close():
                        return
                    case Load():
                        raise AssertionError("a worker loads one model")
            if not model.idle:
                deltas.extend(model.step())
            if deltas:
                self._send(Deltas(tuple(deltas)))
