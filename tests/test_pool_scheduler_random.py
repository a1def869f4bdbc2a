"""The scheduler's invariants, for events in any order: a state machine plays the pool and its workers."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lllms_core.caller import Caller
from lllms_core.errors import InsufficientMemory, LllmsError, ModelLoadFailed, ModelTooLarge, QueueFull, WaitedTooLong
from lllms_core.pool.budget import Need, used
from lllms_core.pool.effects import Assign, Effect, Measure, Refuse, ShareCores, ShrinkSessions, Start, Stop
from lllms_core.pool.placing import LOOK_AGAIN
from lllms_core.pool.queue import RANKS
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.setbacks import FIRST_PAUSE, LONGEST_PAUSE
from lllms_core.pool.state import (
    NEVER,
    InstanceEntry,
    MemoryLimit,
    ModelLimits,
    PoolChange,
    PoolLimits,
    Surroundings,
)

MODELS = ("a", "b", "c")
LONG = 10_000.0
NEEDS = st.builds(Need, private=st.integers(0, 6), shared=st.integers(0, 4), file=st.sampled_from([None, "file"]))
CALLERS = st.builds(
    Caller, st.sampled_from(["", "x", "y"]), st.sampled_from([None, "high", "low"]), st.sampled_from([None, 2.0]),
)
AROUND = st.builds(Surroundings, st.integers(0, 5), st.none() | st.integers(0, 20))
PREFIXES = st.sampled_from([(), ("x",), ("x", "xy"), ("x", "xz"), ("q",)])


class PoolPlay(RuleBasedStateMachine):
    """Submits, cancels, loads, kills and waits at random, and checks every decision."""

    @initialize(
        limits=st.builds(
            PoolLimits,
            concurrency=st.integers(1, 4),
            queue_size=st.integers(0, 6),
            queue_timeout=st.sampled_from([0.0, 3.0, LONG]),
            max_instances=st.integers(1, 4),
            cores=st.integers(1, 5),
            memory=st.none() | st.builds(MemoryLimit, st.integers(3, 20)),
            max_wait_before_swap=st.sampled_from([0.0, 4.0, LONG]),
            min_residency=st.sampled_from([0.0, 2.0]),
        ),
        models=st.fixed_dictionaries({
            name: st.tuples(st.integers(0, 1), st.integers(1, 3), st.sampled_from([0.0, 0.1, 2.5, NEVER]))
            for name in MODELS
        }),
        needs=st.fixed_dictionaries(dict.fromkeys(MODELS, NEEDS)),
        late=st.booleans(),
        around=AROUND,
    )
    def begin(
        self, limits: PoolLimits, models: dict[str, tuple[int, int, float]], needs: dict[str, Need], late: bool,
        around: Surroundings,
    ) -> None:
        self.around = around
        self.shrinking: int | None = None
        """The bytes of sessions that are being given up."""
        self.grown = False
        """Whether an instance has taken more memory than it was told to, or died for lack of it."""
        self.needs = needs
        self.late = late
        """Whether the answers to `Measure` come later, by a rule."""
        self.measuring: set[str] = set()
        room = limits.max_instances - 1  # leave a place for models that are not kept, as a configuration must
        self.models = {}
        for name, (least, most, ttl) in models.items():
            kept = min(least, room)
            if limits.memory is not None:
                # As a configuration should have it: what is kept fits.
                held = [needs[other] for other, its in self.models.items() for _ in range(its.min_instances)]
                kept = kept if used((), [*held, needs[name]]) <= limits.memory.instances else 0
            room -= kept
            self.models[name] = ModelLimits(kept, most, ttl)
        numbers = itertools.count(1)
        self.limits = limits
        self.scheduler = Scheduler(
            self.models, limits, lambda model: f"{model}{next(numbers)}", look=lambda: self.around,
        )
        self.now = 0.0
        self.names = itertools.count(1)
        self.waiting: dict[str, str] = {}
        """Ticket -> model, in order of arrival."""
        self.callers: dict[str, Caller] = {}
        self.running: dict[str, str] = {}
        """Ticket -> instance."""
        self.refused: dict[str, LllmsError] = {}
        self.known: set[str] = set()
        """Instances that were started and are not gone."""
        self.restored: list[tuple[str, float]] = []
        """The instances that were started without a waiting request, and when."""
        self.carry_out(self.scheduler.start(self.now))

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(model=st.sampled_from(MODELS), prefixes=PREFIXES, caller=CALLERS, retry=st.booleans())
    def submit(self, model: str, prefixes: tuple[str, ...], caller: Caller, retry: bool) -> None:
        ticket = f"t{next(self.names)}"
        waited, refused, known = len(self.waiting), len(self.refused), set(self.known)
        cooling = None if retry or self.alive(model) else self.scheduler.setbacks.cooling(model, self.now)
        self.waiting[ticket] = model
        self.callers[ticket] = caller
        if retry:  # a kept instance may follow its failed load at once
            self.restored = [one for one in self.restored if one[0] != model]
        self.carry_out(self.scheduler.submit(ticket, model, prefixes, self.now, caller=caller, retry=retry))
        refusal = self.refused.get(ticket)
        if cooling is not None:
            assert isinstance(refusal, ModelLoadFailed)
            assert refusal.retry_after is not None
            assert cooling.retry_at - self.now <= refusal.retry_after <= LONGEST_PAUSE
            assert self.known == known, "nothing is loaded for a request that is refused"
        assert (cooling is not None) == isinstance(refusal, ModelLoadFailed)
        for full in [one for one in list(self.refused)[refused:] if isinstance(self.refused[one], QueueFull)]:
            assert waited >= self.limits.queue_size
            whose = self.callers[full].client
            others = [one for one in self.waiting if self.callers[one].client == caller.client]
            assert full == ticket or len(others) <= 1 + sum(self.callers[one].client == whose for one in self.waiting)
        if isinstance(self.refused.get(ticket), WaitedTooLong | InsufficientMemory):
            assert self.limits.queue_timeout == 0

    @rule(models=st.lists(st.sampled_from(MODELS), min_size=2, max_size=6), caller=CALLERS)
    def submit_many(self, models: list[str], caller: Caller) -> None:
        for model in models:
            self.submit(model, (), caller, False)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.running)))
        del self.running[ticket]
        self.carry_out(self.scheduler.finished(ticket, self.now))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.waiting)))
        del self.waiting[ticket]
        self.carry_out(self.scheduler.leave(ticket, self.now))

    @precondition(lambda self: self.of_state("loading"))
    @rule(data=st.data(), slots=st.integers(1, 3))
    def load(self, data: st.DataObject, slots: int) -> None:
        instance = data.draw(st.sampled_from(self.of_state("loading")))
        self.carry_out(self.scheduler.loaded(instance.id, slots, self.now))

    @precondition(lambda self: self.measuring)
    @rule(data=st.data())
    def measure(self, data: st.DataObject) -> None:
        self.measured(data.draw(st.sampled_from(sorted(self.measuring))))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), starved=st.booleans())
    def end(self, data: st.DataObject, starved: bool) -> None:
        """An instance closes as told, or dies, or cannot be loaded, perhaps for lack of memory."""
        instance = data.draw(st.sampled_from(sorted(self.known)))
        entry = self.scheduler.instances[instance]
        self.grown |= starved and entry.state != "closing"
        waiting = [ticket for ticket, model in self.waiting.items() if model == entry.model]
        self.known.remove(instance)
        self.running = {ticket: place for ticket, place in self.running.items() if place != instance}
        self.carry_out(self.scheduler.gone(instance, "reason", self.now, starved=starved))
        if starved and entry.state == "loading" and not entry.again:
            assert not any(isinstance(self.refused.get(ticket), ModelLoadFailed) for ticket in waiting)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), private=st.integers(0, 9), learnt=st.booleans())
    def take(self, data: st.DataObject, private: int, learnt: bool) -> None:
        """An instance is measured, and perhaps that is learnt for the next ones."""
        entry = self.scheduler.instances[data.draw(st.sampled_from(sorted(self.known)))]
        self.grown |= private > entry.need.private
        if learnt:
            self.grown |= private > self.scheduler.seating.need(entry.model).private
            self.scheduler.seating.learn(entry.model, entry.told.told, private)
        self.carry_out(self.scheduler.takes(entry.id, private, self.now))

    @rule(around=AROUND)
    def change_surroundings(self, around: Surroundings) -> None:
        """Sessions and other programs take more or less memory; the scheduler sees that at its next decision."""
        self.around = around
        self.carry_out(self.scheduler.tick(self.now))

    @precondition(lambda self: self.shrinking is not None)
    @rule(enough=st.booleans())
    def shrink(self, enough: bool) -> None:
        """Sessions are given up, or cannot be."""
        assert self.shrinking is not None
        size, self.shrinking = self.shrinking, None
        if enough:
            free = None if self.around.available is None else self.around.available + size
            self.around = Surroundings(max(0, self.around.sessions - size), free)
        self.carry_out(self.scheduler.shrunk(self.now, enough=enough))

    @rule(seconds=st.sampled_from([0.05, 1.0, 3.0, 7.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.scheduler.wake_at()) is not None and at <= until:
            self.now = at
            self.carry_out(self.scheduler.tick(self.now))
            following = self.scheduler.wake_at()
            assert following is None or following > self.now  # each wake-up does something
        self.now = until
        self.carry_out(self.scheduler.tick(self.now))

    @rule(needs=st.dictionaries(st.sampled_from(MODELS), st.none() | NEEDS))
    def reconfigure(self, needs: dict[str, Need | None]) -> None:
        """Models get other options, and so new instances, perhaps of another size: those that are kept still fit."""
        fresh = set(needs)
        changed = {**self.needs, **{name: need for name, need in needs.items() if need is not None}}
        if self.limits.memory is not None:
            kept = [changed[name] for name, its in self.models.items() for _ in range(its.min_instances)]
            if used((), kept) > self.limits.memory.instances:
                return
        self.needs = changed
        self.measuring.clear()  # the pool ignores what comes of it
        self.restored = [one for one in self.restored if one[0] not in fresh]
        before = {one.id: one.state for one in self.scheduler.instances.values() if one.model not in fresh}
        running = dict(self.running)
        self.carry_out(self.scheduler.reconfigure(PoolChange(self.models, self.limits, fresh=fresh), self.now))
        assert {name: self.running[name] for name in running} == running
        for entry in self.scheduler.instances.values():
            assert entry.retired or entry.model not in fresh or entry.id not in running.values()
            assert not entry.retired or entry.running or entry.state == "closing"
            assert entry.state != "closing" or before.get(entry.id) != "loading"

    @rule()
    def settle(self) -> None:
        """If loads work, and requests and other programs end, every waiting request is served in some turns."""
        turns = 0
        self.around = Surroundings()
        self.carry_out(self.scheduler.tick(self.now))
        while self.waiting:
            turns += 1
            assert turns < 100
            if self.shrinking is not None:
                self.shrink_now()
            for model in list(self.measuring):
                self.measured(model)
            for instance in self.of_state("loading"):
                self.carry_out(self.scheduler.loaded(instance.id, 1, self.now))
            for instance in self.of_state("closing"):
                self.known.remove(instance.id)
                self.carry_out(self.scheduler.gone(instance.id, "closed", self.now))
            for ticket in list(self.running):
                del self.running[ticket]
                self.carry_out(self.scheduler.finished(ticket, self.now))

    @rule()
    def recover(self) -> None:
        """When loads work again, kept instances are restored automatically, after the longest pause at most."""
        for model in list(self.measuring):
            self.measured(model)
        retired = any(one.retired for one in self.scheduler.instances.values())
        if retired or (self.late and self.limits.memory is not None):
            self.settle()  # the memory of a kept instance was taken while nobody knew how much it needs
            for ticket in list(self.running):
                del self.running[ticket]
                self.carry_out(self.scheduler.finished(ticket, self.now))
        for instance in [one for one in self.of_state("closing") if one.retired]:
            self.known.remove(instance.id)
            self.carry_out(self.scheduler.gone(instance.id, "closed", self.now))
        if self.shrinking is not None:
            self.shrink_now()
        self.around = Surroundings()
        self.carry_out(self.scheduler.tick(self.now))
        until = self.now + LONGEST_PAUSE
        while (at := self.scheduler.wake_at()) is not None and at <= until:
            self.now = at
            self.carry_out(self.scheduler.tick(self.now))
            for instance in self.of_state("loading"):
                self.carry_out(self.scheduler.loaded(instance.id, 1, self.now))
        for instance in self.of_state("loading"):
            self.carry_out(self.scheduler.loaded(instance.id, 1, self.now))
        for model, limits in self.models.items():
            assert self.grown or sum(i.state == "ready" for i in self.alive(model)) >= limits.min_instances

    def shrink_now(self) -> None:
        self.shrinking = None
        self.around = Surroundings()
        self.carry_out(self.scheduler.shrunk(self.now, enough=True))

    # -- how the pool reacts ------------------------------------------------------------------------------------------

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(instance, model, threads):
                    assert instance not in self.known
                    assert threads == self.limits.cores
                    assert model == self.scheduler.instances[instance].model
                    self.known.add(instance)
                    self.check_room()
                    if model not in self.waiting.values() and not self.scheduler.instances[instance].again:
                        self.restored.append((model, self.now))
                case Assign(ticket, instance):
                    model = self.waiting[ticket]
                    assert model == self.scheduler.instances[instance].model
                    alike = [one for one, its in self.waiting.items() if its == model and self.alike(one, ticket)]
                    assert ticket == alike[0]  # in order
                    del self.waiting[ticket]
                    self.running[ticket] = instance
                case Measure(model):
                    assert self.limits.memory is not None
                    assert model not in self.measuring
                    self.measuring.add(model)
                case ShrinkSessions(size):
                    assert self.shrinking is None
                    assert 0 < size <= self.around.sessions
                    self.shrinking = size
                case Refuse(ticket, error):
                    if isinstance(error, ModelTooLarge):
                        self.check_too_large(self.waiting[ticket])
                    del self.waiting[ticket]  # raises if it was answered before
                    self.refused[ticket] = error
                case Stop(instance):
                    assert instance in self.known
                    assert instance not in self.running.values()
                    assert self.scheduler.instances[instance].state == "closing"
                case ShareCores(instance, count):
                    assert instance in self.running.values()
                    assert count == self.scheduler.instances[instance].threads
        while self.measuring and not self.late:
            self.measured(min(self.measuring))
        self.check_nobody_waits_in_vain()

    def measured(self, model: str) -> None:
        self.measuring.remove(model)
        self.carry_out(self.scheduler.measured(model, self.needs[model], self.now))

    def check_room(self) -> None:
        """All instances fit together when one is loaded: into the limit, and into what the machine has for them."""
        if self.limits.memory is None:
            return
        here = list(self.scheduler.instances.values())
        taken = used((), [one.need for one in here])
        assert taken + self.around.sessions <= self.limits.memory.instances
        if self.around.available is not None:
            held = []
            for one in here:
                loads = one.state == "loading"
                private = (0 if loads else one.need.private) if one.measured is None else one.measured
                shared = 0 if loads else one.need.shared
                held.append(Need(min(private, one.need.private), shared, one.need.file))
            assert taken - used((), held) <= self.around.available

    def check_too_large(self, model: str) -> None:
        assert self.limits.memory is not None
        needs = [*self.kept_needs(model), self.scheduler.seating.need(model)]
        if self.grown:
            needs += [one.need for one in self.scheduler.instances.values() if self.models[one.model].min_instances]
        assert used((), needs) > self.limits.memory.instances

    def kept_needs(self, but: str) -> list[Need]:
        """The needs of all instances that models keep, without those that `but` lacks."""
        return [
            self.scheduler.seating.need(model) for model, limits in self.models.items()
            for _ in range(min(limits.min_instances, len(self.alive(model))) if model == but else limits.min_instances)
        ]

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def every_waiting_request_has_a_position(self) -> None:
        positions = self.scheduler.positions(self.now)
        assert positions.keys() == self.waiting.keys()
        assert sorted(positions.values()) == list(range(1, len(self.waiting) + 1))

    @invariant()
    def counts_agree(self) -> None:
        assert self.waiting == {ticket.id: ticket.model for ticket in self.scheduler.waiting.values()}
        assert self.running == {ticket.id: ticket.instance for ticket in self.scheduler.running.values()}
        assert self.known == self.scheduler.instances.keys()

    @invariant()
    def memory_suffices(self) -> None:
        if self.limits.memory is None:
            return
        here = [one for one in self.scheduler.instances.values() if one.state != "closing" or not self.grown]
        if used((), [one.need for one in here]) > self.limits.memory.instances:
            assert self.grown, "only growth exceeds the limit"
            assert not [one for one in here if one.idle and self.spare(one)], "an idle instance could make room"

    @invariant()
    def limits_hold(self) -> None:
        assert len(self.running) <= self.limits.concurrency
        assert len(self.waiting) <= self.limits.queue_size
        assert len(self.known) <= self.limits.max_instances
        for instance in self.scheduler.instances.values():
            assert len(instance.running) <= instance.slots
            assert not instance.running or instance.state == "ready"
        for model, limits in self.models.items():
            own = [one for one in self.scheduler.instances.values() if one.model == model and not one.retired]
            assert len(own) <= limits.max_instances
            assert sum(instance.state == "loading" for instance in own) <= 1

    @invariant()
    def kept_instances_have_their_places(self) -> None:
        if any(one.retired for one in self.scheduler.instances.values()):
            return  # its successor may wait for its place
        if not self.grown:  # else a kept one may be too large by now, and needs no place
            assert len(self.known) + sum(map(self.missing, MODELS)) <= self.limits.max_instances
        for model in filter(self.missing, MODELS):
            if (self.late or self.grown) and self.limits.memory is not None:
                continue  # it waits to be measured, or for memory that was taken before
            if self.shrinking is not None or self.scheduler.seating.shortage(model) is not None:
                continue  # it waits for sessions, or for other programs
            at = self.scheduler.wake_at()
            setback = self.scheduler.setbacks.get(model)
            assert setback is not None
            assert at is not None
            assert self.now < at <= setback.retry_at

    @invariant()
    def nothing_is_restored_in_a_loop(self) -> None:
        for (model, before), (other, after) in itertools.pairwise(sorted(self.restored)):
            assert model != other or after - before >= FIRST_PAUSE - 1e-6

    @invariant()
    def cores_are_shared(self) -> None:
        working = [i.threads for i in self.scheduler.instances.values() if i.running]
        assert all(threads >= 1 for threads in working)
        assert not working or sum(working) == max(self.limits.cores, len(working))

    @invariant()
    def no_time_limit_is_missed(self) -> None:
        at = self.scheduler.wake_at()
        assert at is None or at > self.now
        for ticket in self.scheduler.waiting.values():
            patience = self.callers[ticket.id].patience
            assert ticket.arrived + min(self.limits.queue_timeout, LONG if patience is None else patience) > self.now
        for model, limits in self.models.items():
            spare = len(self.alive(model)) - limits.min_instances
            if limits.ttl != NEVER and model not in self.waiting.values():
                expired = [i for i in self.alive(model) if i.idle and i.idle_since + limits.ttl <= self.now]
                assert not expired or spare <= 0

    def check_nobody_waits_in_vain(self) -> None:
        if len(self.running) == self.limits.concurrency:
            return
        for ticket, model in self.waiting.items():
            alive, limits = self.alive(model), self.models[model]
            free = [i for i in alive if i.state == "ready" and len(i.running) < i.slots]
            starving = {
                its for other, its in self.waiting.items() if not self.alive(its) and (
                    self.rank(other) < self.rank(ticket)
                    or self.scheduler.waiting[other].arrived + self.limits.max_wait_before_swap <= self.now
                )
            }
            if (self.late or self.grown) and self.limits.memory is not None:
                starving |= set(filter(self.missing, MODELS)) - {model}
            assert not free or starving, "a slot is free, and nobody needs the instance more"
            own = sum(i.model == model and not i.retired for i in self.scheduler.instances.values())
            if alive or own >= limits.max_instances or model in self.measuring:
                continue  # it waits for a slot, a load, the end of an instance, or an estimate
            if self.limits.memory is not None:
                if self.around.available is not None:
                    self.check_looks_again()
                elif set(self.waiting.values()) == {model} and self.shrinking is None:  # nothing is promised to others
                    self.check_no_memory(model, self.limits.memory.instances)
                continue
            reserved = sum(self.missing(other) for other in MODELS if other != model)
            assert len(self.known) + reserved >= self.limits.max_instances, "there is room for an instance"
            if not self.leaving():
                assert len(self.known) + reserved == self.limits.max_instances
                spare = [i for i in self.scheduler.instances.values() if i.idle and i.model != model and self.spare(i)]
                assert not spare, "an idle instance could make room"

    def check_looks_again(self) -> None:
        """Something will happen: an event, or another look for memory that other programs hold."""
        busy = [one for one in self.scheduler.instances.values() if not one.idle]
        at = self.scheduler.wake_at()
        assert busy or self.shrinking is not None or (at is not None and at <= self.now + LOOK_AGAIN)

    def check_no_memory(self, model: str, limit: int) -> None:
        """There is no room for an instance, nor could idle ones make any, as far as needs are known."""
        need = self.scheduler.seating.need
        reserved = [need(other) for other in MODELS if other != model for _ in range(self.missing(other))]
        here = list(self.scheduler.instances.values())

        def fit(instances: list[InstanceEntry]) -> bool:
            needs = [need(model), *reserved, *(one.need for one in instances)]
            return (
                len(needs) <= self.limits.max_instances and used((), needs) + self.around.sessions <= limit
            )

        assert not fit(here), "there is room for an instance"
        for other in MODELS:
            if other != model:
                idle = sorted((i for i in here if i.model == other and i.idle), key=lambda i: i.idle_since)
                spare = len(self.alive(other)) - self.models[other].min_instances
                here = [i for i in here if i not in idle[: max(0, spare)]]
        assert self.leaving() or not fit(here), "idle instances could make room"

    def rank(self, ticket: str) -> int:
        return RANKS[self.callers[ticket].priority or "normal"]

    def alike(self, one: str, other: str) -> bool:
        """Whether two requests have the same client and priority."""
        return self.rank(one) == self.rank(other) and self.callers[one].client == self.callers[other].client

    def of_state(self, state: str) -> list[InstanceEntry]:
        return [instance for instance in self.scheduler.instances.values() if instance.state == state]

    def alive(self, model: str) -> list[InstanceEntry]:
        there = [i for i in self.scheduler.instances.values() if i.model == model and i.state != "closing"]
        return [one for one in there if not one.retired]

    def leaving(self) -> bool:
        """Whether an instance is on its way out."""
        return any(one.state == "closing" or one.retired for one in self.scheduler.instances.values())

    def missing(self, model: str) -> int:
        return max(0, self.models[model].min_instances - len(self.alive(model)))

    def spare(self, instance: InstanceEntry) -> bool:
        return len(self.alive(instance.model)) > self.models[instance.model].min_instances


class TestPoolPlay(PoolPlay.TestCase):  # type: ignore[misc,name-defined]  # hypothesis makes the base at run time
    """Random histories of a pool keep every invariant."""

    settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
