"""The dispatcher: carries out what the scheduler decides, with workers, streams and the clock."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from attrs import evolve

from lllms_core.answers import Stream
from lllms_core.errors import DownloadCancelled, EngineDied, LllmsError, ModelLoadFailed, RequestCancelled
from lllms_core.events import (
    FilesBegun,
    FilesEnded,
    InstanceDied,
    LoadBegun,
    LoadEnded,
    Observer,
    PlaceDeparted,
    RequestAssigned,
    RequestEnded,
    RequestRequeued,
    RequestsWait,
    UnloadBegun,
)
from lllms_core.placements import LOCAL, Place
from lllms_core.pool.budget import DeviceRoom, Need
from lllms_core.pool.devices import free_of, limits_of
from lllms_core.pool.effects import Assign, Effect, Measure, Prepare, Refuse, ShareCores, ShrinkSessions, Start, Stop
from lllms_core.pool.far_places import FarPlaces
from lllms_core.pool.fleet import rough
from lllms_core.pool.instance import Instance, Patience
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.load_files import LoadFiles, identified
from lllms_core.pool.memory_watch import MEASURE_SECONDS, MemoryWatch
from lllms_core.pool.models import PoolModel
from lllms_core.pool.needs import WORKER, need_of
from lllms_core.pool.prepared import unsendable
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.spares import Spares
from lllms_core.pool.state import InstanceEntry, PoolChange, Ticket
from lllms_core.pool.waits import waiting
from lllms_core.status import DownloadStatus, InstanceState
from lllms_core.tracebacks import described
from lllms_core.types import ModelInfo
from lllms_core.values.sizes import human_size
from lllms_core.worker.wire import FindSession, Load, PutSession, SessionTerms

if TYPE_CHECKING:
    from lllms_core.footprint import Footprint

LOG = logging.getLogger("lllms.pool")


def _present(model: PoolModel) -> PoolModel | None:
    """Return a model with the file to load, as it is here now; None if it is missing."""
    if model.files is None:
        return model
    file = model.files.find()
    return None if file is None else evolve(model, spec=evolve(model.spec, file=file))


class Dispatcher:
    """Carries out the scheduler's effects, and reports to it what happens to instances and requests."""

    def __init__(
        self, models: Mapping[str, PoolModel], scheduler: Scheduler, spares: Spares, patience: Patience,
        *, keeper: SessionKeeper | None, watch: MemoryWatch, observer: Observer, far: FarPlaces | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.tell = observer
        self.instances: dict[str, Instance] = {}
        self.waiting: dict[str, Stream] = {}
        """By request id, in the order of their arrival."""
        self.infos: dict[str, ModelInfo] = {}
        """By model: the report of the instance that was loaded last."""
        self._models = models
        self._spares = spares
        spares.changed = lambda: self.apply([])
        self._patience = patience
        self._keeper = keeper
        self._watch = watch
        self._far = far
        if far is not None:
            far.arrived, far.departed = self._place_arrived, self._place_departed
        self._weighing: asyncio.TimerHandle | None = None
        self._shrinking: set[asyncio.Task[None]] = set()
        self._preparing: dict[tuple[str, str], asyncio.Task[None]] = {}
        """By model and place."""
        self._measuring: set[asyncio.Task[None]] = set()
        self._changes = 0
        """Counts the configurations: what was measured for a former one counts no more."""
        self._tried: dict[str, Footprint] = {}
        """By model: the files of its last failed load."""
        self._fingerprints: dict[str, str] = {}
        """By model: of the files that were measured."""
        self._finding: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._effects: deque[Effect] = deque()
        self._applying = False

    def stop(self) -> None:
        """Refuse the waiting requests, and begin nothing more."""
        self._spares.stop()
        self.apply(self.scheduler.stop())
        for timer in (self._timer, self._weighing):
            if timer is not None:
                timer.cancel()
        for task in (*self._preparing.values(), *self._measuring):
            task.cancel()

    def reconfigure(self, change: PoolChange) -> None:
        """Take a new configuration: see `Scheduler.reconfigure`. The table of models has its models by now."""
        self._changes += 1
        gone = {*self.infos, *self._tried, *self._fingerprints, *(model for model, _ in self._preparing)}
        for model in {model for model in gone if model in change.fresh or model not in change.models}:
            for known in (self.infos, self._tried, self._fingerprints):
                known.pop(model, None)
            if self._far is not None:
                self._far.forget(model)
            for key in [key for key in self._preparing if key[0] == model]:
                self._preparing.pop(key).cancel()
        self.apply(self.scheduler.reconfigure(change, time.monotonic()))

    # -- effects ------------------------------------------------------------------------------------------------------

    def apply(self, effects: list[Effect]) -> None:
        """Carry out each effect, and those that follow from it, even if others fail."""
        self._effects.extend(effects)
        if self._applying:
            return
        self._applying = True
        changed = False
        try:
            while self._effects:
                effect = self._effects.popleft()
                changed = changed or isinstance(effect, Start | Stop | Prepare)
                try:
                    self._carry_out(effect)
                except Exception as error:
                    LOG.exception("%s could not be carried out", type(effect).__name__)
                    self._undo(effect, error)
        finally:
            self._applying = False
        if changed:
            self._tell_waits()
        self._watch.leave(self.scheduler.seating.left)
        self._settle_spares()
        self._set_timer()
        self._changed.set()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Start():
                self._start_instance(effect)
            case Prepare(model, place):
                self._prepare(model, place)
            case Measure():
                self._measure(effect)
            case ShrinkSessions(size):
                self._shrink_sessions(size)
            case Assign(ticket, instance):
                self._assign(ticket, self.instances[instance])
            case Refuse(ticket, refusal):
                self._refuse(ticket, refusal)
            case Stop():
                self._stop_instance(effect)
            case ShareCores(instance, count) if instance in self.instances:
                self.instances[instance].use_threads(count)

    def _undo(self, effect: Effect, error: Exception) -> None:
        """Tell the scheduler that an effect failed."""
        match effect:
            case Start(instance):
                self.instances.pop(instance, None)
                self.apply(self.scheduler.gone(instance, f"{type(error).__name__}: {error}", time.monotonic()))
            case Prepare(model, place):
                failed = ModelLoadFailed(f"could not fetch the files of model '{model}': {error}")
                self.apply(self.scheduler.unprepared(model, failed, time.monotonic(), place))
            case Measure():
                self._measured(effect, Need(WORKER))  # a load will tell what is wrong
            case ShrinkSessions():
                self.apply(self.scheduler.shrunk(time.monotonic(), enough=False))

    def _assign(self, ticket: str, instance: Instance) -> None:
        stream = self.waiting.pop(ticket)
        try:
            instance.run(stream)
        except Exception as error:  # noqa: BLE001  # whatever the cause, the slot must be freed
            LOG.warning("%s: a request could not be sent: %s", instance.id, type(error).__name__)
            refusal = unsendable(error)
            stream.fail(refusal)
            self.tell(RequestEnded(ticket, time.monotonic(), error=refusal))
            self.apply(self.scheduler.finished(ticket, time.monotonic()))
        else:
            self.tell(RequestAssigned(ticket, instance.id, time.monotonic(), instance.place))

    def _refuse(self, ticket: str, refusal: LllmsError) -> None:
        self.waiting.pop(ticket).fail(refusal)
        self.tell(RequestEnded(ticket, time.monotonic(), error=refusal))

    def _stop_instance(self, stop: Stop) -> None:
        instance = self.instances.get(stop.instance)
        if instance is None:
            return  # its load has not begun, and the scheduler is about to learn that it will not
        why = {
            "idle": "", "room": f" to make room for {stop.room_for}",
            "grown": ", because all instances together have grown above the memory limit",
            "changed": ", because the configuration has changed",
        }
        LOG.info("unloading %s%s", instance.label, why[stop.cause])
        self.tell(UnloadBegun(instance.id, instance.model, stop.cause, time.monotonic(), stop.room_for))
        instance.close()

    def tell_wait(self, request_id: str) -> None:
        """Tell what a waiting request waits for; nothing if it has a slot that it is about to get."""
        if (ticket := self.scheduler.waiting.get(request_id)) is not None:
            self._tell_wait(ticket, request_id)

    def fetch_of(self, model: str) -> DownloadStatus | None:
        """Return the fetch of a model's weights to another place that is the furthest; None if none runs."""
        if self._far is None or model not in self._models:
            return None
        return self._far.fetches.of(self._models[model].source)

    def load_progress(self, instance_id: str) -> float:
        """Return how much of an instance's load is done; one whose files have changed is not being loaded, for now."""
        instance = self.instances.get(instance_id)
        return 0.0 if instance is None else instance.progress

    def _tell_waits(self) -> None:
        """Tell what the requests for each model wait for, since instances have changed."""
        firsts = {ticket.model: ticket for ticket in reversed([*self.scheduler.waiting.values()])}
        for ticket in firsts.values():
            self._tell_wait(ticket, None)

    def _tell_wait(self, ticket: Ticket, request_id: str | None) -> None:
        now = time.monotonic()
        known = waiting(self.scheduler, ticket, None, self, now)
        self.tell(RequestsWait(ticket.model, known.state, known.reason, now, request_id))

    def _prepare(self, model: str, place: str) -> None:
        """Fetch the files of a model to this machine, or find them at another place, or fetch them there."""
        entry, far = self._models[model], self._far
        begun = False

        def begin() -> None:
            nonlocal begun
            begun = True
            self.tell(FilesBegun(model, time.monotonic()))

        async def get() -> bool:
            """Return whether this machine has the files."""
            if place == LOCAL or far is None:
                assert entry.files is not None  # noqa: S101  # only models with files are absent
                begin()
                await entry.files.get()
            elif (present := _present(entry)) is None:
                return False
            else:
                await far.prepare(model, place, LoadFiles.of(present, present.spec), begin)
            return True

        def end(result: Literal["done", "failed", "cancelled"]) -> None:
            if begun:
                self.tell(FilesEnded(model, result, time.monotonic()))

        async def prepare() -> None:
            try:
                here = await get()
            except asyncio.CancelledError:
                end("cancelled")
                raise
            except Exception as error:  # noqa: BLE001  # else it would be fetched forever
                failure = error if isinstance(error, LllmsError) else ModelLoadFailed(described(error))
                cancelled = isinstance(failure, DownloadCancelled)
                level = logging.INFO if cancelled else logging.ERROR
                LOG.log(level, "could not fetch the files of %s: %s", model, failure)
                end("cancelled" if cancelled else "failed")
                del self._preparing[model, place]
                self.apply(self.scheduler.unprepared(model, failure, time.monotonic(), place))
            else:
                end("done")
                del self._preparing[model, place]
                now = time.monotonic()
                told = self.scheduler.prepared if here else self.scheduler.vanished
                self.apply(told(model, now, place))

        self._preparing[model, place] = asyncio.create_task(prepare())

    def _measure(self, asked: Measure) -> None:
        model = asked.model
        entry = self._models[model]
        spec = (_present(entry) or entry).spec
        self._fingerprints[model] = entry.look(spec.file).fingerprint
        change = self._changes
        place = self.scheduler.fleet.places[asked.place]
        alone = len(self._models) == 1

        def look() -> Need:
            if place.id == LOCAL:
                devices = self._watch.devices.find()
                free = free_of(self._watch.devices.rooms)
                return need_of(entry, spec, place.memory, alone=alone, devices=devices, free=free)
            there = evolve(spec, devices=place.place.devices)
            return need_of(
                entry, there, rough(place.memory), alone=alone, devices=limits_of(place.devices), memory=asked.memory,
            )

        async def measure() -> None:
            need = await asyncio.to_thread(look)
            if change == self._changes:
                self._measured(asked, need)

        task = asyncio.create_task(measure())
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)

    def _measured(self, asked: Measure, need: Need) -> None:
        model = asked.model
        engine, fingerprint = self._models[model].engine.name, self._fingerprints.get(model, "")
        for size in (*need.smaller, need):
            learnt = self._watch.known(engine, model, fingerprint, size.told)
            self.scheduler.seating.learn(model, size.told, learnt.private, learnt.load_seconds)
        self.apply(self.scheduler.measured(model, need, time.monotonic(), asked.place, asked.memory))
        self._tell_waits()

    def _starved(self, instance: Instance, entry: InstanceEntry) -> None:
        """Learn from a worker that died for lack of memory: it needs more than it was told to."""
        private = self.scheduler.seating.after_death(entry)
        again = "; its load is tried once more" if entry.state == "loading" and not entry.again else ""
        if self.scheduler.limits.memory is not None and entry.model not in self.scheduler.seating.fixed:
            LOG.warning("%s counts for %s of memory from now on%s", entry.model, human_size(private), again)
        self._watch.learn(self._models[entry.model].engine.name, instance, entry.told.told, private)
        self._watch.save_now()

    def _shrink_sessions(self, size: int) -> None:
        async def shrink() -> None:
            enough = await self._watch.shrink_sessions(size)
            self.apply(self.scheduler.shrunk(time.monotonic(), enough=enough))

        task = asyncio.create_task(shrink())
        self._shrinking.add(task)
        task.add_done_callback(self._shrinking.discard)

    def _weigh(self, instance: Instance, load_seconds: float | None = None) -> None:
        """Measure the memory of an instance, if that is due, and learn from it."""
        private = self._watch.measure(instance)
        if private is None and load_seconds is None:
            return
        entry = self.scheduler.instances[instance.id]
        if entry.retired:  # what it takes counts, but says nothing of its model's next instances
            if private is not None:
                self.apply(self.scheduler.takes(instance.id, private, time.monotonic()))
            return
        told = entry.told.told
        learnt = self._watch.learn(self._models[entry.model].engine.name, instance, told, private or 0, load_seconds)
        if instance.footprint.fingerprint == self._fingerprints.get(entry.model):
            self.scheduler.seating.learn(entry.model, told, learnt.private, learnt.load_seconds)
        if private is not None:
            self.apply(self.scheduler.takes(instance.id, private, time.monotonic()))
            self._watch.report_growth(entry)

    def _weigh_all(self) -> None:
        self._weighing = None
        for instance in list(self.instances.values()):
            self._weigh(instance)
        self._weigh_later()

    def _weigh_later(self) -> None:
        if self._weighing is None and self.instances and not self.scheduler.stopping:
            self._weighing = asyncio.get_running_loop().call_later(MEASURE_SECONDS, self._weigh_all)

    def _lost(self, instance_id: str) -> None:
        """The files of an instance that was about to be loaded have disappeared."""
        if instance_id in self.scheduler.instances:
            self.apply(self.scheduler.lost(instance_id, time.monotonic()))

    def _outdated(self, instance_id: str) -> None:
        """The files of an instance that was about to be loaded are others than those that were measured."""
        if instance_id in self.scheduler.instances:
            self.apply(self.scheduler.outdated(instance_id, time.monotonic()))

    def _start_instance(self, start: Start) -> None:
        instance_id, model = start.instance, start.model
        entry = _present(self._models[model])
        if entry is None:
            asyncio.get_running_loop().call_soon(self._lost, instance_id)
            return
        footprint, files = entry.look(entry.spec.file), LoadFiles.of(entry, entry.spec)
        far = None if start.place == LOCAL else self._far
        spec = identified(files, entry.spec) if far is None else far.moved(entry.spec, start.place, files)
        if spec is None or self._fingerprints.get(model, footprint.fingerprint) != footprint.fingerprint:
            asyncio.get_running_loop().call_soon(self._outdated, instance_id)
            return
        terms = None
        if self._keeper is not None and entry.sessions:
            limits = self._keeper.limits
            terms = SessionTerms(limits.min_tokens, limits.max_size, limits.waiting)
        spec = evolve(spec, threads=start.threads, memory=start.memory, device_memory=start.device_memory)
        load = Load(entry.engine, spec, terms)
        patience = evolve(self._patience, load=entry.limits.load_timeout, watchdog=entry.limits.watchdog)
        known = self.scheduler.fleet.places.get(start.place)
        place = "" if start.place == LOCAL or known is None else known.place.name
        instance = Instance(instance_id, model, self, patience, footprint, place=place)
        self.instances[instance_id] = instance
        LOG.info("loading %s", instance.label)
        self.tell(LoadBegun(instance_id, model, time.monotonic(), place))
        if far is None:
            instance.start(self._spares.start(load, entry.isolation, instance))
        else:
            instance.start(far.start(load, start.place, instance))

    def _settle_spares(self) -> None:
        """Keep as many spare workers as wanted, while they are not in the way."""
        fleet = self.scheduler.fleet
        waiting = self.scheduler.queue.models if fleet.closing else ()
        self._spares.settle(
            time.monotonic(), loading=fleet.loading > 0, running=bool(self.scheduler.running),
            awaited=[self._models[one].engine.name for one in waiting if not self.scheduler.seating.alive(one)],
        )

    def _set_timer(self) -> None:
        """Wake the scheduler when the next time limit is reached."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = min((at for at in (self.scheduler.wake_at(), self._spares.wake_at) if at is not None), default=None)
        if at is not None:
            delay = max(0.0, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self.apply(self.scheduler.tick(time.monotonic()))

    async def change(self) -> None:
        """Wait until something in the pool has changed."""
        self._changed.clear()
        await self._changed.wait()

    def stream(self, request_id: str) -> Stream | None:
        """Return the stream of a waiting or running request; None for any other."""
        found = self.waiting.get(request_id)
        if found is None and (ticket := self.scheduler.running.get(request_id)) is not None:
            instance = self.instances.get(ticket.instance or "")
            found = None if instance is None else instance.stream(request_id)
        return found

    def look_again(self) -> None:
        """Forget the failed loads of models whose files have been changed since."""
        for model in self.scheduler.setbacks.failed_loads():
            if model in self._tried and self._tried[model].replaced:
                LOG.info("the files of %s have changed since it could not be loaded; it will be tried again", model)
                del self._tried[model]
                self.apply(self.scheduler.forgive(model, time.monotonic()))

    def cancel(self, stream: Stream) -> None:
        """A stream was closed before its end."""
        request = stream.request
        if self.waiting.pop(request.id, None) is not None:
            left = RequestCancelled(f"the request {request.id} was cancelled while it waited")
            self.tell(RequestEnded(request.id, time.monotonic(), error=left))
            self.apply(self.scheduler.leave(request.id, time.monotonic()))
        elif stream.instance is not None and stream.instance in self.instances:
            self.instances[stream.instance].cancel(request.id)

    # -- callbacks of instances (Owner) -------------------------------------------------------------------------------

    def loaded(self, instance: Instance, info: ModelInfo) -> None:
        """An instance is ready."""
        if self.scheduler.instances[instance.id].retired:
            return  # it is being ended
        LOG.info("loaded %s: %d slots of %d tokens", instance.label, info.slots, info.context_length)
        self.infos[instance.model] = info
        self.tell(LoadEnded(
            instance.id, instance.model, instance.load_seconds, time.monotonic(), place=instance.place,
        ))
        self.apply(self.scheduler.loaded(instance.id, info.slots, time.monotonic()))
        self._weigh(instance, instance.load_seconds)
        self._weigh_later()

    def finished(self, request_id: str) -> None:
        """A request has left its slot."""
        instance = self.scheduler.running[request_id].instance
        self.apply(self.scheduler.finished(request_id, time.monotonic()))
        if instance in self.instances:
            self._weigh(self.instances[instance])

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
        entry, now = self.scheduler.instances[instance.id], time.monotonic()
        if instance.place and instance.place not in reason:
            reason = f"{reason} (at {instance.place})"
        state, stopping = entry.state, self.scheduler.stopping
        starved = instance.starved and state != "closing" and not entry.retired and not stopping
        if starved:
            self._starved(instance, entry)
        del self.instances[instance.id]
        self._watch.forget(instance)
        if instance.lost and not stopping:
            LOG.error("%s is lost with its place: %s", instance.id, reason)
            effects = self.scheduler.lost_with_place(instance.id, now, instance.unanswered)
            self._lose({instance: state}, effects, reason)
            return
        effects = self.scheduler.gone(instance.id, reason, now, starved=starved)
        if not stopping:
            self._tell_end(instance, state, reason)
        if state == "closing" or stopping:
            LOG.info("unloaded %s", instance.label)
        elif state == "loading":
            self._tried[instance.model] = instance.footprint
            last = self.scheduler.setbacks.cooling(instance.model, now)
            LOG.error(
                "%s cannot be loaded: %s; next try %s", instance.id, reason,
                "at once" if last is None else
                f"in {last.retry_at - now:.0f} s (`lllms load {instance.model}` tries at once)",
            )
        else:
            LOG.error("%s died: %s", instance.id, reason)
        self.apply(effects)
        # Only after the scheduler has forgotten it: requests that these ends make room for must not be assigned to it.
        instance.fail_running(EngineDied(f"model '{instance.model}' failed while it worked on this request: {reason}"))

    # -- callbacks of places ------------------------------------------------------------------------------------------

    def _place_arrived(self, place: Place, devices: Mapping[str, DeviceRoom]) -> None:
        self.apply(self.scheduler.there(place, time.monotonic(), devices))

    def _place_departed(self, place: str, reason: str) -> None:
        for key in [key for key in self._preparing if key[1] == place]:
            self._preparing.pop(key).cancel()
        entries = self.scheduler.instances
        lost = {one: entries[one.id].state for one in self.instances.values() if entries[one.id].place == place}
        for instance in lost:
            del self.instances[instance.id]
        unanswered = {request for instance in lost for request in instance.unanswered}
        known = self.scheduler.fleet.places.get(place)
        effects = self.scheduler.departed(place, time.monotonic(), unanswered)
        if known is not None:
            self.tell(PlaceDeparted(known.place.name, reason, time.monotonic()))
        self._lose(lost, effects, reason)

    def _lose(self, lost: Mapping[Instance, InstanceState], effects: list[Effect], reason: str) -> None:
        """Give up lost instances, with their last states, and hand the scheduler back what it has queued anew."""
        for instance, state in lost.items():
            self._watch.forget(instance)
            self._tell_end(instance, state, reason)
            for request_id in instance.unanswered & self.scheduler.waiting.keys():
                self.waiting[request_id] = instance.release(request_id)
                self.tell(RequestRequeued(request_id, instance.model, reason, time.monotonic()))
        self.apply(effects)
        for instance in lost:
            instance.abandon()
            instance.fail_running(EngineDied(f"model '{instance.model}' ended during this request: {reason}"))

    def _tell_end(self, instance: Instance, state: InstanceState, reason: str) -> None:
        """Tell of an end that nobody asked for: of a load or of a loaded instance; an unload has been told."""
        now = time.monotonic()
        if state == "loading":
            self.tell(LoadEnded(instance.id, instance.model, instance.load_seconds, now, reason, instance.place))
        elif state != "closing":
            self.tell(InstanceDied(instance.id, instance.model, now))
