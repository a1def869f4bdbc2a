"""One loaded copy of a model as the pool sees it: its worker and its running requests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import count
from time import monotonic
from typing import Protocol

from attrs import define, evolve, frozen

from lllms_core.answers import Stream
from lllms_core.errors import LllmsError, PlaceLost
from lllms_core.events import Event, RequestBegun, RequestEnded
from lllms_core.footprint import Footprint
from lllms_core.pool.watchdog import Watchdog
from lllms_core.status import RequestStatus, Waiting
from lllms_core.types import Delta, Finish, ModelInfo, Usage
from lllms_core.worker.handle import Worker
from lllms_core.worker.wire import (
    Alive,
    Cancel,
    Close,
    Crashed,
    Deltas,
    FindSession,
    FoundSession,
    FromWorker,
    Loaded,
    LoadFailed,
    Open,
    Probe,
    Progress,
    PutSession,
    Reading,
    Survey,
    Surveyed,
    ToWorker,
    UseThreads,
)

LOG = logging.getLogger("lllms.pool")


@frozen
class Patience:
    """How long a worker may fail to react before it is killed, in seconds."""

    close: float = 5.0
    """To free its model after it was asked to close."""
    cancel: float = 60.0
    """To end a request that was cancelled or timed out: longer than any step should take."""
    timeout: float = 1.0
    """To end a timed-out request with the text it has so far; after that the client gets the text that has arrived, and
    only the slot waits for the worker."""
    load: float = 300.0
    """To load its model; 0: no limit. The pool sets the model's limit here."""
    watchdog: float = 30.0
    """To make progress; 0: no limit. The pool sets the model's limit here."""


PATIENCE = Patience()


class Owner(Protocol):
    """Callbacks by which an instance reports to its pool."""

    def loaded(self, instance: "Instance", info: ModelInfo) -> None:
        """The instance is ready for requests."""

    def finished(self, request_id: str) -> None:
        """A request has left its slot."""

    def find_session(self, instance: "Instance", question: FindSession) -> None:
        """The instance looks for a session, and waits for the answer by `found`."""

    def put_session(self, instance: "Instance", session: PutSession) -> None:
        """The instance has exported a session."""

    def gone(self, instance: "Instance", reason: str) -> None:
        """The instance's worker has ended; its running requests are lost."""

    def tell(self, event: Event) -> None:
        """Something has happened to a request."""


@define(eq=False)
class _Run:
    stream: Stream
    timer: asyncio.TimerHandle | None = None
    timed_out: bool = False
    begun: bool = False
    """Whether the first piece has arrived, even if its reader has left."""
    tokens: int = 0
    """Tokens that have arrived."""
    read: float | None = None
    """How much of the prompt has been read; None: unknown."""
    queued: float = 0.0
    load: float = 0.0
    """Seconds, see `Timings`."""

    @property
    def waiting(self) -> Waiting | None:
        if self.stream.begun or self.stream.ended:
            return None
        loads = self.stream.request.task == "load"
        return Waiting("loading", progress=1.0) if loads else Waiting("prompt", progress=self.read)

    def timed(self, finish: Finish) -> Finish:
        return evolve(finish, timings=evolve(finish.timings, queued=self.queued, load=self.load))

    def set_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self.stop_timer()
        self.timer = asyncio.get_running_loop().call_later(seconds, callback)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Instance:
    """Passes requests to a worker, and its answers to their streams."""

    def __init__(
        self, instance_id: str, model: str, owner: Owner, patience: Patience, footprint: Footprint | None = None,
        *, place: str = "",
    ) -> None:
        self.id = instance_id
        self.model = model
        self.place = place
        """The name of its machine, if that is not this one."""
        self.footprint = footprint or Footprint()
        """The footprint of the files when the load began."""
        self.progress = 0.0
        self.info: ModelInfo | None = None
        self._owner = owner
        self._patience = patience
        self._worker: Worker | None = None
        self._runs: dict[str, _Run] = {}
        self._surveys: dict[int, asyncio.Future[Surveyed | None]] = {}
        self._numbers = count()
        self._closing = False
        self._ended = False
        self._failure: str | None = None
        self._starved = False
        self._lost = False
        self._starting: asyncio.Task[None] | None = None
        self._began, self._ready_at = monotonic(), 0.0
        self._killer: asyncio.TimerHandle | None = None
        self._load_timer: asyncio.TimerHandle | None = None
        self._watchdog = Watchdog(
            patience.watchdog, lambda: bool(self._runs or self._surveys), lambda: self._send(Probe()), self._silent,
        )

    @property
    def label(self) -> str:
        """Its id, with its machine if that is not this one."""
        return f"{self.id} at {self.place}" if self.place else self.id

    @property
    def silent_seconds(self) -> float:
        """For how long the worker has had work and shown no sign of progress."""
        return self._watchdog.silent

    @property
    def load_seconds(self) -> float:
        """How long the load has taken, so far or in all."""
        return (self._ready_at or monotonic()) - self._began

    @property
    def starved(self) -> bool:
        """Whether its worker has ended for lack of memory, as far as is known."""
        return self._starved or (self._worker is not None and self._worker.starved)

    @property
    def lost(self) -> bool:
        """Whether its worker is gone because its place is lost, or the way there."""
        return self._lost or bool(self._worker is not None and self._worker.lost)

    @property
    def unanswered(self) -> set[str]:
        """The running requests of which no piece has arrived, and which somebody waits for."""
        return {
            request_id for request_id, run in self._runs.items()
            if not (run.begun or run.timed_out or run.stream.ended)
        }

    @property
    def limits(self) -> Patience:
        """How long the worker may fail to react."""
        return self._patience

    @property
    def pid(self) -> int | None:
        """The id of the worker's process; None for a thread, or before it has started."""
        return self._worker.pid if self._worker else None

    # -- calls of the pool --------------------------------------------------------------------------------------------

    def start(self, worker: Awaitable[Worker]) -> None:
        """Start the worker in the background; its end is reported to the owner even if it never starts."""

        async def start() -> None:
            try:
                self._worker = await worker
            except Exception as error:  # noqa: BLE001  # else it would load forever
                self._lost = isinstance(error, PlaceLost)
                self.ended(error.message if isinstance(error, LllmsError) else f"{type(error).__name__}: {error}")
                return
            if self._closing:
                self.close()

        if self._patience.load > 0:
            self._load_timer = asyncio.get_running_loop().call_later(self._patience.load, self._load_too_long)
        self._starting = asyncio.create_task(start())

    def run(self, stream: Stream) -> None:
        """Open a request in the worker and start its time limit. If sending fails, raises that and keeps no trace."""
        assert self._worker is not None  # noqa: S101  # only ready instances get requests
        request = stream.request
        waited = monotonic() - stream.submitted
        load = min(waited, max(0.0, self._ready_at - stream.submitted))
        run = _Run(stream, queued=waited - load, load=load)
        if request.timeout is not None:
            run.set_timer(request.timeout, lambda: self._time_out(run))
        try:
            self._worker.send(Open(request), stream.frame)
        except Exception:
            run.stop_timer()
            raise
        stream.instance, stream.frame, stream.fingerprint = self.id, None, self.footprint.fingerprint
        self._runs[request.id] = run
        self._watchdog.start()

    def cancel(self, request_id: str) -> None:
        """End a request; its slot is free when the worker says so, or was killed because it did not."""
        run = self._runs.get(request_id)
        if run is not None:
            self._send(Cancel(request_id))
            run.set_timer(self._patience.cancel, self._give_up)

    def stream(self, request_id: str) -> Stream | None:
        """Return the stream of a running request; None for any other."""
        run = self._runs.get(request_id)
        return None if run is None else run.stream

    def waiting(self, request_id: str) -> Waiting | None:
        """Return what a running request waits for before its first piece; None if it does not."""
        run = self._runs.get(request_id)
        return None if run is None else run.waiting

    def requests(self, now: float) -> Iterator[RequestStatus]:
        """Describe the running requests."""
        for run in self._runs.values():
            request, waiting, age = run.stream.request, run.waiting, now - run.stream.submitted
            state = "ending" if run.stream.ended else "answering" if waiting is None else waiting.state
            yield RequestStatus(
                request.id, request.model, request.task, state, age, run.tokens, self.id, self.place, waiting,
            )

    def found(self, answer: FoundSession) -> None:
        """Answer the worker's session lookup."""
        self._send(answer)

    async def survey(self, forget: Sequence[bytes] = (), *, everything: bool = False) -> Surveyed | None:
        """Return the conversations that the model holds, and forget those in line with one of `forget`, or all.

        "In line": one of the two token sequences is a prefix of the other. The worker answers between two steps; to
        forget something, it interrupts a long step. None if the worker has ended, after all that it put has arrived.
        """
        if self._ended:
            return None
        answer: asyncio.Future[Surveyed | None] = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        # Kept until the worker answers or is gone, even if the caller has left: the watchdog counts it as work.
        self._surveys[number] = answer
        if not self._closing:
            self._watchdog.start()
            self._send(Survey(number, tuple(forget), everything))
        return await answer

    def watch(self, seconds: float) -> None:
        """Set for how long the busy worker may show no sign of progress; 0: no limit."""
        self._patience = evolve(self._patience, watchdog=seconds)
        self._watchdog.stop()
        self._watchdog.limit = seconds
        if self._runs or self._surveys:
            self._watchdog.start()

    def use_threads(self, count: int) -> None:
        """Set the number of cores that the worker may use."""
        self._send(UseThreads(count))

    def close(self) -> None:
        """Unload the model and end the worker, by force if it takes too long."""
        self._closing = True
        if self._worker is not None and self.info is None:
            self._worker.kill()  # a load cannot be interrupted, and leaves nothing to free
        elif self._worker is not None and self._killer is None:
            self._send(Close())
            self._killer = asyncio.get_running_loop().call_later(self._patience.close, self._worker.kill)

    def release(self, request_id: str) -> Stream:
        """Give up a request, to be run by another instance, and return its stream."""
        run = self._runs.pop(request_id)
        run.stop_timer()
        run.stream.instance = None
        return run.stream

    def abandon(self) -> None:
        """Have nothing more to do with the worker: its place is lost."""
        self._closing = self._ended = True
        self._stop_timers()
        if self._worker is not None:
            self._worker.kill()

    def fail_running(self, error: LllmsError) -> None:
        """End every running request with this error."""
        runs, self._runs = self._runs, {}
        for run in runs.values():
            run.stop_timer()
            run.stream.fail(error)
            self._owner.tell(RequestEnded(run.stream.request.id, monotonic(), error=error, tokens=run.tokens))

    # -- events of the worker (WorkerEvents) --------------------------------------------------------------------------

    def message(self, message: FromWorker) -> None:
        """Handle a message from the worker."""
        if not self._ended:  # else it was abandoned
            self._handle(message)

    def _handle(self, message: FromWorker) -> None:
        self._watchdog.heard = True
        match message:
            case Deltas(deltas):
                for delta in deltas:
                    self._delta(delta)
            case FindSession():
                self._owner.find_session(self, message)
            case Surveyed(number):
                self._answer(number, message)
            case PutSession():
                self._owner.put_session(self, message)
            case Alive():
                pass  # the sign of life is noted above
            case Reading(shares):
                self._note_reading(shares)
            case Progress(fraction):
                self.progress = fraction
            case Loaded(info):
                self._loaded(info)
            case LoadFailed(reason, traceback, starved) | Crashed(reason, traceback, starved):
                self._failure, self._starved = reason, starved
                if traceback:  # for the operator; clients get the reason
                    LOG.error("%s: %s\n%s", self.id, reason, traceback, extra={"traceback": traceback})
                if isinstance(message, Crashed) and self._worker is not None:
                    self._worker.kill()  # do not wait for a broken model to be freed

    def ended(self, reason: str) -> None:
        """The worker is gone."""
        if self._ended:
            return  # it was abandoned
        self._ended = True
        self._stop_timers()
        self._owner.gone(self, self._failure or reason)

    def _stop_timers(self) -> None:
        for timer in (self._killer, self._load_timer):
            if timer is not None:
                timer.cancel()
        self._watchdog.stop()
        for number in list(self._surveys):
            self._answer(number, None)

    def _loaded(self, info: ModelInfo) -> None:
        self.progress, self.info, self._ready_at = 1.0, info, monotonic()
        if self._load_timer is not None:
            self._load_timer.cancel()
        self._owner.loaded(self, info)

    def _note_reading(self, shares: Mapping[str, float]) -> None:
        for request_id in shares.keys() & self._runs.keys():
            self._runs[request_id].read = shares[request_id]

    def _answer(self, number: int, answer: Surveyed | None) -> None:
        asked = self._surveys.pop(number, None)
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def _delta(self, delta: Delta) -> None:
        run = self._runs.get(delta.request_id)
        if run is None:
            return  # ended by fail_running while this was in transit
        if run.timed_out and delta.finish is not None and delta.finish.reason == "cancelled":
            delta = evolve(delta, finish=evolve(delta.finish, reason="timeout"))
        elif run.timed_out and delta.ended == "cancelled":
            delta = evolve(delta, ended="timeout")
        run.tokens += delta.tokens
        if not run.begun:
            run.begun = True
            if not delta.last:
                self._owner.tell(RequestBegun(delta.request_id, delta.admitted, monotonic()))
        if delta.finish is not None:
            delta = evolve(delta, finish=run.timed(delta.finish))
        run.stream.put(delta)
        if delta.last:
            run.stop_timer()
            del self._runs[delta.request_id]
            self._owner.tell(RequestEnded(delta.request_id, monotonic(), delta.finish, delta.error, run.tokens))
            self._owner.finished(delta.request_id)

    def _time_out(self, run: _Run) -> None:
        run.timed_out = True
        self._send(Cancel(run.stream.request.id))
        run.set_timer(self._patience.timeout, lambda: self._answer_late(run))

    def _answer_late(self, run: _Run) -> None:
        """End the answer to a timed-out request on the worker's behalf; the worker keeps the slot."""
        usage = Usage(0, run.tokens)  # only the worker knows how many tokens the prompt has
        run.stream.put(Delta(run.stream.request.id, finish=run.timed(Finish("timeout", usage))))
        run.set_timer(self._patience.cancel, self._give_up)

    def _give_up(self) -> None:
        self._kill(f"it did not end a cancelled request within {self._patience.cancel:g} s, and was killed")

    def _silent(self) -> None:
        self._kill(
            f"it said nothing for {self._patience.watchdog:g} s while it worked, and was killed; if it needs longer, "
            f"raise models.{self.model}.watchdog",
        )

    def _load_too_long(self) -> None:
        self._failure = (
            f"it was not loaded within {self._patience.load:g} s, and was killed; if it needs longer, "
            f"raise models.{self.model}.load_timeout"
        )
        self.close()  # even if the worker has yet to start

    def _kill(self, reason: str) -> None:
        assert self._worker is not None  # noqa: S101  # it has been sent a message
        self._failure = reason
        self._worker.kill()

    def _send(self, message: ToWorker) -> None:
        assert self._worker is not None  # noqa: S101  # only ready instances get messages
        try:
            self._worker.send(message)
        except Exception as error:  # noqa: BLE001  # whatever the cause
            # A worker that cannot be asked to cancel or to close would be waited for forever.
            self._failure = self._failure or f"it could not be sent a message ({type(error).__name__}), and was killed"
            LOG.error("%s: %s", self.id, self._failure)  # noqa: TRY400  # one line is enough
            self._worker.kill()
