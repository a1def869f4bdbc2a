"""The loop of a worker, in a process or a thread: load, then take requests and step, until a `Close` arrives."""

import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import cast

from lllms_core.engines import Interrupt, Model, Preloads, Resumes
from lllms_core.engines.base import ContractBroken, Opens
from lllms_core.engines.promises import check_model
from lllms_core.errors import EngineFailed, InvalidRequest, LllmsError, RequestError
from lllms_core.queries import AnyRequest, DetokenizeRequest
from lllms_core.tracebacks import described, kind, short_traceback
from lllms_core.types import Delta, Finish, Preload, Usage
from lllms_core.worker.ends import raised
from lllms_core.worker.open_requests import OpenRequests
from lllms_core.worker.preparing import Preparations, PreparedOpening, is_small, prepare
from lllms_core.worker.wire import (
    Cancel,
    Close,
    Crashed,
    Deltas,
    FoundSession,
    FromWorker,
    Load,
    Loaded,
    LoadFailed,
    Open,
    Probe,
    Progress,
    Reading,
    Rehearsed,
    Survey,
    ToWorker,
    UseThreads,
)
from lllms_core.worker.wire_link import WireLink, as_session, session_space, survey

PRELOAD = "preload"
"""The id of the request that evaluates the common prefix of all conversations."""

SMALLEST_PROGRESS = 0.01
"""Engines may report every tensor; one message per percent is enough."""
LONG_PROMPT = 0.5
"""Seconds after which the reading of a prompt is reported, for the client to see."""
REPORT_SECONDS = 0.25
"""The pause between two such reports."""


class Inbox:
    """Messages for the loop, put by another thread. Urgent ones interrupt the current step."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[ToWorker | PreparedOpening] = queue.SimpleQueue()
        self.interrupt = Interrupt()
        """The model's own, once it is loaded."""
        self._handled = 0
        self._waits = False
        self._seen = (0, 0)

    def put(self, message: ToWorker | PreparedOpening) -> None:
        """Add a message; from any thread."""
        self._messages.put(message)
        if isinstance(message, Cancel | Close) or (isinstance(message, Survey) and message.urgent):
            self.interrupt.set()

    def take(self, *, wait: bool) -> list[ToWorker | PreparedOpening]:
        """Return all messages in the inbox; with `wait`, wait for at least one."""
        # Cleared first: a cancel after this line may interrupt one step needlessly, but is never overlooked.
        if self.interrupt.is_set():
            self.interrupt.clear()
        messages = []
        if wait:
            self._waits = True
            messages.append(self._messages.get())
            self._waits = False
        while not self._messages.empty():
            messages.append(self._messages.get())
        self.got_on()
        return messages

    def got_on(self) -> None:
        """Record that the loop has made progress; called by the loop."""
        self._handled += 1

    def moved(self) -> bool:
        """Whether the loop has made progress since the last call, or waits for a message; from any one thread.

        Progress means messages handled, steps, and within a step the model's looks at `interrupt`.
        """
        seen, self._seen = self._seen, (self._handled, self.interrupt.looks)
        return self._waits or seen != self._seen


class WorkerLoop:
    """Runs one model, in the thread that calls `run`; other threads prepare large requests."""

    def __init__(self, inbox: Inbox, send: Callable[[FromWorker], None]) -> None:
        self._inbox = inbox
        self._send = send
        self._space: str | None = None
        self._engine = ""
        self._requests = OpenRequests()
        self._report_at = 0.0
        """When the reading of prompts may be reported again, on the clock of `monotonic`."""

    def run(self, load: Load) -> None:
        """Load the model and serve until `Close`, or until the engine breaks; then the last message says why."""
        model = self._load(load)
        if model is None:
            return
        with self._reporting():
            self._serve(model)
            model.store_sessions()
        with self._reporting():
            if self._preparations.stop():  # else their memory is freed by the end of the process, or never
                model.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # noqa: BLE001  # any exception of an engine (even sys.exit()) ends only its worker
            # All waiting clients get the reason, and the error's own message may quote one of their requests.
            if isinstance(error, ContractBroken):
                reason = f"engine '{self._engine}': {error}"
            else:
                reason = raised(error) or f"its engine raised {kind(error)}; the server's log says where"
            self._send(Crashed(reason, short_traceback(error), raised(error) is not None))

    def _load(self, load: Load) -> Model | None:
        """Return the loaded model; None if the worker has nothing to serve."""
        told = 0.0

        def progress(fraction: float) -> None:
            nonlocal told
            if fraction >= told + SMALLEST_PROGRESS:
                told = fraction
                self._send(Progress(fraction))

        try:
            self._engine = load.engine.name
            if load.rehearsal:
                load.engine.rehearse(load.spec)
                self._send(Rehearsed())
                return None
            model = load.engine.load(load.spec, progress)
            check_model(load.engine, load.spec, model)
            model.use_threads(load.spec.threads)
            self._inbox.interrupt = model.interrupt
            self._preparations = Preparations(model, self._inbox.put)
            if model.state_key is not None:
                self._space = session_space(load, model)
                if load.sessions is not None:
                    cast(Resumes, model).use_sessions(WireLink(load.sessions, self._space, self._send))
            if load.spec.preload is not None and not self._preload(model, load.spec.preload):
                return None
            self._send(Loaded(model.info))
        except BaseException as error:  # noqa: BLE001  # as above
            self._send(load_failed(error))
            return None
        return model

    def _preload(self, model: Model, preload: Preload) -> bool:
        """Evaluate the common prefix of all conversations; False if the worker must close."""
        cast(Preloads, model).preload(PRELOAD, preload)
        self._requests.take(PRELOAD)
        while True:
            if not self._take(model):
                return False
            for delta in [] if model.idle else self._requests.checked("step", model.step()):
                if delta.error is not None:
                    raise delta.error
                if delta.last:
                    return True

    def _serve(self, model: Model) -> None:
        while self._take(model):
            if not model.idle:
                self._tell(self._requests.checked("step", model.step()))
                if self._requests.awaited:  # while all answers have begun, a token costs no more than this
                    self._report_reading(model)

    def _report_reading(self, model: Model) -> None:
        now = monotonic()
        if now < self._report_at:
            return
        late = self._requests.late(now - LONG_PROMPT)
        if late:
            self._report_at = now + REPORT_SECONDS
            shares = {request: share for request, share in model.prompt_progress().items() if request in late}
            if shares:
                self._send(Reading(shares))

    def _take(self, model: Model) -> bool:
        """Handle the messages in the inbox, or wait for one if the model is idle; False to close."""
        for message in self._inbox.take(wait=model.idle):
            self._inbox.got_on()
            match message:
                case Open(request):
                    self._open(model, request)
                case PreparedOpening(request, cancelled):
                    with self._refusing(request):
                        if not cancelled.is_set():
                            self._answer(request, self._preparations.take(message))
                case Cancel(request_id):
                    self._cancel(model, request_id)  # at once: the others' step may take a while
                case FoundSession(request_id):
                    cast(Resumes, model).found(request_id, as_session(message))
                case Survey():
                    self._send(survey(model, message))
                case UseThreads(count):
                    model.use_threads(count)
                case Close():
                    return False
                case Load() | Probe():
                    raise AssertionError("a worker loads one model, and another thread answers probes")
        return True

    def _open(self, model: Model, request: AnyRequest) -> None:
        self._requests.arrive(request.id)
        with self._refusing(request):
            self._check_space(request)
            if is_small(request):
                self._answer(request, prepare(model, request)())
            else:
                self._preparations.start(request)

    def _cancel(self, model: Model, request_id: str) -> None:
        if self._preparations.cancel(request_id):
            self._tell([Delta(request_id, finish=Finish("cancelled", Usage(0, 0)))])
        else:
            self._tell(self._requests.checked("cancel", model.cancel(request_id)))

    @contextmanager
    def _refusing(self, request: AnyRequest) -> Iterator[None]:
        try:
            yield
        except (RequestError, EngineFailed) as error:
            self._tell([Delta(request.id, error=error)])

    def _check_space(self, request: AnyRequest) -> None:
        """Refuse the tokens of another model's session: they may stand for other words."""
        if isinstance(request, DetokenizeRequest) and request.space not in {None, self._space}:
            raise InvalidRequest(
                f"the session belongs to another file, version or configuration of model '{request.model}', and its "
                "text cannot be restored; it can only be deleted",
                "text",
            )

    def _answer(self, request: AnyRequest, deltas: Iterable[Delta]) -> None:
        """Record that the model has taken a request, or send the answer if it is known at once."""
        if isinstance(request, Opens):
            self._requests.take(request.id)
        self._tell(deltas)

    def _tell(self, deltas: Iterable[Delta]) -> None:
        if told := self._requests.timed(deltas):
            self._send(Deltas(told))


def load_failed(error: BaseException) -> LoadFailed:
    """Report the exception that is being handled: with its traceback, unless it was raised on purpose."""
    if isinstance(error, LllmsError):
        return LoadFailed(error.message, "")
    lack = raised(error)
    return LoadFailed(lack or described(error), short_traceback(error), lack is not None)
