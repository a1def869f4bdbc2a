"""Spare workers: processes that have imported an engine's libraries before a model needs them."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from attrs import define, field

from lllms_core.engines import Engine
from lllms_core.errors import LllmsError, ModelLoadFailed
from lllms_core.pool.setbacks import Setbacks
from lllms_core.status import SpareStatus
from lllms_core.tracebacks import kind
from lllms_core.types import Isolation
from lllms_core.worker.handle import Worker, WorkerEvents
from lllms_core.worker.launch import Launch
from lllms_core.worker.process import ProcessWorker
from lllms_core.worker.start import StartWorker, start_worker
from lllms_core.worker.wire import FromWorker, Load, LoadFailed, Warmed

LOG = logging.getLogger("lllms.pool")

CALM = 2.0
"""Seconds after a load in which a new spare waits for the running requests to end; then it starts beside them, with the
lowest priority."""


def allot(count: int, engines: Sequence[str]) -> Counter[str]:
    """Return how many of `count` spares each engine gets: first one each in their order, then more in turns."""
    return Counter(engines[place % len(engines)] for place in range(count if engines else 0))


@define(eq=False)
class Spare:
    """A process that waits for a model, or is on the way there. It is also the receiver of its events."""

    engine: Engine
    launch: Launch
    quiet: bool
    """Whether it prepares itself with the lowest priority."""
    changed: Callable[["Spare"], None]
    """Called when it is ready, has failed to get ready (`reason`), or is gone."""
    worker: ProcessWorker | None = None
    starting: asyncio.Task[None] | None = None
    ready_at: float | None = None
    reason: str = ""
    gone: asyncio.Event = field(factory=asyncio.Event)

    @property
    def usable(self) -> bool:
        """Whether a load by it begins no later than by a new process: a quiet one may take long until it is ready."""
        return self.ready_at is not None or not self.quiet

    def message(self, message: FromWorker) -> None:
        """Note that it is ready, or why it will end."""
        match message:
            case Warmed(""):
                self.ready_at = time.monotonic()
                self.changed(self)
            case Warmed(reason):
                self.reason = reason
                self.changed(self)
            case LoadFailed(reason):
                self.reason = reason

    def ended(self, reason: str) -> None:
        """The process is gone."""
        self.reason = self.reason or reason
        self.gone.set()
        self.changed(self)


class Spares:
    """Keeps `count` spares for the engines used last, and starts workers, by a spare if there is a fitting one."""

    def __init__(self, count: int, engines: Sequence[Engine], start: StartWorker = start_worker) -> None:
        """Keep none before the first `settle`. `engines` are those that models may use, the likeliest first."""
        self._start = start
        self._engines: dict[str, Engine] = {}
        self._order: list[str] = []
        self._count = 0
        self._spares: list[Spare] = []
        self._leaving: set[Spare] = set()
        self._loading: set[ProcessWorker] = set()
        """Former spares that have yet to take their models."""
        self._setbacks = Setbacks()
        self._told: dict[str, str] = {}
        """By engine: the last failure that was logged."""
        self._loaded_at = 0.0
        self._closed = False
        self.wake_at: float | None = None
        """When `settle` is due although nothing has happened."""
        self.changed: Callable[[], None] = lambda: None
        """Called when `settle` is due because of a spare."""
        self.reconfigure(count, engines)

    def reconfigure(self, count: int, engines: Sequence[Engine]) -> None:
        """Keep this many from the next `settle` on, for these engines; those used last stay the likeliest."""
        # The main script, imported anew for a spare, might do more than define an engine.
        self._engines = {engine.name: engine for engine in engines if type(engine).__module__ != "__main__"}
        kept = [name for name in self._order if name in self._engines]
        self._order = [*kept, *(name for name in self._engines if name not in kept)]
        self._count = count if self._engines else 0

    @property
    def pids(self) -> list[int]:
        """The processes of the spares that are ready."""
        return [one.worker.pid for one in self._spares if one.worker and one.worker.pid and one.ready_at is not None]

    @property
    def statuses(self) -> tuple[SpareStatus, ...]:
        """The spares, also those that are not ready yet."""
        return tuple(
            SpareStatus(one.engine.name, one.ready_at is not None, None if one.worker is None else one.worker.pid)
            for one in self._spares
        )

    async def start(self, load: Load, isolation: Isolation, events: WorkerEvents) -> Worker:
        """Start a worker that loads a model; see `start_worker`."""
        if isolation == "process" and load.engine.name in self._engines:
            self._use(load.engine.name)
            while (worker := await self._take(load.engine)) is not None:
                self._loading.add(worker)
                try:
                    if await worker.load(load, events):
                        return worker
                except BaseException:
                    worker.kill()
                    raise
                finally:
                    self._loading.discard(worker)
                if self._closed:
                    raise ModelLoadFailed("the server is shutting down")
        return await self._start(load, isolation, events)

    def settle(self, now: float, *, loading: bool, running: bool, awaited: Sequence[str] = ()) -> None:
        """End the spares that are too many, and start missing ones, unless they would be in the way.

        `loading`, `running`: whether there are such instances and requests; `awaited`: engines of models that will be
        loaded once instances that are closing are gone. Their processes start meanwhile.
        """
        if not self._count and not self._spares:
            return
        self.wake_at = None
        for name in awaited:
            if name in self._engines:
                self._use(name)
        if loading:
            self._loaded_at = now
        if self._closed or loading:
            return
        wanted = allot(self._count, self._order)
        for spare in list(self._spares):
            if wanted[spare.engine.name] > 0:
                wanted[spare.engine.name] -= 1
            else:
                self._end(spare)
        for name in wanted.elements():
            setback = self._setbacks.get(name)
            later = [self._loaded_at + CALM] if running and name not in awaited else []
            later += [setback.retry_at] if setback is not None else []
            if later and max(later) > now:
                self.wake_at = min(max(later), self.wake_at or max(later))
            else:
                self._begin(self._engines[name], quiet=running and name not in awaited)

    def stop(self) -> None:
        """Start no more, and give up the loads that have not begun."""
        self._closed, self.wake_at = True, None
        for worker in self._loading:
            worker.kill()

    async def started(self) -> None:
        """Return once the processes of all spares have begun."""
        if starting := [spare.starting for spare in self._spares if spare.starting is not None]:
            await asyncio.wait(starting)

    async def close(self) -> None:
        """End all spares, and keep no more."""
        self.stop()
        gone = self._leaving | {*self._spares}
        for spare in list(self._spares):
            self._end(spare)
        for spare in gone:
            if spare.starting is not None:
                await asyncio.wait([spare.starting])
            if spare.worker is not None:
                await spare.gone.wait()

    def _use(self, name: str) -> None:
        if self._order[0] != name:
            self._order.remove(name)
            self._order.insert(0, name)

    async def _take(self, engine: Engine) -> ProcessWorker | None:
        """Return the process of a spare for this engine, which is none any more; None if there is no usable one."""
        while (spare := self._fitting(engine)) is not None:
            self._spares.remove(spare)
            if spare.starting is not None:
                try:
                    await asyncio.wait([spare.starting])
                except asyncio.CancelledError:
                    self._spares.append(spare)
                    raise
            if spare.worker is not None and not spare.gone.is_set():
                return spare.worker
        return None

    def _fitting(self, engine: Engine) -> Spare | None:
        """Return a spare that can load for this engine; those that are outdated end."""
        own = [spare for spare in self._spares if spare.engine.name == engine.name and spare.usable]
        launch = Launch.of(engine) if own else None
        for spare in own:
            if spare.launch != launch:
                self._end(spare)
        fitting = [spare for spare in own if spare.launch == launch]
        return min(fitting, key=lambda spare: spare.ready_at is None, default=None)

    def _begin(self, engine: Engine, *, quiet: bool) -> None:
        try:
            spare = Spare(engine, Launch.of(engine), quiet, self._changed)
        except LllmsError as error:
            self._failed(engine.name, error.message, 0.0)
            return

        async def start() -> None:
            try:
                worker = await ProcessWorker.spare(spare.launch, engine, spare, quiet=quiet)
            except Exception as error:  # noqa: BLE001  # whatever the cause, loads do without it
                spare.ended(error.message if isinstance(error, LllmsError) else kind(error))
                return
            spare.worker = worker
            if spare in self._leaving:
                worker.kill()

        self._spares.append(spare)
        spare.starting = asyncio.create_task(start())

    def _end(self, spare: Spare) -> None:
        self._spares.remove(spare)
        self._leaving.add(spare)
        if spare.worker is not None:
            spare.worker.kill()

    def _changed(self, spare: Spare) -> None:
        """A spare is ready, or of no use, or gone: ended by us, or by itself."""
        if spare.gone.is_set():
            self._leaving.discard(spare)
        if spare in self._spares and spare.reason:
            if spare.gone.is_set():
                self._spares.remove(spare)
            else:
                self._end(spare)
            served = 0.0 if spare.ready_at is None else time.monotonic() - spare.ready_at
            self._failed(spare.engine.name, spare.reason, served)
            self.changed()

    def _failed(self, engine: str, reason: str, served: float) -> None:
        self._setbacks.note(engine, reason, time.monotonic(), served=served)
        repeated = self._told.get(engine) == reason
        self._told[engine] = reason
        LOG.log(
            logging.DEBUG if repeated else logging.INFO,
            "a spare worker of engine '%s' has ended, so loads take longer: %s", engine, reason,
        )
