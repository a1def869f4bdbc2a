"""Every decision of the pool: which request runs where, and what to load and unload. No clock, no processes, no waits.

Each method takes an event and its time, and returns the effects to carry out. The rules, in order:

1. the request whose turn it is (`queue`) goes to the instance of its model that has a free slot and knows most of its
   conversation; requests for a model with an instance do not wait for those without;
2. for a model without an instance one is loaded, and more for a model whose slots are full, up to the model's
   `max_instances`: one at a time, or at several places one at each, but no more at once than are ready;
3. if there is no place or no memory for it, stored sessions in memory are given up, then idle instances of other models
   are unloaded: the cheapest set that suffices (`budget`); memory that other programs hold is waited for, and looked
   for every few seconds;
4. if they do not suffice and the model has no instance, the instances that got their last requests longest ago are
   drained: they take no requests until they are idle, and the room that they leave is promised. But an instance serves
   its own requests first, for a bounded time (`residency`): that saves swaps, and nobody starves;
5. a model whose files are missing takes no place; its requests wait until the files have arrived or failed to. The same
   holds for each place of a placement: its files are found or fetched there before anything makes room, and if that
   fails another place is tried;
6. no request waits for more than `queue_timeout` seconds, or its own limit.

Each place has its own memory, cores, GPUs and `max_instances`. A new instance goes to a place with room: first to one
that has its file, then to the one with most memory left. What is lost with a place is no failure of its model.

`Placing` carries these out; here are the events, and what time brings.

The instances that a model keeps (`min_instances`) are loaded without a request. After a failure they are loaded again,
after a pause that grows with each consecutive failure (`Setbacks`); their places stay reserved meanwhile. After a
failed load any model cools down: while it has no instance, its requests are refused at once, with the cause. For models
that are not kept each death ends at least one request, so they are loaded no more often than requests arrive. Only a
load that fails for lack of memory is tried once more, with a larger need, before its requests are refused.

Instances that take more memory than they were told to count for that. If that exceeds the limit, idle ones are unloaded
and nothing is loaded; busy ones are never harmed.
"""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import copy

from lllms_core.caller import NOBODY, Caller
from lllms_core.errors import (
    DownloadCancelled,
    DownloadError,
    InvalidSource,
    LllmsError,
    PlaceLost,
    ShuttingDown,
    WrongFile,
)
from lllms_core.placements import LOCAL, Place
from lllms_core.pool.budget import Admit, DeviceRoom, Evict, Need, Shrink, Wait
from lllms_core.pool.durations import Durations
from lllms_core.pool.effects import Effect, Measure, Prepare, Refuse
from lllms_core.pool.expiring import Expiring
from lllms_core.pool.fleet import NO_DEVICES
from lllms_core.pool.known_needs import Size
from lllms_core.pool.placing import Placing
from lllms_core.pool.queue import RANKS
from lllms_core.pool.refusals import cannot_load, cooling_down, queue_full, removed, replaced, waited_too_long
from lllms_core.pool.setbacks import Setbacks
from lllms_core.pool.state import ALONE, InstanceEntry, ModelLimits, PoolChange, PoolLimits, Surroundings, Ticket

DOUBT = 5.0
"""Seconds in which a place gets no new instances after one was lost with it: by then its placement knows more."""
BARRED = 60.0
"""Seconds in which a place gets no new instances of a model whose files could not be got there, while there is another
place for it; less if the facts of the place change."""


class Scheduler:
    """The state of the pool, and the rules by which it changes."""

    def __init__(
        self,
        models: Mapping[str, ModelLimits],
        limits: PoolLimits,
        new_id: Callable[[str], str],
        absent: Collection[str] = (),
        look: Callable[[], Surroundings] = lambda: ALONE,
        *, local: bool = True,
    ) -> None:
        """Start empty. `new_id` names a new instance of a model; `absent` are the models whose files are missing.

        With `local` there is one place, this machine, and else none until one is `there`. `look` tells what else takes
        memory on this machine; with a memory limit it is asked at each decision about a load.
        """
        self._models = dict(models)
        self.placing = Placing(self._models, limits, new_id, absent, look, local=local)
        self.fleet = self.placing.fleet
        self.instances = self.fleet.instances
        self.queue = self.placing.queue
        self.seating = self.placing.seating
        self.setbacks = Setbacks()
        self.durations = Durations()
        self.preparing: set[str] = set()
        """Models whose files are being fetched."""
        self.measuring: dict[tuple[str, Size], Measure] = {}
        """The needs of models that are being found out."""
        self.stopping = False
        self._absent = self.placing.absent
        self._failed = self.placing.failed
        self._expiring = Expiring(self.fleet, self._models, lambda model: model in self.queue.models)
        self._positions: dict[str, int] | None = None
        """Of the waiting requests; None: not known since the last event."""
        self._now = 0.0
        """The time of the last event."""

    @property
    def limits(self) -> PoolLimits:
        """The limits of the pool."""
        return self.placing.limits

    @property
    def waiting(self) -> Mapping[str, Ticket]:
        """The waiting requests by id, in the order of their arrival."""
        return self.queue.waiting

    @property
    def running(self) -> Mapping[str, Ticket]:
        """The running requests by id."""
        return self.queue.running

    # -- events -------------------------------------------------------------------------------------------------------

    def start(self, now: float, prepare: Collection[str] = ()) -> list[Effect]:
        """The pool opens: load `min_instances` of every model, and fetch the files of those in `prepare`."""
        return [*self._prepare(self._absent.intersection(prepare)), *self._look_at_all(now)]

    def add(self, model: str, limits: ModelLimits) -> None:
        """There is another model, whose files are here, and which keeps no instances."""
        self._models[model] = limits

    def reconfigure(self, change: PoolChange, now: float) -> list[Effect]:
        """There is a new configuration. Requests run to their ends where they are; the waiting ones take it.

        Those whose model is gone are refused, and those that may not fit the engine that their model has now.
        """
        gone = self._models.keys() - change.models.keys()
        self._models.clear()
        self._models.update(change.models)
        for model in gone | change.fresh:
            self.setbacks.clear(model)
        for model in gone:
            self.durations.forget(model)
        self.preparing -= gone | change.fresh
        self.measuring.clear()  # what is being measured may be out of date
        effects = self.placing.reconfigure(change)
        if self.stopping:
            return effects
        waiting = list(self.waiting.values())
        effects += self.placing.refuse(removed, (one for one in waiting if one.model in gone))
        effects += self.placing.refuse(replaced, (one for one in waiting if one.model in change.unfit))
        return [*effects, *self._prepare(self._absent & change.prepare), *self._look_at_all(now)]

    def prepared(self, model: str, now: float, place: str = LOCAL) -> list[Effect]:
        """The files of a model have arrived, on this machine or at another place."""
        if place != LOCAL:
            return self._look_at_all(now) if self.fleet.fetched(model, place, here=True) else []
        self.preparing.discard(model)
        self.fleet.forget_files(model)
        self.seating.forget(model)
        self._absent.discard(model)
        self._failed.discard(model)
        self.setbacks.clear(model)
        return self._look_at_all(now)

    def unprepared(self, model: str, error: LllmsError, now: float, place: str = LOCAL) -> list[Effect]:
        """The files of a model could not be fetched; the next request tries again, and a kept model after its pause.

        If they could not be brought to another place, they are tried at the next one first.
        """
        if place != LOCAL:
            return self._not_brought(model, error, place, now) if self.fleet.fetched(model, place) else []
        self.preparing.discard(model)
        self._failed.add(model)
        if isinstance(error, InvalidSource | WrongFile | DownloadCancelled):
            self.setbacks.give_up(model, error.message)  # a retry would fetch gigabytes for nothing, or unwanted
        else:
            least = error.retry_after if isinstance(error, DownloadError) else None
            self.setbacks.note(model, error.message, now, least=least or 0.0)
        return [*self.placing.refuse(lambda _: copy(error), self.queue.of(model)), *self._look_at_all(now)]

    def _not_brought(self, model: str, error: LllmsError, place: str, now: float) -> list[Effect]:
        if isinstance(error, PlaceLost):
            self.fleet.doubted[place] = now + DOUBT
            return self._look_at_all(now)
        if not isinstance(error, DownloadCancelled):
            self.fleet.bars[model, place] = now + BARRED, error.message
            if self.seating.may_fit(model) or model in self.fleet.fetching:
                return self._look_at_all(now)
        self._failed.add(model)
        self.fleet.unbar(model)  # the pause of the model bounds the tries from now on
        if isinstance(error, DownloadCancelled):
            self.setbacks.give_up(model, error.message)
        else:
            self.setbacks.note_load(model, error.message, now)
        effects = [] if self.seating.alive(model) else self.placing.refuse(
            lambda ticket: copy(error) if isinstance(error, DownloadCancelled) else cannot_load(ticket, error.message),
            self.queue.of(model),
        )
        return [*effects, *self._look_at_all(now)]

    def vanished(self, model: str, now: float, place: str) -> list[Effect]:
        """The files of a model, which were to be brought to a place, have disappeared from this machine."""
        if self.fleet.fetched(model, place):
            self._absent.add(model)
            self.seating.forget(model)
        return self._look_at_all(now)

    def lost(self, instance: str, now: float) -> list[Effect]:
        """An instance cannot be loaded, because the files of its model have disappeared."""
        entry = self.fleet.remove(instance)
        if not entry.retired:
            self._absent.add(entry.model)
            self.seating.forget(entry.model)
        return self._look_at_all(now)

    def outdated(self, instance: str, now: float) -> list[Effect]:
        """An instance is not loaded, because the files of its model have changed since its need was found out."""
        entry = self.fleet.remove(instance)
        if not entry.retired:
            self.seating.forget(entry.model)
            self.fleet.forget_files(entry.model)
        return self._look_at_all(now)

    def measured(
        self, model: str, need: Need, now: float, place: str = LOCAL, memory: int | None = None,
    ) -> list[Effect]:
        """The need of an instance of a model is known, for a place and all others of its kind; see `Measure`."""
        asked = Measure(model, place, memory)
        sizes = [size for (_, size), effect in self.measuring.items() if effect == asked]
        if not sizes and place in self.fleet.places:
            sizes = [Size(self.fleet.places[place].kind, memory)]
        for size in sizes:
            self.measuring.pop((model, size), None)
            self.seating.take(model, size, need, self.fleet.kinds)
        self.fleet.version += 1
        self.placing.open.add(model)
        return [*self.placing.refuse_too_large(model), *self._schedule(now)]

    def submit(
        self, ticket: str, model: str, prefixes: Sequence[Hashable], now: float, ttl: float | None = None,
        *, admitted: bool = False, retry: bool = False, caller: Caller = NOBODY,
    ) -> list[Effect]:
        """A request arrives; `prefixes` are the keys of its conversation's prefixes, shortest first.

        After it, its instance may be idle for `ttl` seconds; None: the model's `ttl`. A full queue does not refuse the
        request of a client that was already `admitted`; instead of another one it refuses the newest request of the
        client that has the most, if that has more than this `caller`. With `retry` a failed load is forgotten first.
        """
        if self.stopping:
            return [Refuse(ticket, ShuttingDown("the server is shutting down and takes no more requests"))]
        if retry:
            self.setbacks.clear(model)
        if (last := self.setbacks.cooling(model, now)) is None:
            self._failed.discard(model)
        elif not self.seating.alive(model):
            return [Refuse(ticket, cooling_down(model, last.reason, last.retry_at - now))]
        rank = RANKS[caller.priority or self._models[model].priority]
        until = now + min(self.limits.queue_timeout, math.inf if caller.patience is None else caller.patience)
        new = Ticket(
            ticket, model, prefixes, now, ttl=ttl, client=caller.client, rank=rank, patience=caller.patience,
            until=until, admitted=admitted,
        )
        self.queue.add(new)
        effects = [*self.placing.refuse_too_large(model), *self._schedule(now)]
        if ticket in self.waiting and not admitted and len(self.waiting) > self.limits.queue_size:
            refused = self.queue.last_of_largest(caller.client) or new
            effects += self.placing.refuse(lambda one: queue_full(self.limits, self._retry_after(one)), [refused])
        return effects

    def leave(self, ticket: str, now: float) -> list[Effect]:
        """A waiting request was cancelled; a running one leaves by `finished`."""
        if ticket in self.waiting:
            model = self.waiting[ticket].model
            self.queue.remove(self.waiting[ticket])
            self.placing.released(model)
        return self._schedule(now)

    def loaded(self, instance: str, slots: int, now: float) -> list[Effect]:
        """An instance is ready for requests."""
        entry = self.instances[instance]
        self.fleet.loaded(entry, slots, now)
        self.setbacks.loaded(entry.model)
        self.durations.loaded(entry.model, now - entry.load_began)
        return self._schedule(now)

    def finished(self, ticket: str, now: float) -> list[Effect]:
        """A running request has ended, however, and its slot is free."""
        entry = self.queue.end(ticket)
        if entry.model in self._models:
            self.durations.served(entry.model, now - entry.started)
        self.fleet.finish(self.instances[entry.instance or ""], ticket, now)
        return self._schedule(now)

    def takes(self, instance: str, private: int, now: float) -> list[Effect]:
        """An instance was measured to take this much private memory, in bytes."""
        return self._schedule(now) if self.seating.measured(self.instances[instance], private) else []

    def shrunk(self, now: float, *, enough: bool) -> list[Effect]:
        """Stored sessions have been given up; if not `enough`, those that are left cannot be."""
        self.placing.shrinking = False
        if not enough:
            self.seating.kept_sessions()
        return self._look_at_all(now)

    def there(self, place: Place, now: float, devices: Mapping[str, DeviceRoom] = NO_DEVICES) -> list[Effect]:
        """There is another place, or its facts have changed; `devices` are the memory of its GPUs."""
        self.fleet.arrive(place, devices)
        return self._look_at_all(now)

    def departed(self, place: str, now: float, unanswered: Collection[str] = ()) -> list[Effect]:
        """A place is gone with all its instances. That is no failure of their models; see `lost_with_place`."""
        if place not in self.fleet.places:
            return []
        for instance in list(self.fleet.places[place].instances):
            self._lose(instance, unanswered, now)
        self.fleet.depart(place)
        return self._look_at_all(now)

    def lost_with_place(self, instance: str, now: float, unanswered: Collection[str] = ()) -> list[Effect]:
        """An instance was lost because its place is, as it seems: that is no failure of its model.

        Those of its requests that are `unanswered`, of which no piece has been sent, wait once more, but only once; the
        others are forgotten. For a while the place gets no new instances.
        """
        self.fleet.doubted[self.instances[instance].place] = now + DOUBT
        self._lose(instance, unanswered, now)
        return self._look_at_all(now)

    def _lose(self, instance: str, unanswered: Collection[str], now: float) -> None:
        entry = self.fleet.remove(instance)
        for ticket in entry.running.values():
            if ticket.id in unanswered and not (ticket.requeued or entry.retired or self.stopping):
                self.queue.put_back(ticket.id, now)
            else:
                self.queue.end(ticket.id)

    def gone(self, instance: str, reason: str, now: float, *, starved: bool = False) -> list[Effect]:
        """An instance is gone: unloaded, dead, or never loaded. Its running requests are forgotten.

        `starved`: for lack of memory. Then its model counts for more; a load is tried again at once, but only once.
        """
        entry = self.fleet.remove(instance)
        for ticket in entry.running:
            self.queue.end(ticket)
        if entry.retired:  # says nothing of its model's present configuration
            return self._schedule(now)
        effects: list[Effect] = []
        if starved and entry.state != "closing":
            self.seating.learn(entry.model, entry.told.told, self.seating.after_death(entry))
            if entry.state == "loading" and not entry.again:
                self.placing.again.add(entry.model)
                return self._schedule(now)
        if entry.state != "closing":
            self._failed.add(entry.model)
        if entry.state == "ready":
            self.setbacks.note(entry.model, reason, now, served=now - entry.ready_since)
        if entry.state == "loading":
            self.setbacks.note_load(entry.model, reason, now)
            if entry.place in self.fleet.places:
                self.fleet.places[entry.place].files.discard(entry.model)  # they may be what is wrong
        if entry.state == "loading" and not self.seating.alive(entry.model):
            effects += self.placing.refuse(lambda ticket: cannot_load(ticket, reason), self.queue.of(entry.model))
        return effects + self._schedule(now)

    def keep(self, model: str, ttl: float | None, now: float) -> str | None:
        """Let the loaded instances of a model be idle for `ttl` seconds, from now on if they are; return the id of one.

        None for `ttl`: as the model's configuration says. None returned: no instance is loaded.
        """
        ready = [instance for instance in self.seating.alive(model) if instance.state == "ready"]
        for instance in ready:
            instance.ttl = ttl
            if instance.idle:
                instance.idle_since = now
            self.fleet.changed(instance)
        return max(ready, key=lambda instance: instance.used).id if ready else None

    def forgive(self, model: str, now: float) -> list[Effect]:
        """Forget the failures of a model: their cause may be gone."""
        self.setbacks.clear(model)
        return self._look_at_all(now)

    def unload(self, model: str, now: float) -> list[Effect]:
        """Unload a model's instances beyond those it keeps, each as soon as it is idle."""
        for instance in self.seating.alive(model):
            instance.ttl = 0.0
            self.fleet.changed(instance)
        return self._look_at_all(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed; `wake_at` says when the next call is due."""
        return self._look_at_all(now)

    def stop(self) -> list[Effect]:
        """Accept no more requests, and refuse the waiting ones."""
        self.stopping = True
        return self.placing.refuse(
            lambda _: ShuttingDown("the server is shutting down"), list(self.waiting.values()),
        )

    def wake_at(self) -> float | None:
        """Return when the next waiting request or idle instance reaches its time limit, or the next pause ends."""
        times = [] if (limit := self.queue.next_limit()) is None else [limit]
        if not self.stopping:
            self._notice()
            times += [] if (expiry := self._expiring.first()) is None else [expiry]
            times += [at for model in self.fleet.lacking if (at := self.retry_at(model)) is not None]
            times += [] if self.placing.look_at is None else [self.placing.look_at]
            times += [*self.fleet.doubted.values(), *(until for until, _ in self.fleet.bars.values())]
        return min(times, default=None)

    def positions(self, now: float) -> Mapping[str, int]:
        """Return the place of each waiting request in the order in which they will be served; 1 is next."""
        if self._positions is None:
            order = self.queue.order(now, self.placing.takes)
            self._positions = {ticket.id: number for number, ticket in enumerate(order, 1)}
        return self._positions

    def retry_at(self, model: str) -> float | None:
        """Return when a model's next kept instance will be loaded; None if all exist or are being loaded, or never."""
        setback = self.setbacks.get(model)
        if setback is None or setback.retry_at == math.inf or not self.placing.lacks(model) or model in self.preparing:
            return None
        if model in self._absent:
            return setback.retry_at
        if not self.seating.known(model):
            return None if any(model == measured for measured, _ in self.measuring) else setback.retry_at
        decision = self.seating.decide(model)
        looks = decision == Wait("machine") or (isinstance(decision, Wait) and self.seating.firm > 0)
        if isinstance(decision, Shrink) or looks:
            # Once the pause is over, it waits for the sessions, or for the next look.
            return setback.retry_at if setback.retry_at > self._now else None
        return setback.retry_at if isinstance(decision, Admit | Evict) else None

    # -- decisions ----------------------------------------------------------------------------------------------------

    def _look_at_all(self, now: float) -> list[Effect]:
        """Decide anew about all waiting requests, after an event that does not concern a single model."""
        self.placing.reopen()
        return self._schedule(now)

    def _schedule(self, now: float) -> list[Effect]:
        """Decide about the requests that the last events concern, and those that others may help."""
        self._positions = None
        if self.stopping:
            return []
        self._now, self.placing.look_at = now, None
        if self.fleet.doubted or self.fleet.bars:
            self.fleet.trust(now)
        kept = {model for model in self.fleet.lacking if not self.setbacks.paused(model, now)}
        self.placing.open |= self._notice()
        wanted = {*(model for model in self.placing.open if model in self.queue.models), *kept}
        effects = [*self._prepare(self._absent & wanted), *self._measure(wanted - self._absent)]
        if self.placing.again:
            self.placing.again &= {*self.queue.models, *kept}
        effects += self.placing.end_retired()
        effects += [*self.placing.fill(kept, now), *self.placing.shed()]
        if refused := self._refuse_expired(now):
            self.placing.open |= self._notice()
            effects += [*refused, *self.placing.fill(kept, now)]  # the refused requests have made way
        return [*effects, *self.placing.load_kept(kept, now), *self._unload_expired(now), *self.placing.share_cores()]

    def _notice(self) -> set[str]:
        """Return the models whose instances or requests have changed since the last call."""
        touched = self.fleet.touched | self.queue.touched
        if touched:
            self.queue.touched.clear()
            self.fleet.touched.clear()
            self._expiring.update(touched, self.fleet.moved)
            self.fleet.moved.clear()
        return touched

    def _prepare(self, models: AbstractSet[str]) -> list[Effect]:
        new = sorted(models - self.preparing)
        self.preparing.update(new)
        return [Prepare(model) for model in new]

    def _measure(self, models: AbstractSet[str]) -> list[Effect]:
        new = {
            (model, size): Measure(model, self.fleet.kinds[size.kind], size.memory)
            for model in sorted(models) if not self.seating.known(model)
            for size in self.seating.unknown(model) if (model, size) not in self.measuring
        }
        self.measuring.update(new)
        return [*new.values()]

    def _refuse_expired(self, now: float) -> list[Effect]:
        return self.placing.refuse(
            lambda ticket: waited_too_long(
                ticket, self.limits, self._retry_after(ticket), fetching=self.fetches(ticket.model),
                shortage=self.seating.shortage(ticket.model),
            ),
            self.queue.expired(now),
        )

    def _unload_expired(self, now: float) -> list[Effect]:
        self._notice()
        return [
            self.placing.stop(instance) for instance in self._expiring.due(now) if self.fleet.spare(instance.model) > 0
        ]

    def fetches(self, model: str) -> bool:
        """Whether the files of a model are being fetched, to this machine or to another place."""
        return model in self.preparing or model in self.fleet.fetching

    def idle_limit(self, instance: InstanceEntry) -> float | None:
        """Return the idle seconds after which an instance is unloaded; None: never."""
        return self._expiring.limit(instance)

    def _retry_after(self, ticket: Ticket) -> int:
        """Return the seconds after which a refused request will likely find its turn."""
        counts = self.queue.counts()
        slots = {model: self.fleet.slots(model) for model in {ticket.model, *counts}}
        ready = {model: count for model, count in slots.items() if count}
        return self.durations.retry_after(ticket.model, counts, ready, self.limits.concurrency)
