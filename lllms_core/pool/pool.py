"""The pool: submit requests, and see what is loaded, running and waiting."""

import asyncio
import contextlib
import secrets
import string
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from types import MappingProxyType
from typing import Self

from attrs import evolve

from lllms_core.answers import Stream
from lllms_core.caller import CALLER, Caller
from lllms_core.catalog import Catalog
from lllms_core.config import ServerConfig
from lllms_core.errors import InvalidRequest, LllmsError, ModelUnknown, RequestCancelled, ShuttingDown
from lllms_core.events import Event, Observer, RequestEnded, RequestSubmitted
from lllms_core.machine import available_cores
from lllms_core.parameters.wording import cut
from lllms_core.pool.budget import Need
from lllms_core.pool.devices import DeviceWatch, free_of
from lllms_core.pool.devices import limits_of as limits_on
from lllms_core.pool.dispatcher import Dispatcher
from lllms_core.pool.far_places import FarPlaces
from lllms_core.pool.fleet import PlaceEntry
from lllms_core.pool.instance import PATIENCE, Instance, Patience
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.learnt import LearntStore
from lllms_core.pool.memory_watch import MemoryWatch
from lllms_core.pool.models import ModelFiles, PoolModel, Recorded, unrecorded
from lllms_core.pool.needs import NO_DEVICES, memory_limit, need_of, planned, spare_workers
from lllms_core.pool.place_statuses import place_statuses
from lllms_core.pool.prepared import prepare
from lllms_core.pool.request_group import RequestGroup
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.shortages import fits_nowhere, never_fits
from lllms_core.pool.spares import Spares
from lllms_core.pool.state import MemoryLimit, ModelLimits, PoolChange, PoolLimits
from lllms_core.pool.waits import waiting
from lllms_core.queries import AnyRequest, LoadRequest, Prepared
from lllms_core.status import (
    DeviceUse,
    DownloadStatus,
    FailedLoad,
    InstanceStatus,
    Lack,
    MemoryUse,
    PoolStatus,
    RequestStatus,
    Waiting,
)
from lllms_core.types import Delta, Finish, ModelInfo, ModelSpec, Request, Usage
from lllms_core.worker.start import StartWorker, start_worker
from lllms_core.worker.wire import HeldConversation

STORE_SECONDS = 5.0
"""The time that waiting sessions have to be stored when the pool closes."""


def _ignore(_: Event) -> None:
    """Observe nothing."""


class Pool:
    """All instances of all models, and the queue in front of them. Use it from one event loop.

        pool = Pool({"parrot": PoolModel(ParrotEngine(), ModelSpec("parrot", NoOptions()))}, PoolLimits(concurrency=2))
        await pool.start()
        async with pool.submit(TextRequest("1", "parrot", "hello")) as stream:
            print((await stream.gather()).text)
        await pool.close(grace=1)
    """

    def __init__(
        self,
        models: Mapping[str, PoolModel],
        limits: PoolLimits,
        start: StartWorker = start_worker,
        patience: Patience = PATIENCE,
        keeper: SessionKeeper | None = None,
        *,
        learnt: LearntStore | None = None,
        observer: Observer = _ignore,
        far: FarPlaces | None = None,
    ) -> None:
        """Prepare a pool; nothing runs yet. `learnt` remembers what models need; without it, that is forgotten.

        `observer` is told everything that happens. With `far`, all instances run at its places, and none here.
        """
        self._models = dict(models)
        self._keeper = keeper
        self._tell = observer
        absent = {name for name, model in models.items() if model.files is not None and model.spec.file is None}
        all_limits = {name: _limits(model) for name, model in models.items()}
        devices = DeviceWatch(lambda: [model.engine for model in list(self._models.values())], limits.gpu_memory)
        self._watch = MemoryWatch(learnt, keeper, devices)
        self._scheduler = Scheduler(all_limits, limits, _instance_id, absent, self._watch.look, local=far is None)
        devices.held = lambda: self._scheduler.seating.settled_on_devices
        self._scheduler.seating.fixed.update(name for name, model in models.items() if model.memory is not None)
        engines = [model.engine for model in models.values() if model.isolation == "process"]
        self._far = far
        self._spares = Spares(limits.spare_workers if far is None else 0, engines, start)
        self._dispatcher = Dispatcher(
            self._models, self._scheduler, self._spares, patience, keeper=keeper, watch=self._watch,
            observer=observer, far=far,
        )
        self._started = False

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        server: ServerConfig,
        keeper: SessionKeeper | None = None,
        files: Mapping[str, ModelFiles] = MappingProxyType({}),
        observer: Observer = _ignore,
        *, far: FarPlaces | None = None, recorded: Recorded = unrecorded,
    ) -> Self:
        """Make a pool for the models of a catalog; `files` holds those whose files may have to be fetched."""
        models = {
            entry.name: PoolModel.of(entry, files.get(entry.name), partial(catalog.place, entry.name), recorded)
            for entry in catalog.entries
        }
        limits = limits_of(server, models)
        return cls(models, limits, keeper=keeper, learnt=LearntStore.of(server), observer=observer, far=far)

    def add(self, name: str, model: PoolModel) -> None:
        """Accept requests for another model, whose files are here, and which keeps no instances."""
        self._models[name] = model
        self._scheduler.add(name, _limits(model))

    def reconfigure(
        self, models: Mapping[str, PoolModel], server: ServerConfig, fresh: AbstractSet[str],
        unfit: AbstractSet[str] = frozenset(),
    ) -> None:
        """Serve these models from now on, with the limits of this configuration; nothing else is touched.

        The pool must be started. The instances of those that are `fresh` and were known before, and of those that are
        gone, take no more requests, and end with their last one. Waiting requests take the new configuration; those
        whose model is gone are refused, and so are those for models that are `unfit`: their engine is another, which
        may not honour them.
        """
        before, old = self._scheduler.limits, dict(self._models)
        limits = limits_of(server, models)
        self._models.clear()
        for name, model in models.items():
            known = old.get(name)
            self._models[name] = model if known is None or name in fresh else evolve(
                known, limits=model.limits, prepare=model.prepare, blocking=model.blocking, source=model.source,
            )
        fixed = self._scheduler.seating.fixed
        fixed.clear()
        fixed.update(name for name, model in self._models.items() if model.memory is not None)
        engines = [model.engine for model in self._models.values() if model.isolation == "process"]
        self._spares.reconfigure(limits.spare_workers if self._far is None else 0, engines)
        self._watch.devices.reconfigure(limits.gpu_memory)
        self._dispatcher.reconfigure(PoolChange(
            {name: _limits(model) for name, model in self._models.items()}, limits,
            fresh=fresh, unfit=unfit,
            absent={name for name in fresh if models[name].files is not None and models[name].spec.file is None},
            prepare={name for name, model in models.items() if model.prepare},
            measure=(before.memory, before.gpu_memory) != (limits.memory, limits.gpu_memory)
            or (len(old) == 1) != (len(models) == 1),  # a lone model gets a larger share of the memory
        ))
        for instance in self._dispatcher.instances.values():
            if not self._scheduler.instances[instance.id].retired:
                instance.watch(self._models[instance.model].limits.watchdog)

    @property
    def open(self) -> bool:
        """Whether the pool accepts requests."""
        return self._started and not self._scheduler.stopping

    async def warm(self) -> None:
        """Start the spare workers already; `close` ends them, even without a `start`."""
        self._spares.settle(time.monotonic(), loading=False, running=False)
        await self._spares.started()

    async def start(self) -> None:
        """Load the instances that models keep; return once each is loaded or has failed to load.

        Raises `PlacementFailed` if the placement cannot be opened.

        It also waits for the files of `blocking` models; those of the other `prepare` models arrive later.
        """
        self._started = True
        if self._keeper is not None:
            self._keeper.start()
        if self._far is not None:
            await self._far.open()
        wanted = {name for name, model in self._models.items() if model.prepare}
        awaited = {name for name, model in self._models.items() if model.blocking}
        self._dispatcher.apply(self._scheduler.start(time.monotonic(), wanted))
        scheduler, fleet = self._scheduler, self._scheduler.fleet
        while awaited & scheduler.preparing or scheduler.measuring or fleet.loading or fleet.fetching:
            await self._dispatcher.change()

    def prepare(self, request: AnyRequest) -> Prepared:
        """Do the costly part of submitting a large request, in any thread, so that the event loop need not.

        Raises `LllmsError` if it cannot be sent to a worker.
        """
        model = self._models.get(request.model)
        return prepare(request, framed=model is not None and model.isolation == "process")

    def submit(self, request: AnyRequest | Prepared) -> Stream:
        """Queue a request and return the stream of its answer. A refusal comes as the stream's only delta."""
        stream = self._stream(request)
        self._enter(CALLER.get(), stream, request)
        return stream

    def submit_all(self, requests: Sequence[AnyRequest | Prepared]) -> list[Stream]:
        """Queue requests that belong together, and return the streams of their answers.

        Only a few are queued or running at a time, so that no number is too large for the queue and other clients get
        their turns. If the first is refused, all are.
        """
        streams = [self._stream(request) for request in requests]
        limits = self._scheduler.limits
        RequestGroup(
            zip(streams, requests, strict=True), partial(self._enter, CALLER.get()),
            lambda: len(self._scheduler.waiting) < limits.queue_size, 2 * limits.concurrency,
        ).feed()
        return streams

    def _stream(self, request: AnyRequest | Prepared) -> Stream:
        return Stream(request.request if isinstance(request, Prepared) else request, self._dispatcher.cancel)

    def _enter(
        self, caller: Caller, stream: Stream, given: AnyRequest | Prepared, admitted: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        request = stream.request
        if request.model not in self._models:
            there_are = ", ".join(sorted(self._models))
            stream.fail(ModelUnknown(f"no model '{cut(request.model)}'; there are: {there_are}"))
            return
        if request.id in self._scheduler.waiting or request.id in self._scheduler.running:
            stream.fail(InvalidRequest(f"a request with the id '{request.id}' is already in progress", "id"))
            return
        now = stream.submitted = time.monotonic()
        self._tell(RequestSubmitted(
            request.id, request.model, request.task, now, caller.key or "", caller.request_id, caller.trace,
        ))
        if not self._started:
            self._fail(stream, ShuttingDown("the pool is not started"))
            return
        try:
            prepared = given if isinstance(given, Prepared) else prepare(given, framed=False)
        except LllmsError as error:
            self._fail(stream, error)
            return
        self._dispatcher.look_again()
        stream.frame = prepared.frame
        self._dispatcher.waiting[request.id] = stream
        ttl = request.ttl if isinstance(request, Request | LoadRequest) else None
        now = time.monotonic()
        prefixes = prepared.prefixes
        if isinstance(request, LoadRequest) and (instance := self._scheduler.keep(request.model, ttl, now)):
            del self._dispatcher.waiting[request.id]
            stream.instance = instance  # even if all its slots are taken
            finish = Finish("stop", Usage(0, 0))
            stream.put(Delta(request.id, finish=finish))
            self._tell(RequestEnded(request.id, now, finish))
            self._dispatcher.apply(self._scheduler.tick(now))
            return
        effects = self._scheduler.submit(
            request.id, request.model, prefixes, now, ttl, admitted=admitted,
            retry=isinstance(request, LoadRequest), caller=caller,
        )
        self._dispatcher.apply(effects)
        if request.id in self._dispatcher.waiting:
            self._dispatcher.tell_wait(request.id)

    def _fail(self, stream: Stream, error: LllmsError) -> None:
        stream.fail(error)
        self._tell(RequestEnded(stream.request.id, time.monotonic(), error=error))

    def status(self) -> PoolStatus:
        """Return the loaded instances, and the counts of running and waiting requests."""
        now = time.monotonic()
        limits = self._scheduler.limits
        return PoolStatus(
            instances=tuple(self._instance_status(instance, now) for instance in self._dispatcher.instances.values()),
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            concurrency=limits.concurrency,
            queue_size=limits.queue_size,
            cores=limits.cores,
            memory=None if limits.memory is None or self._far is not None else self._memory_use(limits.memory),
            places=() if self._far is None else tuple(place_statuses(self._scheduler.fleet, self._far.attendance, now)),
            spares=self._spares.statuses,
        )

    def _memory_use(self, limit: MemoryLimit) -> MemoryUse:
        around = self._watch.look()
        measured = [one.measured for one in self._scheduler.instances.values() if one.measured is not None]
        return MemoryUse(
            limit=limit.total,
            used=limit.own + around.sessions + self._scheduler.seating.used,
            sessions=around.sessions,
            measured=sum(measured) if measured else None,
            available=around.available,
            devices=tuple(
                DeviceUse(name, room.total, room.limit, self._scheduler.seating.on_devices.get(name, 0), room.usable)
                for name, room in around.devices.items()
            ),
        )

    def fetches(self) -> tuple[DownloadStatus, ...]:
        """Return the fetches of weights to other places that run now."""
        return () if self._far is None else self._far.fetches.statuses

    def cancel_fetch(self, download_id: str) -> bool:
        """Cancel the fetches with this id; return whether there were any."""
        return self._far is not None and self._far.fetches.cancel(download_id)

    def lacks(self) -> tuple[Lack, ...]:
        """Return the models that have fewer instances ready than they keep, with the reasons."""
        self._dispatcher.look_again()
        now = time.monotonic()
        return tuple(
            Lack(name, self._ready(name), model.limits.min_instances, *self._why_lacking(name, now))
            for name, model in self._models.items() if self._ready(name) < model.limits.min_instances
        )

    def failed_loads(self) -> tuple[FailedLoad, ...]:
        """Return the models whose last load failed, with the causes; files that have changed since excuse theirs."""
        self._dispatcher.look_again()
        now = time.monotonic()
        return tuple(
            FailedLoad(model, last.reason, last.failed_loads, max(0.0, last.retry_at - now))
            for model, last in self._scheduler.setbacks.failed_loads().items()
        )

    def _ready(self, model: str) -> int:
        return sum(entry.state == "ready" for entry in self._scheduler.fleet.alive(model))

    def _why_lacking(self, model: str, now: float) -> tuple[str, float | None]:
        if too_large := self._scheduler.seating.too_large(model):
            return too_large, None
        setback = self._scheduler.setbacks.get(model)
        at = self._scheduler.retry_at(model)
        return "" if setback is None else setback.reason, None if at is None else max(0.0, at - now)

    async def unload(self, model: str) -> None:
        """Unload the instances of a model beyond its `min_instances`; busy ones, once they are idle.

        Returns when the idle ones are gone.
        """
        self._dispatcher.apply(self._scheduler.unload(model, time.monotonic()))
        while any(one.state == "closing" for one in self._scheduler.fleet.all(model)):
            await self._dispatcher.change()

    def planned(self, model: str, spec: ModelSpec) -> ModelSpec:
        """Return the spec with the memory that an instance gets for its automatic sizes if there is room.

        May read the file's header; in any thread. Raises `ModelUnknown` if it is not served any more.
        """
        known = self._models.get(model)
        if known is None:
            raise ModelUnknown(f"model '{model}' was removed from the configuration")
        if self._far is not None:
            needs = self._needs_elsewhere(known, spec)
            return evolve(spec, memory=max(needs, key=lambda one: one[0].memory or 0)[1].memory) if needs else spec
        limit = self._scheduler.limits.memory
        devices = NO_DEVICES if limit is None else self._watch.devices.find()
        alone, free = len(self._models) == 1, free_of(self._watch.devices.rooms)
        return planned(known, spec, limit, alone=alone, devices=devices, free=free)

    def misfit(self, model: str, spec: ModelSpec) -> str:
        """Return why an instance of a model can never be loaded for lack of memory; "" if it can, as far as known.

        May read the file's header; in any thread.
        """
        limit, known = self._scheduler.limits.memory, self._models.get(model)
        if known is None:
            return ""
        if self._far is not None:
            return fits_nowhere([(place, need.least) for place, need in self._needs_elsewhere(known, spec)])
        if limit is None:
            return ""
        watch = self._watch.devices
        alone = len(self._models) == 1
        devices = watch.find()
        need = need_of(
            known, spec, limit.instances, alone=alone, devices=devices, free=free_of(watch.rooms),
        )
        return never_fits(need.least, limit, watch.rooms)

    def _needs_elsewhere(self, model: PoolModel, spec: ModelSpec) -> Sequence[tuple[PlaceEntry, Need]]:
        """Return a place of each kind, and what an instance needs there."""
        alone, fleet = len(self._models) == 1, self._scheduler.fleet
        places = [fleet.places.get(place) for place in fleet.kinds.values()]
        return [
            (place, need_of(
                model, evolve(spec, devices=place.place.devices), place.memory, alone=alone,
                devices=limits_on(place.devices),
            ))
            for place in places if place is not None
        ]

    def position(self, request_id: str) -> int | None:
        """Return the place of a waiting request in the order of service, 1 is next; None if it does not wait."""
        return self._scheduler.positions(time.monotonic()).get(request_id)

    def waiting(self, request_id: str) -> Waiting | None:
        """Return why a request has no answer yet; None if its answer has begun, or if it has ended."""
        if (ticket := self._scheduler.waiting.get(request_id)) is not None:
            return waiting(
                self._scheduler, ticket, self.position(request_id), self._dispatcher, time.monotonic(),
            )
        ticket = self._scheduler.running.get(request_id)
        instance = None if ticket is None else self._dispatcher.instances.get(ticket.instance or "")
        return None if instance is None else instance.waiting(request_id)

    def requests(self) -> tuple[RequestStatus, ...]:
        """Return the running requests, then the waiting ones in the order of their arrival."""
        now = time.monotonic()
        running = [one for instance in self._dispatcher.instances.values() for one in instance.requests(now)]
        queued = []
        for request_id, stream in self._dispatcher.waiting.items():
            request, why = stream.request, self.waiting(request_id)
            if why is not None:
                queued.append(RequestStatus(
                    request_id, request.model, request.task, why.state, now - stream.submitted, waiting=why,
                ))
        return (*running, *queued)

    def cancel(self, request_id: str) -> bool:
        """Cancel a waiting or running request: its answer ends with `RequestCancelled`. Return whether it existed."""
        stream = self._dispatcher.stream(request_id)
        if stream is None or stream.ended:
            return False
        self._dispatcher.cancel(stream)
        stream.fail(RequestCancelled(f"the request {request_id} was cancelled"))
        return True

    def info(self, model: str) -> ModelInfo | None:
        """What an instance of this model reported when it was last loaded; None if it never was."""
        return self._dispatcher.infos.get(model)

    async def survey(
        self, model: str | None, forget: Sequence[bytes] = (), *, everything: bool = False,
    ) -> Sequence[tuple[str, str, Sequence[HeldConversation]]]:
        """Return instance, model and conversations of each instance, and forget as `Instance.survey` does.

        Asks the instances of one model, or of all. When this returns, the keeper has every session that they put
        before, even from an instance that is being unloaded.
        """
        asked = [
            instance for instance in self._dispatcher.instances.values()
            if instance.info is not None and model in {None, instance.model}
        ]
        answers = await asyncio.gather(*(one.survey(forget, everything=everything) for one in asked))
        return [
            (instance.id, instance.model, answer.held)
            for instance, answer in zip(asked, answers, strict=True) if answer is not None
        ]

    def stop(self) -> None:
        """Refuse the waiting requests and all that come; the running ones go on. Safe to call again."""
        self._dispatcher.stop()

    async def close(self, grace: float) -> None:
        """Refuse waiting requests, give running ones `grace` seconds to finish, then end everything."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._scheduler.running:
                    await self._dispatcher.change()
        for instance in self._dispatcher.instances.values():
            instance.fail_running(ShuttingDown("the server is shutting down"))
            instance.close()
        while self._dispatcher.instances:
            await self._dispatcher.change()
        await self._spares.close()
        if self._far is not None:
            await self._far.close()
        if self._keeper is not None:
            await self._keeper.close(STORE_SECONDS)
        await self._watch.close()

    def _instance_status(self, instance: Instance, now: float) -> InstanceStatus:
        entry = self._scheduler.instances[instance.id]
        limited = self._scheduler.limits.memory is not None
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
            fingerprint=instance.footprint.fingerprint,
            replaced=instance.footprint.replaced,
            retired=entry.retired,
            info=instance.info,
            memory=entry.told.total if limited else None,
            measured=None if entry.measured is None else entry.measured + entry.told.shared,
            grown=entry.grown,
            load_seconds=instance.load_seconds,
            load_timeout=instance.limits.load,
            watchdog=instance.limits.watchdog,
            ttl=self._scheduler.idle_limit(entry),
            place=instance.place,
            devices=entry.told.devices,
        )


def _limits(model: PoolModel) -> ModelLimits:
    return evolve(model.limits, files=model.has_files)


def limits_of(server: ServerConfig, models: Mapping[str, PoolModel]) -> PoolLimits:
    """Return the limits of a pool with these models."""
    spares = spare_workers(server, models.values())
    return PoolLimits(
        server.concurrency, server.queue_size, server.queue_timeout, server.max_instances, available_cores(),
        memory_limit(server, spares), server.max_wait_before_swap, server.min_residency, server.gpu_memory_limit,
        spares,
    )


def _instance_id(model: str) -> str:
    return f"{model}:{''.join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))}"

