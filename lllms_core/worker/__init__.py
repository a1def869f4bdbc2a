"""The child that holds an instance, the wire between, and the parent's handle on it."""

from lllms_core.worker.handle import Worker, WorkerEvents, start_worker

__all__ = ["Worker", "WorkerEvents", "start_worker"]
