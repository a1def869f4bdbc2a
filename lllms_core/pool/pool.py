"""The pool: carries out the scheduler's decisions with workers, streams and the clock."""

import asyncio
import contextlib
import logging
import secrets
import string
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from attrs import evolve

from lllms_core.answers import Stream
from lllms_core.catalog import Catalog
from lllms_core.config import ServerConfig
from lllms_core.errors import (
    DownloadCancelled,
    EngineDied,
    InvalidRequest,
    LllmsError,
    ModelLoadFailed,
    ModelUnknown,
    ShuttingDown,
)
from lllms_core.machine import available_cores
from lllms_core.parameters.wording import cut
from lllms_core.pool.batch import Batch
from lllms_core.pool.effects import Assign, Effect, Prepare, Refuse, Start, Stop, UseThreads
from lllms_core.pool.instance import PATIENCE, Instance, Patience
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.models import ModelFiles, PoolModel
from lllms_core.pool.prepared import prepare, unsendable
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.state import Limits
from lllms_core.queries import AnyRequest, LoadRequest, Prepared
from lllms_core.status import InstanceStatus, Lack, PoolStatus
from lllms_core.types import Isolation, ModelInfo, Request
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.start import start_worker
from lllms_core.worker.wire import FindSession, Held, Load, PutSession, SessionTerms

LOG = logging.getLogger("lllms.pool")

STORE_SECONDS = 5.0
"""The time that waiting sessions have to be stored when the pool closes."""

StartWorker = Callable[[Load, Isolation, WorkerEvents], Awaitable[Worker]]


class Pool:
    """All instances of all models, and the queue in front of them. Use it from one event loop.

        pool = Pool({"parrot": PoolModel(ParrotEngine(), ModelSpec("parrot", NoOptions()))}, Limits(concurrency=2))
        await pool.start()
        async with pool.submit(Request("1", "parrot", prompt="hello")) as stream:
            print((await stream.gather()).text)
        await pool.close(grace=1)
    """

    def __init__(
        self,
        models: Mapping[str, PoolModel],
        limits: Limits,
        start: StartWorker = start_worker,
        patience: Patience = PATIENCE,
        keeper: SessionKeeper | None = None,
    ) -> None:
        """Prepare a pool; nothing runs yet."""
        self._models = dict(models)
        self._start_worker = start
        self._patience = patience
        absent = {name for name, model in models.items() if model.files is not None and model.spec.file is None}
        all_limits = {name: model.limits for name, model in models.items()}
        self._scheduler = Scheduler(all_limits, limits, _instance_id, absent)
        self._preparing: set[asyncio.Task[None]] = set()
        self._instances: dict[str, Instance] = {}
        self._waiting: dict[str, Stream] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._keeper = keeper
        self._finding: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._effects: deque[Effect] = deque()
        self._applying = False
        self._started = False

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        server: ServerConfig,
        keeper: SessionKeeper | None = None,
        files: Mapping[str, ModelFiles] = MappingProxyType({}),
    ) -> Self:
        """Make a pool for the models of a catalog; `files` holds those whose files may have to be fetched."""
        models = {entry.name: PoolModel.of(entry, files.get(entry.name)) for entry in catalog.entries}
        limits = Limits(
            server.concurrency, server.queue_size, server.queue_timeout, server.max_instances, available_cores(),
        )
        return cls(models, limits, keeper=keeper)

    @property
    def open(self) -> bool:
        """Whether the pool accepts requests."""
        return self._started and not self._scheduler.stopping

    async def start(self) -> None:
        """Load the instances that models keep; return once each is loaded or has failed to load.

        It also waits for the files of `blocking` models; those of the other `prepare` models arrive later.
        """
        self._started = True
        if self._keeper is not None:
            self._keeper.start()
        wanted = {name for name, model in self._models.items() if model.prepare}
        awaited = {name for name, model in self._models.items() if model.blocking}
        self._apply(self._scheduler.start(time.monotonic(), wanted))
        while awaited & self._scheduler.preparing or any(
            entry.state == "loading" for entry in self._scheduler.instances.values()
        ):
            await self._change()

    def prepare(self, request: AnyRequest) -> Prepared:
        """Do the costly part of submitting a large request, in any thread, so that the event loop need not.

        Raises `LllmsError` if it cannot be sent to a worker.
        """
        model = self._models.get(request.model)
        return prepare(request, framed=model is not None and model.isolation == "process")

    def submit(self, request: AnyRequest | Prepared) -> Stream:
        """Queue a request and return the stream of its answer. A refusal comes as the stream's only delta."""
        stream = self._stream(request)
        self._enter(stream, request)
        return stream

    def submit_all(self, requests: Sequence[AnyRequest | Prepared]) -> list[Stream]:
        """Queue requests that belong together, and return the streams of their answers.

        Only a few are queued or running at a time, so that no number is too large for the queue and other clients get
        their turns. If the first is refused, all are.
        """
        streams = [self._stream(request) for request in requests]
        limits = self._scheduler.limits
        Batch(
            zip(streams, requests, strict=True), self._enter,
            lambda: len(self._scheduler.waiting) < limits.queue_size, 2 * limits.concurrency,
        ).feed()
        return streams

    def _stream(self, request: AnyRequest | Prepared) -> Stream:
        return Stream(request.request if isinstance(request, Prepared) else request, self._cancel)

    def _enter(self, stream: Stream, given: AnyRequest | Prepared, admitted: bool = False) -> None:  # noqa: FBT001, FBT002
        request = stream.request
        if request.model not in self._models:
            there_are = ", ".join(sorted(self._models))
            stream.fail(ModelUnknown(f"no model '{cut(request.model)}'; there are: {there_are}"))
            return
        if not self._started:
            stream.fail(ShuttingDown("the pool is not started"))
            return
        if request.id in self._scheduler.waiting or request.id in self._scheduler.running:
            stream.fail(InvalidRequest(f"a request with the id '{request.id}' is already in progress", "id"))
            return
        try:
            prepared = given if isinstance(given, Prepared) else prepare(given, framed=False)
        except LllmsError as error:
            stream.fail(error)
            return
        stream.frame = prepared.frame
        self._waiting[request.id] = stream
        ttl = request.ttl if isinstance(request, Request | LoadRequest) else None
        now = stream.submitted = time.monotonic()
        self._apply(self._scheduler.submit(request.id, request.model, prepared.prefixes, now, ttl, admitted=admitted))

    def status(self) -> PoolStatus:
        """Return the loaded instances, and the counts of running and waiting requests."""
        now = time.monotonic()
        limits = self._scheduler.limits
        return PoolStatus(
            instances=tuple(self._instance_status(instance, now) for instance in self._instances.values()),
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            concurrency=limits.concurrency,
            queue_size=limits.queue_size,
            cores=limits.cores,
        )

    def lacks(self) -> tuple[Lack, ...]:
        """Return the models that have fewer instances ready than they keep, with the reasons."""
        now = time.monotonic()
        return tuple(
            Lack(name, self._ready(name), model.limits.min_instances, *self._why_lacking(name, now))
            for name, model in self._models.items() if self._ready(name) < model.limits.min_instances
        )

    def _ready(self, model: str) -> int:
        entries = self._scheduler.instances.values()
        return sum(entry.model == model and entry.state == "ready" for entry in entries)

    def _why_lacking(self, model: str, now: float) -> tuple[str, float | None]:
        setback = self._scheduler.setbacks.get(model)
        at = self._scheduler.retry_at(model)
        return "" if setback is None else setback.reason, None if at is None else max(0.0, at - now)

    async def unload(self, model: str) -> None:
        """Unload the instances of a model beyond those that it keeps; those at work, once they are idle.

        Returns when those that were idle are gone.
        """
        self._apply(self._scheduler.unload(model, time.monotonic()))
        while any(one.model == model and one.state == "closing" for one in self._scheduler.instances.values()):
            await self._change()

    def position(self, request_id: str) -> int | None:
        """Return the position of a waiting request: 1 is next; None if it does not wait."""
        if request_id not in self._waiting:
            return None
        return list(self._waiting).index(request_id) + 1

    def info(self, model: str) -> ModelInfo | None:
        """What an instance of this model reported when it was last loaded; None if it never was."""
        return self._infos.get(model)

    async def survey(
        self, model: str | None, forget: Sequence[bytes] = (), *, everything: bool = False,
    ) -> Sequence[tuple[str, str, Sequence[Held]]]:
        """Return instance, model and conversations of each instance, and forget as `Instance.survey` does.

        Asks the instances of one model, or of all. When this returns, the keeper has every session that they put
        before, even from an instance that is being unloaded.
        """
        asked = [
            instance for instance in self._instances.values()
            if instance.info is not None and model in {None, instance.model}
        ]
        answers = await asyncio.gather(*(one.survey(forget, everything=everything) for one in asked))
        return [
            (instance.id, instance.model, answer.held)
            for instance, answer in zip(asked, answers, strict=True) if answer is not None
        ]

    async def close(self, grace: float) -> None:
        """Refuse waiting requests, give running ones `grace` seconds to finish, then end everything."""
        self._apply(self._scheduler.stop())
        if self._timer is not None:
            self._timer.cancel()
        for task in self._preparing:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._scheduler.running:
                    await self._change()
        for instance in self._instances.values():
            instance.fail_running(ShuttingDown("the server is shutting down"))
            instance.close()
        while self._instances:
            await self._change()
        if self._keeper is not None:
            await self._keeper.close(STORE_SECONDS)

    # -- effects ------------------------------------------------------------------------------------------------------

    def _apply(self, effects: list[Effect]) -> None:
        """Carry out each effect, and those that follow from it, even if others fail."""
        self._effects.extend(effects)
        if self._applying:
            return
        self._applying = True
        try:
            while self._effects:
                effect = self._effects.popleft()
                try:
                    self._carry_out(effect)
                except Exception as error:
                    LOG.exception("%s could not be carried out", type(effect).__name__)
                    self._undo(effect, error)
        finally:
            self._applying = False
        self._set_timer()
        self._changed.set()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Start(instance, model, threads):
                self._start_instance(instance, model, threads)
            case Prepare(model):
                self._prepare(model)
            case Assign(ticket, instance):
                self._assign(ticket, self._instances[instance])
            case Refuse(ticket, refusal):
                self._waiting.pop(ticket).fail(refusal)
            case Stop(instance):
                LOG.info("unloading %s", instance)
                self._instances[instance].close()
            case UseThreads(instance, count) if instance in self._instances:
                self._instances[instance].use_threads(count)

    def _undo(self, effect: Effect, error: Exception) -> None:
        """Tell the scheduler that an effect failed."""
        match effect:
            case Start(instance):
                self._instances.pop(instance, None)
                self._apply(self._scheduler.gone(instance, f"{type(error).__name__}: {error}", time.monotonic()))
            case Prepare(model):
                failed = ModelLoadFailed(f"could not fetch the files of model '{model}': {error}")
                self._apply(self._scheduler.unprepared(model, failed, time.monotonic()))

    def _assign(self, ticket: str, instance: Instance) -> None:
        stream = self._waiting.pop(ticket)
        try:
            instance.run(stream)
        except Exception as error:  # noqa: BLE001  # whatever the cause, the slot must be freed
            LOG.warning("%s: a request could not be sent: %s", instance.id, type(error).__name__)
            stream.fail(unsendable(error))
            self._apply(self._scheduler.finished(ticket, time.monotonic()))

    def _prepare(self, model: str) -> None:
        files = self._models[model].files
        assert files is not None  # noqa: S101  # only models with files are absent

        async def prepare() -> None:
            try:
                await files.get()
            except LllmsError as error:
                level = logging.INFO if isinstance(error, DownloadCancelled) else logging.ERROR
                LOG.log(level, "could not fetch the files of %s: %s", model, error)
                self._apply(self._scheduler.unprepared(model, error, time.monotonic()))
            else:
                self._apply(self._scheduler.prepared(model, time.monotonic()))

        task = asyncio.create_task(prepare())
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    def _lost(self, instance_id: str) -> None:
        """The files of an instance that was about to be loaded have disappeared."""
        if instance_id in self._scheduler.instances:
            self._apply(self._scheduler.lost(instance_id, time.monotonic()))

    def _start_instance(self, instance_id: str, model: str, threads: int) -> None:
        entry = self._models[model]
        if entry.files is not None:
            file = entry.files.find()
            if file is None:
                asyncio.get_running_loop().call_soon(self._lost, instance_id)
                return
            entry = evolve(entry, spec=evolve(entry.spec, file=file))
        LOG.info("loading %s", instance_id)
        terms = None
        if self._keeper is not None and entry.sessions:
            terms = SessionTerms(self._keeper.limits.min_tokens, self._keeper.limits.max_size)
        load = Load(entry.engine, evolve(entry.spec, threads=threads), terms)
        patience = evolve(self._patience, load=entry.limits.load_timeout, watchdog=entry.limits.watchdog)
        instance = Instance(instance_id, model, self, patience)
        self._instances[instance_id] = instance
        instance.start(self._start_worker(load, entry.isolation, instance))

    def _set_timer(self) -> None:
        """Wake the scheduler when the next time limit is reached."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._scheduler.wake_at()
        if at is not None:
            delay = max(0.0, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._apply(self._scheduler.tick(time.monotonic()))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _cancel(self, stream: Stream) -> None:
        """A stream was closed before its end."""
        request = stream.request
        if self._waiting.pop(request.id, None) is not None:
            self._apply(self._scheduler.leave(request.id, time.monotonic()))
        elif stream.instance is not None and stream.instance in self._instances:
            self._instances[stream.instance].cancel(request.id)

    # -- callbacks of instances (Owner) -------------------------------------------------------------------------------

    def loaded(self, instance: Instance, info: ModelInfo) -> None:
        """An instance is ready."""
        LOG.info("loaded %s: %d slots of %d tokens", instance.id, info.slots, info.context_length)
        self._infos[instance.model] = info
        self._apply(self._scheduler.loaded(instance.id, info.slots, time.monotonic()))

    def finished(self, request_id: str) -> None:
        """A request has left its slot."""
        self._apply(self._scheduler.finished(request_id, time.monotonic()))

    def find_session(self, instance: Instance, question: FindSession) -> None:
        """An instance looks for a session."""
        async def find() -> None:
            assert self._keeper is not None  # noqa: S101  # without it no instance asks
            instance.found(await self._keeper.find(instance.model, question))

        task = asyncio.create_task(find())
        self._finding.add(task)
        task.add_done_callback(self._finding.discard)

    def put_session(self, instance: Instance, session: PutSession) -> None:
        """An instance has exported a session."""
        if self._keeper is not None:
            self._keeper.put(instance.model, session)

    def gone(self, instance: Instance, reason: str) -> None:
        """An instance's worker has ended."""
        entry = self._scheduler.instances[instance.id]
        if entry.state == "closing" or self._scheduler.stopping:
            LOG.info("unloaded %s", instance.id)
        else:
            LOG.error("%s %s: %s", instance.id, "cannot be loaded" if entry.state == "loading" else "died", reason)
        del self._instances[instance.id]
        self._apply(self._scheduler.gone(instance.id, reason, time.monotonic()))
        # Only after the scheduler has forgotten it: requests that these ends make room for must not be assigned to it.
        instance.fail_running(EngineDied(f"model '{instance.model}' failed while it worked on this request: {reason}"))

    def _instance_status(self, instance: Instance, now: float) -> InstanceStatus:
        entry = self._scheduler.instances[instance.id]
        return InstanceStatus(
            id=entry.id,
            model=entry.model,
            state=entry.state,
            progress=instance.progress,
            running=len(entry.running),
            threads=entry.threads,
            idle_seconds=now - entry.idle_since if entry.idle else 0.0,
            silent_seconds=instance.silent_seconds,
            pid=instance.pid,
            info=instance.info,
        )


def _instance_id(model: str) -> str:
    return f"{model}:{''.join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))}"

