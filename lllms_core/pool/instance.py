"""One loaded copy of a model as the pool sees it: its worker, and the requests that it runs."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol

from attrs import define, evolve

from lllms_core.errors import LllmsError
from lllms_core.pool.stream import Stream
from lllms_core.types import Delta, Finish, ModelInfo
from lllms_core.worker import Worker
from lllms_core.worker.wire import (
    Cancel,
    Close,
    Crashed,
    Deltas,
    FromWorker,
    Loaded,
    LoadFailed,
    Open,
    Progress,
    ToWorker,
    UseThreads,
)

LOG = logging.getLogger("lllms.pool")

CLOSE_SECONDS = 5.0
"""A worker that was told to close has so long to free its model before it is killed."""


class Owner(Protocol):
    """Whom an instance tells what happens to it."""

    def loaded(self, instance: "Instance", info: ModelInfo) -> None:
        """It is ready for requests."""

    def finished(self, request_id: str) -> None:
        """A request has left its slot."""

    def gone(self, instance: "Instance", reason: str) -> None:
        """Its worker has ended; requests that it still runs are lost."""


@define(eq=False)
class _Run:
    stream: Stream
    timer: asyncio.TimerHandle | None = None
    timed_out: bool = False


class Instance:
    """Hands requests to a worker, and what comes back to their streams."""

    def __init__(self, instance_id: str, model: str, owner: Owner) -> None:
        self.id = instance_id
        self.model = model
        self.progress = 0.0
        self.info: ModelInfo | None = None
        self._owner = owner
        self._worker: Worker | None = None
        self._runs: dict[str, _Run] = {}
        self._closing = False
        self._failure: str | None = None
        self._starting: asyncio.Task[None] | None = None
        self._killer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process; None for a thread, or while there is none."""
        return self._worker.pid if self._worker else None

    # -- what the pool wants ------------------------------------------------------------------------------------------

    def start(self, worker: Awaitable[Worker]) -> None:
        """Begin to start the worker; its end is told to the owner, also if it never begins."""

        async def start() -> None:
            try:
                self._worker = await worker
            except LllmsError as error:
                self.ended(error.message)
                return
            if self._closing:
                self.close()

        self._starting = asyncio.create_task(start())

    def run(self, stream: Stream) -> None:
        """Open a request in the worker; its time limit begins."""
        stream.instance = self.id
        request = stream.request
        run = _Run(stream)
        if request.timeout is not None:
            run.timer = asyncio.get_running_loop().call_later(request.timeout, self._time_out, run)
        self._runs[request.id] = run
        self._send(Open(request))

    def cancel(self, request_id: str) -> None:
        """End a request; its slot is free when the worker says so."""
        if request_id in self._runs:
            self._send(Cancel(request_id))

    def use_threads(self, count: int) -> None:
        """Change the worker's allowance of cores."""
        self._send(UseThreads(count))

    def close(self) -> None:
        """Unload the model and end the worker, by force if it takes too long."""
        self._closing = True
        if self._worker is not None and self.info is None:
            self._worker.kill()  # a load listens to nobody, and leaves nothing to free
        elif self._worker is not None and self._killer is None:
            self._worker.send(Close())
            self._killer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._worker.kill)

    def fail_running(self, error: LllmsError) -> None:
        """End every request that still runs with this error."""
        for run in self._runs.values():
            if run.timer is not None:
                run.timer.cancel()
            run.stream.fail(error)
        self._runs.clear()

    # -- what the worker tells (WorkerEvents) -------------------------------------------------------------------------

    def message(self, message: FromWorker) -> None:
        """Handle what the worker said."""
        match message:
            case Deltas(deltas):
                for delta in deltas:
                    self._delta(delta)
            case Progress(fraction):
                self.progress = fraction
            case Loaded(info):
                self.progress, self.info = 1.0, info
                self._owner.loaded(self, info)
            case LoadFailed(reason, traceback) | Crashed(reason, traceback):
                self._failure = reason
                if traceback:  # for whoever runs the server; clients are told the reason
                    LOG.error("%s: %s\n%s", self.id, reason, traceback)

    def ended(self, reason: str) -> None:
        """The worker is gone."""
        if self._killer is not None:
            self._killer.cancel()
        self._owner.gone(self, self._failure or reason)

    def _delta(self, delta: Delta) -> None:
        run = self._runs.get(delta.request_id)
        if run is None:
            return  # ended by fail_running, while this was on its way
        if run.timed_out and delta.finish is not None and delta.finish.reason == "cancelled":
            delta = evolve(delta, finish=Finish("timeout", delta.finish.usage))
        run.stream.put(delta)
        if delta.last:
            if run.timer is not None:
                run.timer.cancel()
            del self._runs[delta.request_id]
            self._owner.finished(delta.request_id)

    def _time_out(self, run: _Run) -> None:
        run.timed_out = True
        self.cancel(run.stream.request.id)

    def _send(self, message: ToWorker) -> None:
        assert self._worker is not None  # noqa: S101  # only ready instances are told anything
        self._worker.send(message)
