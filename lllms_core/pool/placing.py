"""Gives the waiting requests their instances, and models the room for theirs; pure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from attrs import Factory, define, evolve

from lllms_core.errors import LllmsError, ModelTooLarge
from lllms_core.events import UnloadCause
from lllms_core.pool.budget import Admit, Evict, Need, Never, Shrink, Wait
from lllms_core.pool.cores import share_cores
from lllms_core.pool.effects import Assign, Effect, Refuse, ShareCores, ShrinkSessions, Start, Stop
from lllms_core.pool.queue import Queue
from lllms_core.pool.residency import staying
from lllms_core.pool.seating import Seating, kept_models
from lllms_core.pool.state import InstanceEntry, ModelLimits, PoolChange, PoolLimits, Surroundings, Ticket

LOOK_AGAIN = 2.0
"""Seconds between looks for memory that other programs hold, or sessions that could not be given up."""


@define
class _Plan:
    """What is decided so far for models without an instance, in the order of their claims."""

    leaving: set[str]
    """Instances that will make room as soon as they may, and are idle."""
    promised: list[Need] = Factory(list)
    """The needs of the models that wait for it."""
    staying: AbstractSet[str] = frozenset()
    """Instances that make no room yet."""


class Placing:
    """The instances and the queue, and the moves between them; the scheduler decides when."""

    def __init__(
        self, models: Mapping[str, ModelLimits], limits: PoolLimits, new_id: Callable[[str], str],
        absent: Collection[str], look: Callable[[], Surroundings],
    ) -> None:
        self.instances: dict[str, InstanceEntry] = {}
        self.queue = Queue(limits.max_wait_before_swap)
        self.seating = Seating(models, limits, self.instances, look)
        self.absent = set(absent)
        """Models whose files are missing."""
        self.failed: set[str] = set()
        """Models whose last load failed, or whose instance died. Beyond `min_instances` they grow again only at a new
        request, after their cooldown, or if their waiting requests have no other instance."""
        self.draining: set[str] = set()
        """Instances that take no requests, so that they make room for others."""
        self.working: list[str] = []
        """Busy instances, in the order in which they became busy."""
        self.again: set[str] = set()
        """Models whose last load failed for lack of memory and is to be tried once more."""
        self.shrinking = False
        """Whether sessions are being given up."""
        self.look_at: float | None = None
        """When to look again for memory that is not the instances'."""
        self.lowered = False
        """Whether there may be more instances than a new configuration allows."""
        self.kept = kept_models(models)
        self.limits = limits
        self._models = models
        self._new_id = new_id

    def reconfigure(self, change: PoolChange) -> list[Effect]:
        """Take the models and limits of a new configuration; the models' table has its models by now.

        The instances of models that are gone or replaced get no more requests. Those that are being loaded end.
        """
        self.kept[:] = kept_models(self._models)
        self.limits, self.lowered = change.limits, True
        self.queue.reconfigure(change.limits.queue_timeout, change.limits.max_wait_before_swap)
        known = self._models.keys() - change.fresh
        for of_models in (self.absent, self.failed, self.again):
            of_models.intersection_update(known)
        self.absent |= change.absent
        effects: list[Effect] = []
        for entry in self.instances.values():
            if entry.model not in known and not entry.retired:
                entry.retired = True
                if entry.state == "loading":
                    effects.append(self.stop(entry, "changed"))
        self.seating.reconfigure(change)
        return effects

    def end_retired(self) -> list[Effect]:
        """Unload the instances with a former configuration that have no more requests."""
        return [self.stop(entry, "changed") for entry in self.instances.values() if entry.retired and entry.idle]

    def takes(self, model: str) -> bool:
        """Whether a model has, or will have, an instance that takes requests."""
        return any(instance.id not in self.draining for instance in self.seating.alive(model))

    def fill(self, kept: AbstractSet[str], now: float) -> list[Effect]:
        """Assign requests to free slots, and load instances for others; those of the models `kept` first get theirs."""
        self.draining.clear()
        effects = self._make_room_for_kept(kept, now)
        plan = _Plan(set(self.draining))
        if len(self.queue.running) < self.limits.concurrency:  # else there is no reason to load anything
            for claim in self.queue.claims(now, [name for name in self.queue.models if not self.seating.alive(name)]):
                plan.staying = staying(self.instances.values(), claim, self.queue, self.limits, now)
                effects += self._make_room(claim.model, plan, now)
        full: set[str] = set()
        while len(self.queue.running) < self.limits.concurrency and (ticket := self.queue.next(now, full)):
            if instance := self._free_instance(ticket):
                effects.append(self._assign(ticket, instance, now))
                continue
            full.add(ticket.model)  # earlier requests for its model go first
            if self.seating.alive(ticket.model):
                plan.staying = {entry.id for entry in self.instances.values() if entry.model in self.queue.models}
                effects += self._make_room(ticket.model, plan, now)
        return effects

    def _make_room(self, model: str, plan: _Plan, now: float) -> list[Effect]:
        """Load an instance for the requests of a model, or do what makes room for it."""
        if not self._may_grow(model):
            return []
        need, decision = self.seating.choose(model, plan.leaving, plan.promised, plan.staying)
        match decision:
            case Admit():
                return [self.start(model, need, now)]
            case Never():
                return self.refuse_too_large(model)
            case Shrink(size):
                plan.promised.append(need)
                return self._shrink(size)
            case Evict(victims):
                plan.promised.append(need)
                return [self.stop(self.instances[victim], "room", model) for victim in victims]
            case Wait("closing"):
                plan.promised.append(need)
            case Wait(reason):
                if reason == "machine" or self.seating.firm:
                    self.look_at = now + LOOK_AGAIN
                if not self.seating.alive(model) and (
                    drained := self.seating.to_drain(model, plan.leaving, plan.promised, plan.staying)
                ):
                    plan.leaving.update(drained)
                    plan.promised.append(need)
                    self.draining.update(set(drained) - plan.staying)
        return []

    def _shrink(self, size: int) -> list[Effect]:
        """Give up sessions, unless that is under way."""
        if self.shrinking:
            return []
        self.shrinking = True
        return [ShrinkSessions(size)]

    def shed(self) -> list[Effect]:
        """Unload idle instances if all together have grown above the limit, or are more than allowed."""
        effects = [self.stop(self.instances[victim], "grown") for victim in self.seating.to_shed()]
        return effects + self._shed_surplus() if self.lowered else effects

    def _shed_surplus(self) -> list[Effect]:
        """Unload idle instances, those that have been idle for longest first, down to a lowered `max_instances`."""
        effects: list[Effect] = []
        lasting = [entry for entry in self.instances.values() if entry.state != "closing" and not entry.retired]
        total = len(lasting)
        for entry in sorted((one for one in lasting if one.idle), key=lambda one: one.idle_since):
            own = len(self.seating.alive(entry.model))
            if own > self._models[entry.model].max_instances or (
                total > self.limits.max_instances and self.seating.spare(entry.model) > 0
            ):
                effects.append(self.stop(entry, "changed"))
                total -= 1
        self.lowered = total > self.limits.max_instances or any(
            len(self.seating.alive(name)) > model.max_instances for name, model in self._models.items()
        )
        return effects

    def _make_room_for_kept(self, kept: AbstractSet[str], now: float) -> list[Effect]:
        """Take back the memory of missing kept instances, if others got it before anybody knew how much they need."""
        effects: list[Effect] = []
        for model in self.kept:
            if model in kept and self._may_be_kept(model):
                match self.seating.decide(model):
                    case Shrink(size):
                        effects += self._shrink(size)
                    case Evict(victims):
                        effects += [self.stop(self.instances[victim], "room", model) for victim in victims]
                    case Wait(reason):
                        if reason == "machine" or self.seating.firm:
                            self.look_at = now + LOOK_AGAIN
                        if reason == "busy":
                            self.draining.update(self.seating.to_drain(model, self.draining))
        return effects

    def _free_instance(self, ticket: Ticket) -> InstanceEntry | None:
        """The instance with a free slot that knows most of the conversation; among equals, the least busy one."""
        free = [
            instance
            for instance in self.seating.alive(ticket.model)
            if instance.state == "ready" and len(instance.running) < instance.slots and instance.id not in self.draining
        ]
        return max(free, key=lambda i: (i.seen.longest(ticket.prefixes), -len(i.running), i.idle_since), default=None)

    def _assign(self, ticket: Ticket, instance: InstanceEntry, now: float) -> Effect:
        self.queue.take(ticket)
        ticket.instance, ticket.started = instance.id, now
        if not instance.running:
            self.working.append(instance.id)
        instance.running[ticket.id] = ticket
        instance.used = now
        instance.ttl = ticket.ttl
        instance.seen.add(ticket.prefixes)
        return Assign(ticket.id, instance.id)

    def refuse_too_large(self, model: str) -> list[Effect]:
        """Refuse the requests of a model that has no instance and can never have one; others wait for its slots."""
        reason = None if self.seating.alive(model) else self.seating.too_large(model)
        if reason is None:
            return []
        text = f"model '{model}' cannot be loaded: {reason}"
        return self.refuse(lambda _: ModelTooLarge(text), self.queue.of(model))

    def _may_grow(self, model: str) -> bool:
        """Whether one more instance of this model may be loaded now: only one is loaded at a time."""
        alive = self.seating.alive(model)
        own = sum(instance.model == model and not instance.retired for instance in self.instances.values())
        return (
            model not in self.absent
            and self.seating.known(model)
            and own < self._models[model].max_instances
            and not any(instance.state == "loading" for instance in alive)
            and not (alive and model in self.failed)
        )

    def lacks(self, model: str) -> bool:
        """Whether a model has fewer instances than it keeps, and none is being loaded."""
        return self.seating.spare(model) < 0 and not any(i.state == "loading" for i in self.seating.alive(model))

    def _may_be_kept(self, model: str) -> bool:
        """Whether a missing instance that a model keeps may be loaded, if there is room."""
        return self.lacks(model) and model not in self.absent and self.seating.known(model)

    def load_kept(self, kept: AbstractSet[str], now: float) -> list[Effect]:
        """Load the missing instances that these models keep, as far as there is room."""
        effects: list[Effect] = []
        for model in self.kept:
            if model in kept and self._may_be_kept(model):
                need, decision = self.seating.choose(model)
                if decision == Admit():
                    effects.append(self.start(model, need, now))
        return effects

    def share_cores(self) -> list[Effect]:
        """Divide the cores among the busy instances."""
        effects: list[Effect] = []
        for instance, count in share_cores(self.limits.cores, self.working).items():
            if self.instances[instance].threads != count:
                self.instances[instance].threads = count
                effects.append(ShareCores(instance, count))
        # Reductions come first, so that the sum never exceeds the number of cores.
        return sorted(effects, key=lambda effect: effect.count if isinstance(effect, ShareCores) else 0)

    def start(self, model: str, need: Need, now: float) -> Effect:
        """Load an instance of this size."""
        need = evolve(need, smaller=())
        instance = InstanceEntry(
            self._new_id(model), model, self.limits.cores, need, need, load_began=now, again=model in self.again,
        )
        self.again.discard(model)
        self.instances[instance.id] = instance
        return Start(instance.id, model, instance.threads, need.memory)

    def stop(self, instance: InstanceEntry, cause: UnloadCause = "idle", room_for: str | None = None) -> Effect:
        """Unload an instance."""
        instance.state = "closing"
        return Stop(instance.id, cause, room_for)

    def refuse(self, error: Callable[[Ticket], LllmsError], tickets: Iterable[Ticket]) -> list[Effect]:
        """Refuse waiting requests."""
        effects: list[Effect] = []
        for ticket in tickets:
            self.queue.remove(ticket)
            effects.append(Refuse(ticket.id, error(ticket)))
        return effects
