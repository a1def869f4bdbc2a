"""Gives the waiting requests their instances, and models the room for theirs; pure."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from attrs import evolve

from lllms_core.errors import LllmsError, ModelTooLarge
from lllms_core.events import UnloadCause
from lllms_core.placements import LOCAL, Place
from lllms_core.pool.budget import Admit, Evict, Never, Shrink, Wait
from lllms_core.pool.choosing import PlaceChoice
from lllms_core.pool.cores import share_cores
from lllms_core.pool.effects import Assign, Effect, Prepare, Refuse, ShareCores, ShrinkSessions, Start, Stop
from lllms_core.pool.fleet import Fleet
from lllms_core.pool.queue import Queue
from lllms_core.pool.residency import stays_for
from lllms_core.pool.seating import RoomPlan, Seating
from lllms_core.pool.state import InstanceEntry, ModelLimits, PoolChange, PoolLimits, Surroundings, Ticket

LOOK_AGAIN = 2.0
"""Seconds between looks for memory that other programs hold, or sessions that could not be given up."""


class Placing:
    """The instances and the queue, and the moves between them; the scheduler decides when."""

    def __init__(
        self, models: Mapping[str, ModelLimits], limits: PoolLimits, new_id: Callable[[str], str],
        absent: Collection[str], look: Callable[[], Surroundings], *, local: bool,
    ) -> None:
        self.fleet = Fleet(models)
        self.queue = Queue(limits.max_wait_before_swap)
        self.seating = Seating(models, limits, self.fleet, look)
        self.absent = set(absent)
        """Models whose files are missing."""
        self.failed: set[str] = set()
        """Models whose last load failed, or whose instance died. Beyond `min_instances` they grow again only at a new
        request, after their cooldown, or if their waiting requests have no other instance."""
        self.draining: set[str] = set()
        """Instances that take no requests, so that they make room for others."""
        self.again: set[str] = set()
        """Models whose last load failed for lack of memory and is to be tried once more."""
        self.open: set[str] = set()
        """Models for whose requests something may be done; all others wait for an event of their own model."""
        self.shrinking = False
        """Whether sessions are being given up."""
        self.look_at: float | None = None
        """When to look again for memory that is not the instances'."""
        self.lowered = False
        """Whether there may be more instances than a new configuration allows."""
        self.limits = limits
        self._models = models
        self._new_id = new_id
        self._crowded: dict[str, int] = {}
        """By model: `Fleet.reliefs` when there was no room for one more instance."""
        if local:
            self._arrive()

    def _arrive(self) -> None:
        """Use this machine, with the limits of the configuration."""
        memory = None if self.limits.memory is None else self.limits.memory.instances
        self.fleet.arrive(Place(LOCAL, "this machine", self.limits.cores, memory))

    def reconfigure(self, change: PoolChange) -> list[Effect]:
        """Take the models and limits of a new configuration; the models' table has its models by now.

        The instances of models that are gone or replaced get no more requests. Those that are being loaded end.
        """
        self.limits, self.lowered = change.limits, True
        if LOCAL in self.fleet.places:
            self._arrive()
        self.queue.reconfigure(change.limits.queue_timeout, change.limits.max_wait_before_swap)
        known = self._models.keys() - change.fresh
        for of_models in (self.absent, self.failed, self.again):
            of_models.intersection_update(known)
        for model in [*change.fresh, *(name for name in self.fleet.fetching if name not in self._models)]:
            self.fleet.forget_files(model)
        self.absent |= change.absent
        effects: list[Effect] = []
        for entry in list(self.fleet.instances.values()):
            if entry.model not in known and not entry.retired:
                self.fleet.retire(entry)
                if entry.state == "loading":
                    effects.append(self.stop(entry, "changed"))
        self.fleet.reconfigure()
        self.seating.reconfigure(change)
        return effects

    def end_retired(self) -> list[Effect]:
        """Unload the instances with a former configuration that have no more requests."""
        return [self.stop(entry, "changed") for entry in list(self.fleet.retired.values()) if entry.idle]

    def takes(self, model: str) -> bool:
        """Whether a model has, or will have, an instance that takes requests."""
        return any(instance.id not in self.draining for instance in self.fleet.alive(model))

    def fill(self, kept: AbstractSet[str], now: float) -> list[Effect]:
        """Assign requests to free slots, and load instances for others; those of the models `kept` first get theirs."""
        self.draining.clear()
        effects = self._make_room_for_kept(kept, now)
        plan = RoomPlan(set(self.draining))
        self.open = {model for model in self.open if model in self.queue.models}
        if len(self.queue.running) < self.limits.concurrency:  # else there is no reason to load anything
            homeless = [model for model in self.open if not self.fleet.alive(model) and self.may_grow(model)]
            for claim in self.queue.claims(now, homeless):
                plan.stays = stays_for(claim, self.queue, self.limits, now)
                effects += self._make_room(claim.model, plan, now)
        left = {model for model in self.open if model in self.queue.models and self._is_movable(model)}
        while left and len(self.queue.running) < self.limits.concurrency:
            ticket = self.queue.next(now, left)
            assert ticket is not None  # noqa: S101  # requests wait for each of these models
            model = ticket.model
            if instance := self._free_instance(ticket):
                effects.append(self._assign(ticket, instance, now))
                if model not in self.queue.models or not self._is_movable(model):
                    left.discard(model)
                continue
            left.discard(model)  # earlier requests for its model go first
            plan.stays = self._is_waited_for
            while self.fleet.alive(model) and (made := self._make_room(model, plan, now)):
                effects += made
                if not isinstance(made[0], Start | Prepare):
                    break
        self.open = {
            model for model in self.open if model in self.queue.models and (model in left or self._is_open(model))
        }
        return effects

    def _is_movable(self, model: str) -> bool:
        """Whether a request of a model with instances can get a slot, or another instance, as far as is known."""
        if not self.fleet.alive(model):
            return False
        return self._is_free(model) or (self.may_grow(model) and not self._is_crowded(model))

    def _is_crowded(self, model: str) -> bool:
        """Whether there was no room for another instance of a model, and nothing has made any since."""
        return self._crowded.get(model) == self.fleet.reliefs

    def _is_waited_for(self, instance: InstanceEntry) -> bool:
        return instance.model in self.queue.models

    def _is_open(self, model: str) -> bool:
        """Whether the events of other models may help the requests of this one."""
        if self.may_grow(model):
            return True
        return bool(self.draining) and any(instance.id in self.draining for instance in self.fleet.alive(model))

    def _make_room(self, model: str, plan: RoomPlan, now: float) -> list[Effect]:
        """Load an instance for the requests of a model, or do what makes room for it."""
        if not self.may_grow(model) or self._is_crowded(model):
            return []
        choice = self.seating.choose(model, plan)
        if choice.decision == Admit() or self._lacks_files(model, choice):
            return [self._begin(model, choice, now)]
        match choice.decision:
            case Never():
                return self.refuse_too_large(model)
            case Shrink(size):
                plan.promise(choice)
                return self._shrink(size)
            case Evict(victims):
                plan.promise(choice)
                return [self.stop(self.fleet.instances[victim], "room", model) for victim in victims]
            case Wait("closing"):
                plan.promise(choice)
            case Wait(reason):
                if reason == "machine" or self.seating.firm:
                    self.look_at = now + LOOK_AGAIN
                elif self.fleet.alive(model):
                    self._crowded[model] = self.fleet.reliefs  # only then anything can have changed
                if not self.fleet.alive(model) and (drained := self.seating.to_drain(model, plan)):
                    plan.leaving.update(entry.id for entry in drained)
                    plan.promise(evolve(choice, place=drained[0].place))
                    self.draining.update(entry.id for entry in drained if not plan.stays(entry))
        return []

    def _shrink(self, size: int) -> list[Effect]:
        """Give up sessions, unless that is under way."""
        if self.shrinking:
            return []
        self.shrinking = True
        return [ShrinkSessions(size)]

    def shed(self) -> list[Effect]:
        """Unload idle instances if all at a place have grown above its limit, or are more than allowed."""
        effects = [self.stop(self.fleet.instances[victim], "grown") for victim in self.seating.to_shed()]
        return effects + self._shed_surplus() if self.lowered else effects

    def _shed_surplus(self) -> list[Effect]:
        """Unload idle instances, those that have been idle for longest first, down to a lowered `max_instances`."""
        effects: list[Effect] = []
        most = self.limits.max_instances
        lasting = [one for one in self.fleet.instances.values() if one.state != "closing" and not one.retired]
        totals = Counter(one.place for one in lasting)
        for entry in sorted((one for one in lasting if one.idle), key=lambda one: one.idle_since):
            own = len(self.fleet.alive(entry.model))
            if own > self._models[entry.model].max_instances or (
                totals[entry.place] > most and self.fleet.spare(entry.model) > 0
            ):
                effects.append(self.stop(entry, "changed"))
                totals[entry.place] -= 1
        self.lowered = max(totals.values(), default=0) > most or any(
            len(self.fleet.alive(name)) > model.max_instances for name, model in self._models.items()
        )
        return effects

    def _make_room_for_kept(self, kept: AbstractSet[str], now: float) -> list[Effect]:
        """Take back the memory of missing kept instances, if others got it before anybody knew how much they need."""
        effects: list[Effect] = []
        for model in self._lacking(kept):
            choice = self.seating.choose(model)
            match choice.decision:
                case _ if choice.decision != Admit() and self._lacks_files(model, choice):
                    effects.append(self._begin(model, choice, now))
                case Shrink(size):
                    effects += self._shrink(size)
                case Evict(victims):
                    effects += [self.stop(self.fleet.instances[victim], "room", model) for victim in victims]
                case Wait(reason):
                    if reason == "machine" or self.seating.firm:
                        self.look_at = now + LOOK_AGAIN
                    if reason == "busy":
                        drained = self.seating.to_drain(model, RoomPlan(set(self.draining)))
                        self.draining.update(entry.id for entry in drained)
        return effects

    def _lacking(self, kept: AbstractSet[str]) -> list[str]:
        """Return those of the models `kept` that lack an instance which may be loaded if there is room, in order."""
        if not kept & self.fleet.lacking:
            return []
        return [model for model in self._models if model in kept and self._may_be_kept(model)]

    def _is_free(self, model: str) -> bool:
        return any(instance.id not in self.draining for instance in self.fleet.free(model))

    def _free_instance(self, ticket: Ticket) -> InstanceEntry | None:
        """The instance with a free slot that knows most of the conversation; among equals, the least busy one."""
        free = self.fleet.free(ticket.model)
        if self.draining:
            free = [instance for instance in free if instance.id not in self.draining]
        return max(free, key=lambda i: (i.seen.longest(ticket.prefixes), -len(i.running), i.idle_since), default=None)

    def _assign(self, ticket: Ticket, instance: InstanceEntry, now: float) -> Effect:
        self.queue.take(ticket)
        ticket.instance, ticket.started = instance.id, now
        self.fleet.take(instance, ticket, now)
        instance.seen.add(ticket.prefixes)
        self.released(ticket.model)
        return Assign(ticket.id, instance.id)

    def released(self, model: str) -> None:
        """A request for a model waits no more: if it was the last, the model's idle instances may make room."""
        if model not in self.queue.models and any(instance.idle for instance in self.fleet.free(model)):
            self.fleet.reliefs += 1

    def reopen(self) -> None:
        """Look at all waiting requests again."""
        self.open.update(self.queue.models)
        self._crowded.clear()

    def refuse_too_large(self, model: str) -> list[Effect]:
        """Refuse the requests of a model that has no instance and can never have one; others wait for its slots."""
        reason = None if self.fleet.alive(model) else self.seating.too_large(model)
        if reason is None:
            return []
        text = f"model '{model}' cannot be loaded: {reason}"
        return self.refuse(lambda _: ModelTooLarge(text), self.queue.of(model))

    def may_grow(self, model: str) -> bool:
        """Whether one more instance of this model may be loaded now, and its requests need it beside those that are."""
        if not self._is_allowed(model) or not self.seating.known(model):
            return False
        if not self.fleet.begun(model):
            return True
        return self._may_begin(model) and self._needs_more(model) and not self._is_ahead(model)

    def _is_allowed(self, model: str) -> bool:
        """Whether a model may have one more instance, as far as that depends on nothing but itself."""
        return (
            self.fleet.count(model) < self._models[model].max_instances
            and model not in self.absent
            and not (model in self.failed and self.fleet.alive(model))
        )

    def _may_begin(self, model: str) -> bool:
        """Whether one more load of a model may begin: one at a time at each place, and no more than have succeeded.

        So its instances double in the time of a load, and a model that cannot be loaded is tried at one place.
        """
        begun = self.fleet.begun(model)
        return not begun or (self.seating.several and begun < self.fleet.ready(model))

    def _needs_more(self, model: str) -> bool:
        """Whether more requests wait for a model than the instances that are being loaded can run."""
        return self.queue.count(model) > self.fleet.begun(model) * self.fleet.slots_of_one(model)

    def _is_ahead(self, model: str) -> bool:
        """Whether another model that needs more instances, and may get them, has fewer: what is left of room is its."""
        own = self.fleet.count(model)
        return any(
            self.fleet.count(other) < own and self._is_allowed(other) and self._needs_more(other)
            and not self._is_crowded(other)
            for other in self.queue.models
        )

    def lacks(self, model: str) -> bool:
        """Whether a model has fewer instances than it keeps, and one more may be loaded now."""
        missing = -self.fleet.spare(model) - self.fleet.fetches(model)
        return model in self.fleet.lacking and missing > 0 and self._may_begin(model)

    def _may_be_kept(self, model: str) -> bool:
        """Whether a missing instance that a model keeps may be loaded, if there is room."""
        return self.lacks(model) and model not in self.absent and self.seating.known(model)

    def load_kept(self, kept: AbstractSet[str], now: float) -> list[Effect]:
        """Load the missing instances that these models keep, as far as there is room."""
        effects: list[Effect] = []
        for model in self._lacking(kept):
            while self._may_be_kept(model) and (choice := self.seating.choose(model)).decision == Admit():
                effects.append(self._begin(model, choice, now))
        return effects

    def _lacks_files(self, model: str, choice: PlaceChoice) -> bool:
        """Whether a place must get the files of a model before anything makes room there, if anything soon does."""
        soon = choice.decision == Wait("closing") or not isinstance(choice.decision, Wait | Never)
        return (
            soon and self._models[model].files and choice.place != LOCAL
            and model not in self.fleet.places[choice.place].files
        )

    def _begin(self, model: str, choice: PlaceChoice, now: float) -> Effect:
        """Load an instance, after its place has got the files for it."""
        if not self._lacks_files(model, choice):
            return self.start(model, choice, now)
        self.fleet.fetch(model, choice.place)
        self.open.add(model)
        return Prepare(model, choice.place)

    def share_cores(self) -> list[Effect]:
        """Divide the cores of each place among its busy instances, where these have changed."""
        effects: list[Effect] = []
        for place in self.fleet.take_crews():
            for instance, count in share_cores(place.place.cores, [*place.working]).items():
                if place.working[instance].threads != count:
                    place.working[instance].threads = count
                    effects.append(ShareCores(instance, count))
        # Reductions come first, so that the sum never exceeds the number of cores.
        return sorted(effects, key=lambda effect: effect.count if isinstance(effect, ShareCores) else 0)

    def start(self, model: str, choice: PlaceChoice, now: float) -> Effect:
        """Load an instance of this size, at this place."""
        need, place = evolve(choice.need, smaller=()), self.fleet.places[choice.place].place
        instance = InstanceEntry(
            self._new_id(model), model, place.cores, need, need, load_began=now, again=model in self.again,
            place=place.id,
        )
        self.again.discard(model)
        self.open.add(model)
        self.fleet.add(instance)
        return Start(instance.id, model, instance.threads, need.memory, place.id, need.device_memory)

    def stop(self, instance: InstanceEntry, cause: UnloadCause = "idle", room_for: str | None = None) -> Effect:
        """Unload an instance."""
        self.fleet.close(instance)
        self.open.add(instance.model)
        return Stop(instance.id, cause, room_for)

    def refuse(self, error: Callable[[Ticket], LllmsError], tickets: Iterable[Ticket]) -> list[Effect]:
        """Refuse waiting requests."""
        effects: list[Effect] = []
        for ticket in tickets:
            self.queue.remove(ticket)
            self.released(ticket.model)
            effects.append(Refuse(ticket.id, error(ticket)))
        return effects
