"""Starts a worker with the wanted isolation."""

from collections.abc import Awaitable, Callable

from lllms_core.types import Isolation
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.process import ProcessWorker
from lllms_core.worker.thread import ThreadWorker
from lllms_core.worker.wire import Load

StartWorker = Callable[[Load, Isolation, WorkerEvents], Awaitable[Worker]]


async def start_worker(load: Load, isolation: Isolation, events: WorkerEvents) -> Worker:
    """Start a worker that loads a model. Raises `ModelLoadFailed` if the worker itself cannot be started."""
    return ThreadWorker(load, events) if isolation == "thread" else await ProcessWorker.start(load, events)
