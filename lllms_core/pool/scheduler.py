"""Every decision of the pool: which request runs where, and what to load and unload. No clock, no processes, no waits.

Each method takes an event and its time, and returns the effects to carry out. The rules, in order:

1. a request goes to the instance of its model that has a free slot and knows most of its conversation;
2. without such an instance a new one is loaded, one at a time for each model, up to the model's `max_instances`;
3. if there is no place or no memory for it, idle instances of other models are unloaded: as few as suffice, the least
   recently used (`budget`);
4. if they do not suffice and the model has no instance, the instances that got their last requests longest ago are
   drained: they take no requests younger than this one until they are idle, so that models that are never idle starve
   no others; the room that they leave is promised to this one;
5. a model whose files are missing takes no place; its requests wait until the files have arrived or failed to;
6. otherwise a request waits its turn, in the order of arrival, for at most `queue_timeout` seconds.

The instances that a model keeps (`min_instances`) are loaded without a request. After a failure they are loaded again,
after a pause that grows with each consecutive failure (`Setbacks`); their places stay reserved meanwhile. For other
models each failed load, or death, ends at least one request, so they are tried no more often than requests arrive.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import copy

from attrs import evolve

from lllms_core.errors import (
    DownloadCancelled,
    DownloadError,
    InsufficientMemory,
    InvalidSource,
    LllmsError,
    ModelLoadFailed,
    ModelTooLarge,
    QueueFull,
    ShuttingDown,
    WaitedTooLong,
    WrongFile,
)
from lllms_core.pool.budget import Admit, Evict, Need, Never, Wait
from lllms_core.pool.cores import share_cores
from lllms_core.pool.effects import Assign, Effect, Measure, Prepare, Refuse, ShareCores, Start, Stop
from lllms_core.pool.seating import Seating
from lllms_core.pool.setbacks import Setbacks
from lllms_core.pool.state import NEVER, InstanceEntry, ModelLimits, PoolLimits, Ticket

LONGEST_RETRY_AFTER = 60


class Scheduler:
    """The state of the pool, and the rules by which it changes."""

    def __init__(
        self,
        models: Mapping[str, ModelLimits],
        limits: PoolLimits,
        new_id: Callable[[str], str],
        absent: Collection[str] = (),
    ) -> None:
        """Start empty. `new_id` names a new instance of a model; `absent` are the models whose files are missing."""
        self.limits = limits
        self.instances: dict[str, InstanceEntry] = {}
        self.waiting: dict[str, Ticket] = {}
        self.running: dict[str, Ticket] = {}
        self.preparing: set[str] = set()
        """Models whose files are being fetched."""
        self.measuring: set[str] = set()
        """Models whose needs are being found out."""
        self.stopping = False
        self._absent = set(absent)
        self._models = models
        self.seating = Seating(models, limits, self.instances)
        self._kept = [name for name, model in models.items() if model.min_instances > 0]
        self.setbacks = Setbacks()
        self._new_id = new_id
        self._failed: set[str] = set()
        """Models whose last load failed, or whose instance died. Beyond `min_instances` they grow again only at a new
        request, or if their waiting requests have no other instance."""
        self._working: list[str] = []
        """Busy instances, in the order in which they became busy."""
        self._seconds_per_request = 1.0

    # -- events -------------------------------------------------------------------------------------------------------

    def start(self, now: float, prepare: Collection[str] = ()) -> list[Effect]:
        """The pool opens: load `min_instances` of every model, and fetch the files of those in `prepare`."""
        return [*self._prepare(self._absent.intersection(prepare)), *self._schedule(now)]

    def prepared(self, model: str, now: float) -> list[Effect]:
        """The files of a model have arrived."""
        self.preparing.discard(model)
        self.seating.needs.pop(model, None)
        self._absent.discard(model)
        self._failed.discard(model)
        self.setbacks.clear(model)
        return self._schedule(now)

    def unprepared(self, model: str, error: LllmsError, now: float) -> list[Effect]:
        """The files of a model could not be fetched; the next request tries again, and a kept model after its pause."""
        self.preparing.discard(model)
        self._failed.add(model)
        if isinstance(error, InvalidSource | WrongFile | DownloadCancelled):
            self.setbacks.give_up(model, error.message)  # a retry would fetch gigabytes for nothing, or unwanted
        else:
            least = error.retry_after if isinstance(error, DownloadError) else None
            self.setbacks.note(model, error.message, now, least=least or 0.0)
        waiting = [ticket for ticket in self.waiting.values() if ticket.model == model]
        return [*self._refuse_waiting(lambda _: copy(error), waiting), *self._schedule(now)]

    def lost(self, instance: str, now: float) -> list[Effect]:
        """An instance cannot be loaded, because the files of its model have disappeared."""
        model = self.instances.pop(instance).model
        self._absent.add(model)
        self.seating.needs.pop(model, None)
        return self._schedule(now)

    def outdated(self, instance: str, now: float) -> list[Effect]:
        """An instance is not loaded, because the files of its model have changed since its need was found out."""
        self.seating.needs.pop(self.instances.pop(instance).model, None)
        return self._schedule(now)

    def measured(self, model: str, need: Need, now: float) -> list[Effect]:
        """The need of an instance of a model is known."""
        self.measuring.discard(model)
        self.seating.needs[model] = need
        return [*self._refuse_too_large(model), *self._schedule(now)]

    def submit(
        self, ticket: str, model: str, prefixes: Sequence[Hashable], now: float, ttl: float | None = None,
        *, admitted: bool = False,
    ) -> list[Effect]:
        """A request arrives; `prefixes` are the keys of its conversation's prefixes, shortest first.

        After it, its instance may be idle for `ttl` seconds; None: the model's `ttl`. A full queue does not refuse the
        request of a client that was already `admitted`.
        """
        if self.stopping:
            return [Refuse(ticket, ShuttingDown("the server is shutting down and takes no more requests"))]
        self._failed.discard(model)
        self.waiting[ticket] = Ticket(ticket, model, prefixes, now, ttl=ttl)
        effects = [*self._refuse_too_large(model), *self._schedule(now)]
        if ticket in self.waiting and not admitted and len(self.waiting) > self.limits.queue_size:
            del self.waiting[ticket]
            effects.append(Refuse(ticket, self._queue_full()))
        return effects

    def leave(self, ticket: str, now: float) -> list[Effect]:
        """A waiting request was cancelled; a running one leaves by `finished`."""
        self.waiting.pop(ticket, None)
        return self._schedule(now)

    def loaded(self, instance: str, slots: int, now: float) -> list[Effect]:
        """An instance is ready for requests."""
        entry = self.instances[instance]
        entry.state, entry.slots, entry.ready_since, entry.idle_since = "ready", slots, now, now
        return self._schedule(now)

    def finished(self, ticket: str, now: float) -> list[Effect]:
        """A running request has ended, however, and its slot is free."""
        entry = self.running.pop(ticket)
        self._seconds_per_request += 0.1 * (now - entry.started - self._seconds_per_request)
        instance = self.instances[entry.instance or ""]
        del instance.running[ticket]
        if not instance.running:
            instance.idle_since = now
            self._working.remove(instance.id)
        return self._schedule(now)

    def gone(self, instance: str, reason: str, now: float) -> list[Effect]:
        """An instance is gone: unloaded, dead, or never loaded. Its running requests are forgotten."""
        entry = self.instances.pop(instance)
        for ticket in entry.running:
            del self.running[ticket]
        if entry.running:
            self._working.remove(instance)
        effects: list[Effect] = []
        if entry.state != "closing":
            self._failed.add(entry.model)
            served = now - entry.ready_since if entry.state == "ready" else 0.0
            self.setbacks.note(entry.model, reason, now, served=served)
        if entry.state == "loading" and not self._alive(entry.model):
            effects += self._refuse_waiting(
                lambda ticket: ModelLoadFailed(f"model '{ticket.model}' cannot be loaded: {reason}"),
                [ticket for ticket in self.waiting.values() if ticket.model == entry.model],
            )
        return effects + self._schedule(now)

    def unload(self, model: str, now: float) -> list[Effect]:
        """Unload a model's instances beyond those it keeps, each as soon as it is idle."""
        for instance in self._alive(model):
            instance.ttl = 0.0
        return self._schedule(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed; `wake_at` says when the next call is due."""
        return self._schedule(now)

    def stop(self) -> list[Effect]:
        """Accept no more requests, and refuse the waiting ones."""
        self.stopping = True
        return self._refuse_waiting(
            lambda _: ShuttingDown("the server is shutting down"), list(self.waiting.values()),
        )

    def wake_at(self) -> float | None:
        """Return when the next waiting request or idle instance reaches its time limit, or the next pause ends."""
        times = [ticket.arrived + self.limits.queue_timeout for ticket in self.waiting.values()]
        if not self.stopping:
            times += [e.idle_since + self._ttl(e) for e in self.instances.values() if self._expires(e)]
            times += [at for model in self._kept if (at := self.retry_at(model)) is not None]
        return min(times, default=None)

    def retry_at(self, model: str) -> float | None:
        """Return when a model's next kept instance will be loaded; None if all exist or are being loaded, or never."""
        setback = self.setbacks.get(model)
        if setback is None or setback.retry_at == math.inf or not self._lacks(model) or model in self.preparing:
            return None
        if model in self._absent:
            return setback.retry_at
        if not self.seating.known(model):
            return None if model in self.measuring else setback.retry_at
        return setback.retry_at if isinstance(self.seating.decide(model), Admit | Evict) else None

    # -- decisions ----------------------------------------------------------------------------------------------------

    def _schedule(self, now: float) -> list[Effect]:
        if self.stopping:
            return []
        kept = {model for model in self._kept if not self.setbacks.paused(model, now)}
        wanted = {ticket.model for ticket in self.waiting.values()} | kept
        effects = [*self._prepare(self._absent & wanted), *self._measure(wanted - self._absent)]
        effects += self._assign_and_load(kept, now)
        if refused := self._refuse_expired(now):
            effects += [*refused, *self._assign_and_load(kept, now)]  # the refused requests have made way
        return [*effects, *self._load_minimum(kept), *self._unload_expired(now), *self._share_cores()]

    def _prepare(self, models: AbstractSet[str]) -> list[Effect]:
        new = sorted(models - self.preparing)
        self.preparing.update(new)
        return [Prepare(model) for model in new]

    def _measure(self, models: AbstractSet[str]) -> list[Effect]:
        new = sorted(model for model in models - self.measuring if not self.seating.known(model))
        self.measuring.update(new)
        return [Measure(model) for model in new]

    def _refuse_expired(self, now: float) -> list[Effect]:
        limit = self.limits.queue_timeout
        # The same sum as in wake_at: a difference could round to just below the limit forever.
        expired = [ticket for ticket in self.waiting.values() if ticket.arrived + limit <= now]
        return self._refuse_waiting(self._waited_too_long, expired)

    def _waited_too_long(self, ticket: Ticket) -> LllmsError:
        text = (
            f"the request waited {self.limits.queue_timeout:g} s for model '{ticket.model}', as long as"
            " server.queue_timeout allows"
        )
        if ticket.model in self.preparing:
            return WaitedTooLong(f"{text}; its files are still being fetched", self._retry_after())
        if shortage := self.seating.shortage(ticket.model):
            return InsufficientMemory(f"{text}; {shortage}", self._retry_after())
        return WaitedTooLong(text, self._retry_after())

    def _assign_and_load(self, kept: AbstractSet[str], now: float) -> list[Effect]:
        full: set[str] = set()
        draining: set[str] = set()
        effects = self._make_room_for_kept(kept, draining)
        promised: list[Need] = []
        """Room that is not free yet, for models whose requests came first."""
        for ticket in list(self.waiting.values()):
            if len(self.running) >= self.limits.concurrency:
                break  # nor is there a reason to load anything
            if ticket.model in full:
                continue  # earlier requests for its model go first
            if instance := self._free_instance(ticket, draining):
                effects.append(self._assign(ticket, instance, now))
                continue
            full.add(ticket.model)
            if self._may_grow(ticket.model):
                effects += self._make_room(ticket.model, draining, promised)
        return effects

    def _make_room(self, model: str, draining: set[str], promised: list[Need]) -> list[Effect]:
        """Load an instance for the requests of a model, or do what makes room for it."""
        need, decision = self.seating.choose(model, draining, promised)
        match decision:
            case Admit():
                return [self._start(model, need)]
            case Never():
                return self._refuse_too_large(model)
            case Evict(victims):
                promised.append(need)
                return [self._stop(self.instances[victim]) for victim in victims]
            case Wait("closing"):
                promised.append(need)
            case Wait() if not self._alive(model) and (drained := self.seating.to_drain(model, draining, promised)):
                draining.update(drained)
                promised.append(need)
        return []

    def _refuse_too_large(self, model: str) -> list[Effect]:
        """Refuse the requests of a model that has no instance and can never have one; others wait for its slots."""
        reason = None if self._alive(model) else self.seating.too_large(model)
        if reason is None:
            return []
        text = f"model '{model}' cannot be loaded: {reason}"
        tickets = [ticket for ticket in self.waiting.values() if ticket.model == model]
        return self._refuse_waiting(lambda _: ModelTooLarge(text), tickets)

    def _make_room_for_kept(self, kept: AbstractSet[str], draining: set[str]) -> list[Effect]:
        """Take back the memory of missing kept instances, if others got it before anybody knew how much they need."""
        effects: list[Effect] = []
        for model in self._kept:
            if model in kept and self._may_be_kept(model):
                match self.seating.decide(model):
                    case Evict(victims):
                        effects += [self._stop(self.instances[victim]) for victim in victims]
                    case Wait("busy"):
                        draining.update(self.seating.to_drain(model, draining))
        return effects

    def _free_instance(self, ticket: Ticket, draining: AbstractSet[str]) -> InstanceEntry | None:
        """The instance with a free slot that knows most of the conversation; among equals, the least busy one."""
        free = [
            instance
            for instance in self._alive(ticket.model)
            if instance.state == "ready" and len(instance.running) < instance.slots and instance.id not in draining
        ]
        return max(free, key=lambda i: (i.seen.longest(ticket.prefixes), -len(i.running), i.idle_since), default=None)

    def _assign(self, ticket: Ticket, instance: InstanceEntry, now: float) -> Effect:
        del self.waiting[ticket.id]
        self.running[ticket.id] = ticket
        ticket.instance, ticket.started = instance.id, now
        if not instance.running:
            self._working.append(instance.id)
        instance.running[ticket.id] = ticket
        instance.used = now
        instance.ttl = ticket.ttl
        instance.seen.add(ticket.prefixes)
        return Assign(ticket.id, instance.id)

    def _alive(self, model: str) -> list[InstanceEntry]:
        return self.seating.alive(model)

    def _may_grow(self, model: str) -> bool:
        """Whether one more instance of this model may be loaded now: only one is loaded at a time."""
        alive = self._alive(model)
        own = sum(instance.model == model for instance in self.instances.values())
        return (
            model not in self._absent
            and self.seating.known(model)
            and own < self._models[model].max_instances
            and not any(instance.state == "loading" for instance in alive)
            and not (alive and model in self._failed)
        )

    def _spare(self, model: str) -> int:
        return self.seating.spare(model)

    def _lacks(self, model: str) -> bool:
        """Whether a model has fewer instances than it keeps, and none is being loaded."""
        return self._spare(model) < 0 and not any(i.state == "loading" for i in self._alive(model))

    def _may_be_kept(self, model: str) -> bool:
        """Whether a missing instance that a model keeps may be loaded, if there is room."""
        return self._lacks(model) and model not in self._absent and self.seating.known(model)

    def _load_minimum(self, kept: AbstractSet[str]) -> list[Effect]:
        effects: list[Effect] = []
        for model in self._kept:
            if model in kept and self._may_be_kept(model):
                need, decision = self.seating.choose(model)
                if decision == Admit():
                    effects.append(self._start(model, need))
        return effects

    def _unload_expired(self, now: float) -> list[Effect]:
        return [
            self._stop(instance)
            for instance in sorted(self.instances.values(), key=lambda instance: instance.idle_since)
            if self._expires(instance) and instance.idle_since + self._ttl(instance) <= now
        ]

    def _expires(self, instance: InstanceEntry) -> bool:
        """Whether the instance will be unloaded in time: it is idle, and no request waits for its model."""
        return (
            instance.idle
            and self._ttl(instance) != NEVER
            and self._spare(instance.model) > 0
            and not any(ticket.model == instance.model for ticket in self.waiting.values())
        )

    def _ttl(self, instance: InstanceEntry) -> float:
        return self._models[instance.model].ttl if instance.ttl is None else instance.ttl

    def _share_cores(self) -> list[Effect]:
        effects: list[Effect] = []
        for instance, count in share_cores(self.limits.cores, self._working).items():
            if self.instances[instance].threads != count:
                self.instances[instance].threads = count
                effects.append(ShareCores(instance, count))
        # Reductions come first, so that the sum never exceeds the number of cores.
        return sorted(effects, key=lambda effect: effect.count if isinstance(effect, ShareCores) else 0)

    def _start(self, model: str, need: Need) -> Effect:
        instance = InstanceEntry(self._new_id(model), model, self.limits.cores, evolve(need, smaller=()))
        self.instances[instance.id] = instance
        return Start(instance.id, model, instance.threads, need.memory)

    def _stop(self, instance: InstanceEntry) -> Effect:
        instance.state = "closing"
        return Stop(instance.id)

    def _refuse_waiting(self, error: Callable[[Ticket], LllmsError], tickets: Iterable[Ticket]) -> list[Effect]:
        effects: list[Effect] = []
        for ticket in tickets:
            del self.waiting[ticket.id]
            effects.append(Refuse(ticket.id, error(ticket)))
        return effects

    def _queue_full(self) -> LllmsError:
        size = self.limits.queue_size
        return QueueFull(
            f"{size} requests wait already, as many as server.queue_size allows; try again later", self._retry_after(),
        )

    def _retry_after(self) -> int:
        """Return the seconds until the requests that wait now have likely been served."""
        seconds = self._seconds_per_request * (len(self.waiting) + 1) / self.limits.concurrency
        return min(max(1, math.ceil(seconds)), LONGEST_RETRY_AFTER)
