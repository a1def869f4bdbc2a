"""The pool's decisions, without a clock and without processes."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve

from lllms_core.caller import Caller
from lllms_core.errors import (
    ChecksumMismatch,
    DownloadCancelled,
    DownloadError,
    InvalidSource,
    LllmsError,
    ModelLoadFailed,
    QueueFull,
    ShuttingDown,
    SourceUnavailable,
    WaitedTooLong,
)
from lllms_core.pool.effects import Assign, Effect, Prepare, Refuse, ShareCores, Start, Stop
from lllms_core.pool.scheduler import Scheduler
from lllms_core.pool.setbacks import Setbacks
from lllms_core.pool.state import ModelLimits, PoolLimits

ONE = PoolLimits(concurrency=8, queue_size=8, queue_timeout=100, max_instances=1, cores=4)


class World:
    """A scheduler, with shorthands for its events; instances are called a1, a2, b1 ..."""

    def __init__(self, limits: PoolLimits = ONE, /, **models: ModelLimits) -> None:
        numbers: dict[str, itertools.count[int]] = {model: itertools.count(1) for model in models}
        self.scheduler = Scheduler(models, limits, lambda model: f"{model}{next(numbers[model])}")
        self.tickets = itertools.count(1)

    def submit(
        self, model: str, now: float = 0.0, prefixes: Sequence[str] = (), name: str = "", ttl: float | None = None,
        **caller: Any,
    ) -> list[Effect]:
        ticket = name or f"{model}-{next(self.tickets)}"
        return self.scheduler.submit(ticket, model, prefixes, now, ttl, caller=Caller(**caller))

    def serve(self, instance: str, slots: int = 1, now: float = 0.0) -> list[Effect]:
        return self.scheduler.loaded(instance, slots, now)

    def states(self) -> Mapping[str, str]:
        return {instance.id: instance.state for instance in self.scheduler.instances.values()}

    def place(self, ticket: str) -> str | None:
        return self.scheduler.running[ticket].instance


def refusal(effects: list[Effect]) -> LllmsError:
    [error] = [effect.error for effect in effects if isinstance(effect, Refuse)]
    return error


def test_first_request_loads_and_runs() -> None:
    """A request for a model that is not loaded starts one load, waits for it, and is assigned when it is done."""
    world = World(a=ModelLimits())
    assert world.submit("a", name="t1") == [Start("a1", "a", 4)]
    assert world.submit("a", name="t2") == []
    assert world.serve("a1", slots=2) == [Assign("t1", "a1"), Assign("t2", "a1")]


def test_requests_of_a_model_are_served_in_order() -> None:
    """Requests for one model get slots in order of arrival, even if one in between leaves."""
    world = World(a=ModelLimits())
    for name in ("t1", "t2", "t3", "t4"):
        world.submit("a", name=name)
    world.serve("a1")
    world.scheduler.leave("t3", 0)
    assert world.scheduler.finished("t1", 1) == [Assign("t2", "a1")]
    assert world.scheduler.finished("t2", 2) == [Assign("t4", "a1")]


def test_concurrency_bounds_all_models_together() -> None:
    """No more than `concurrency` requests run over all models, and nothing is loaded in vain."""
    world = World(PoolLimits(concurrency=1, max_instances=2, cores=4), a=ModelLimits(), b=ModelLimits())
    world.submit("a", name="t1")
    world.serve("a1", slots=4)
    assert world.submit("b", name="t2") == []
    assert world.submit("a", name="t3") == []
    assert world.scheduler.finished("t1", 1) == [Start("b1", "b", 4), Assign("t3", "a1")]


def test_model_grows_when_its_slots_are_full() -> None:
    """Another instance is loaded when every slot of the model is taken, up to `max_instances`, one at a time."""
    world = World(PoolLimits(max_instances=4, cores=1), a=ModelLimits(max_instances=2))
    for _ in range(5):
        world.submit("a")
    assert world.serve("a1") == [Assign("a-1", "a1"), Start("a2", "a", 1)]
    assert world.serve("a2") == [Assign("a-2", "a2")]


def test_closing_instance_counts_until_it_is_gone() -> None:
    """While an instance unloads it still holds its memory: its model's limit and the pool's count it."""
    world = World(evolve(ONE, max_instances=2), a=ModelLimits(ttl=0))
    world.submit("a", name="t1")
    world.serve("a1")
    assert world.scheduler.finished("t1", 1) == [Stop("a1")]
    assert world.submit("a", 1) == []
    assert world.scheduler.gone("a1", "closed", 2) == [Start("a2", "a", 4)]


def test_idle_instance_expires_exactly_at_its_ttl() -> None:
    """An idle instance is unloaded when its ttl is over, counted from the end of its last request, and not before."""
    world = World(a=ModelLimits(ttl=10))
    world.submit("a", name="t1")
    world.serve("a1", now=1)
    world.scheduler.finished("t1", 100)
    assert world.scheduler.wake_at() == 110
    assert world.scheduler.tick(109.999) == []
    assert world.scheduler.tick(110) == [Stop("a1")]
    assert world.scheduler.wake_at() is None


def test_a_request_may_bring_its_own_ttl() -> None:
    """A request's `ttl` applies to its instance until the next request, which sets its own or restores the model's."""
    world = World(a=ModelLimits(ttl=10))
    world.submit("a", name="first", ttl=2)
    world.serve("a1")
    world.scheduler.finished("first", 5)
    assert world.scheduler.wake_at() == 7
    world.submit("a", 6, name="second")
    world.scheduler.finished("second", 8)
    assert world.scheduler.wake_at() == 18
    world.submit("a", 9, name="third", ttl=0)
    assert world.scheduler.finished("third", 10) == [Stop("a1")]


def test_ttl_counts_from_the_load_of_an_unused_instance() -> None:
    """An instance whose request left while it was loaded counts its ttl from the load."""
    world = World(a=ModelLimits(ttl=10))
    world.submit("a", name="t1")
    world.scheduler.leave("t1", 1)
    assert world.serve("a1", now=50) == []
    assert world.scheduler.wake_at() == 60


def test_ttl_of_zero_serves_those_who_wait_first() -> None:
    """With ttl 0 an instance is unloaded as soon as it is idle, but not while a request waits for it."""
    world = World(a=ModelLimits(ttl=0))
    world.submit("a", name="t1")
    world.submit("a", name="t2")
    assert world.serve("a1") == [Assign("t1", "a1")]
    assert world.scheduler.finished("t1", 1) == [Assign("t2", "a1")]
    assert world.scheduler.finished("t2", 2) == [Stop("a1")]


def test_ttl_of_minus_one_never_expires() -> None:
    """With ttl -1 an idle instance stays until another model needs its place."""
    world = World(a=ModelLimits(ttl=-1), b=ModelLimits())
    world.submit("a", name="t1")
    world.serve("a1")
    world.scheduler.finished("t1", 1)
    assert world.scheduler.wake_at() is None
    assert world.scheduler.tick(1e9) == []
    assert world.submit("b", 1e9) == [Stop("a1")]


def test_instance_that_is_wanted_does_not_expire() -> None:
    """An idle instance whose model has waiting requests (`concurrency` is full) stays, and causes no wake-ups."""
    limits = PoolLimits(concurrency=1, max_instances=2, queue_timeout=1000, cores=1)
    world = World(limits, a=ModelLimits(ttl=5), b=ModelLimits())
    world.submit("a", name="t1")
    world.serve("a1")
    world.scheduler.finished("t1", 1)
    world.submit("b", 2, name="t2")
    world.serve("b1", now=2)
    world.submit("a", 3, name="t3")
    assert world.scheduler.wake_at() == 1003
    assert world.scheduler.tick(6) == []
    assert world.scheduler.finished("t2", 7) == [Assign("t3", "a1")]


def test_ttl_keeps_min_instances() -> None:
    """Of three idle instances with `min_instances` 2, exactly one expires: the one that was idle longest."""
    world = World(PoolLimits(max_instances=3, cores=1), a=ModelLimits(2, 3, ttl=5))
    assert world.scheduler.start(0) == [Start("a1", "a", 1)]
    assert world.serve("a1") == [Start("a2", "a", 1)]
    world.serve("a2", now=1)
    for name in ("t1", "t2", "t3"):
        world.submit("a", 2, name=name)
    world.serve("a3", now=2)
    longest_idle = world.place("t2")
    for now, name in enumerate(("t2", "t1", "t3"), 3):
        world.scheduler.finished(name, now)
    assert world.scheduler.tick(100) == [Stop(longest_idle or "")]
    assert world.scheduler.wake_at() is None


def test_queue_is_bounded() -> None:
    """A request that finds `queue_size` others waiting is refused, and told when to retry."""
    world = World(evolve(ONE, queue_size=2), a=ModelLimits())
    world.submit("a")
    world.submit("a")
    error = refusal(world.submit("a"))
    assert isinstance(error, QueueFull)
    assert error.message.startswith("2 requests wait already")
    assert error.retry_after >= 1
    world.serve("a1", slots=1)
    assert world.submit("a") == []  # one runs, two wait


def test_retry_after_follows_how_long_requests_take() -> None:
    """The advised retry time grows with the queue and with the time that requests take, up to a minute."""
    advice = []
    for seconds in (1, 10, 10_000):
        world = World(evolve(ONE, queue_size=1, concurrency=1), a=ModelLimits())
        world.submit("a", name="t1")
        world.serve("a1")
        world.scheduler.finished("t1", seconds)
        world.submit("a", seconds)
        world.submit("a", seconds)
        error = refusal(world.submit("a", seconds))
        assert isinstance(error, QueueFull)
        advice.append(error.retry_after)
    assert advice == [2, 20, 60]


def test_queue_of_size_zero_still_serves_who_need_not_wait() -> None:
    """With `queue_size` 0 a request runs if there is a free slot, and is refused otherwise."""
    world = World(evolve(ONE, queue_size=0), a=ModelLimits(min_instances=1))
    world.scheduler.start(0)
    world.serve("a1")
    assert world.submit("a", name="t1") == [Assign("t1", "a1")]
    assert isinstance(refusal(world.submit("a")), QueueFull)


def test_queue_timeout_refuses_exactly_in_time() -> None:
    """A request that has waited for `queue_timeout` seconds is refused, and not before."""
    world = World(a=ModelLimits())
    world.submit("a", 5, name="t1")
    assert world.scheduler.wake_at() == 105
    assert world.scheduler.tick(104.999) == []
    error = refusal(world.scheduler.tick(105))
    assert isinstance(error, WaitedTooLong)
    assert "100 s" in error.message


def test_queue_timeout_of_zero_still_serves_who_need_not_wait() -> None:
    """With `queue_timeout` 0 a request runs if there is a free slot, and is refused at once otherwise."""
    world = World(evolve(ONE, queue_timeout=0), a=ModelLimits(min_instances=1))
    world.scheduler.start(0)
    world.serve("a1")
    assert world.submit("a", name="t1") == [Assign("t1", "a1")]
    assert isinstance(refusal(world.submit("a")), WaitedTooLong)


def test_least_recently_used_idle_instance_makes_room() -> None:
    """When the pool is full, the instance idle longest is unloaded; the new one is started when it is gone."""
    world = World(evolve(ONE, max_instances=2), **dict.fromkeys("abcd", ModelLimits()))
    for now, model in enumerate("ab"):
        world.submit(model, now, name=model)
        world.serve(f"{model}1", now=now)
    world.scheduler.finished("b", 5)
    world.scheduler.finished("a", 6)
    assert world.submit("c", 7) == [Stop("b1")]
    assert world.submit("c", 7) == []
    assert world.submit("d", 7) == [Stop("a1")]  # the place of b1 is for c
    assert world.scheduler.gone("b1", "closed", 8) == [Start("c1", "c", 4)]
    assert world.scheduler.gone("a1", "closed", 9) == [Start("d1", "d", 4)]


def test_instances_that_are_kept_make_no_room() -> None:
    """`min_instances` of a model are never unloaded for another one."""
    world = World(evolve(ONE, max_instances=2), a=ModelLimits(1, 2), b=ModelLimits(), c=ModelLimits())
    world.scheduler.start(0)
    world.serve("a1")
    world.submit("b", name="t1")
    world.serve("b1", now=1)
    assert world.submit("c", 2) == []
    assert world.scheduler.finished("t1", 3) == [Stop("b1")]


def test_nobody_starves_behind_models_that_are_never_idle() -> None:
    """A model gets a place although the others are always busy: after the longest wait, one takes no requests."""
    world = World(evolve(ONE, max_instances=2), a=ModelLimits(), b=ModelLimits(), c=ModelLimits())
    for model in "ab":
        world.submit(model, 0, name=f"{model}-old")
        world.serve(f"{model}1", slots=2)
    world.submit("b", 1, name="b-later")
    assert world.submit("c", 2, name="c") == []
    assert world.submit("a", 31.9, name="a-young") == [Assign("a-young", "a1")]
    world.scheduler.finished("a-young", 31.9)
    world.scheduler.finished("b-old", 31.9)
    assert world.submit("b", 31.9, name="b-new") == [Assign("b-new", "b1")]
    assert world.submit("a", 32, name="a-new") == []  # waits although a1 has a free slot: c has waited for 30 s
    world.scheduler.finished("b-later", 33)
    assert world.submit("b", 33, name="b-newer") == [Assign("b-newer", "b1")]  # only one instance is drained
    assert world.scheduler.finished("a-old", 34) == [Stop("a1"), ShareCores("b1", 4)]
    assert world.scheduler.gone("a1", "closed", 35) == [Start("c1", "c", 4)]
    assert Assign("c", "c1") in world.serve("c1", now=36)


def test_draining_ends_when_who_waited_leaves() -> None:
    """An instance drained for another model takes requests again when that model has no more waiting requests."""
    world = World(a=ModelLimits(), b=ModelLimits())
    world.submit("a", 0)
    world.serve("a1", slots=2)
    world.submit("b", 1, name="b")
    assert world.submit("a", 32, name="late") == []
    assert world.scheduler.leave("b", 33) == [Assign("late", "a1")]


def test_draining_ends_when_who_waited_has_waited_too_long() -> None:
    """When the starving request is refused for its waiting time, the requests held back for it run."""
    world = World(a=ModelLimits(), b=ModelLimits())
    world.submit("a", 0)
    world.serve("a1", slots=2)
    world.submit("b", 1, name="b")
    world.submit("a", 32, name="late")
    assert [type(effect) for effect in world.scheduler.tick(101)] == [Refuse, Assign]


def test_waiters_of_a_loaded_model_go_before_a_swap() -> None:
    """Requests for the loaded model are served before another takes its place, even if they came later."""
    world = World(a=ModelLimits(), b=ModelLimits())
    world.submit("a", 0, name="a1")
    world.serve("a1")
    for now, model in enumerate("bababa", 1):
        world.submit(model, now)
    for now in range(20, 23):
        assert isinstance(world.scheduler.finished(next(iter(world.scheduler.running)), now)[0], Assign)
    assert world.scheduler.finished(next(iter(world.scheduler.running)), 23) == [Stop("a1")]
    assert world.scheduler.gone("a1", "closed", 24) == [Start("b1", "b", 4)]
    assert len(world.serve("b1", slots=4, now=25)) == 3  # one load for all that wait


def test_an_instance_that_was_just_loaded_serves_its_own_first() -> None:
    """For `min_residency` seconds an instance in use makes no room, however long others have waited."""
    world = World(a=ModelLimits(), b=ModelLimits())
    world.submit("a", 0, name="t1")
    world.submit("b", 0, name="b")
    assert world.serve("a1", now=40) == [Assign("t1", "a1")]
    world.submit("a", 41, name="t2")
    world.submit("a", 42, name="t3")
    assert world.scheduler.finished("t1", 49.9) == [Assign("t2", "a1")]
    assert world.scheduler.finished("t2", 50) == [Stop("a1")]


def test_an_idle_instance_makes_room_at_once() -> None:
    """An instance that has served all that wait for it stays no longer, even right after its load."""
    world = World(a=ModelLimits(), b=ModelLimits())
    world.submit("a", 0, name="a")
    world.submit("b", 0, name="b")
    world.serve("a1", now=1)
    assert world.scheduler.finished("a", 1.5) == [Stop("a1")]


def test_urgent_requests_do_not_wait_for_others_to_end() -> None:
    """For a better priority an instance takes no requests at once, unless it was just loaded."""
    world = World(a=ModelLimits(), b=ModelLimits(priority="high"))
    world.submit("a", 0, name="a")
    world.serve("a1", slots=2, now=1)
    world.submit("b", 2, name="b")
    assert world.submit("a", 10.9, name="young") == [Assign("young", "a1")]
    world.scheduler.finished("young", 11)
    assert world.submit("a", 11, name="late") == []
    assert world.submit("a", 12, name="urgent", priority="high") == [Assign("urgent", "a1")]
    world.scheduler.finished("urgent", 13)
    assert world.scheduler.finished("a", 13) == [Stop("a1")]
    world.scheduler.gone("a1", "closed", 14)
    assert world.serve("b1", now=15) == [Assign("b", "b1")]
    assert world.scheduler.positions(15) == {"late": 1}


def test_positions_follow_the_turns() -> None:
    """A request's position counts those that will be served before it, not those that came before."""
    world = World(a=ModelLimits(), b=ModelLimits())
    world.submit("a", 0, name="runs", client="x")
    world.serve("a1")
    world.submit("b", 1, name="swap", client="z")
    for name, client, priority in (
        ("x1", "x", None), ("x2", "x", None), ("y1", "y", None), ("low", "y", "low"), ("high", "x", "high"),
    ):
        world.submit("a", 2, name=name, client=client, priority=priority)
    assert world.scheduler.positions(2) == {"high": 1, "y1": 2, "x1": 3, "x2": 4, "low": 5, "swap": 6}
    assert world.scheduler.finished("runs", 3) == [Assign("high", "a1")]
    assert world.scheduler.positions(3)["y1"] == 1


def test_a_full_queue_is_shared() -> None:
    """A client that fills the queue keeps no other out: its newest request is refused instead."""
    world = World(evolve(ONE, queue_size=3), a=ModelLimits())
    for name in ("x1", "x2", "x3"):
        world.submit("a", name=name, client="x")
    [effect] = world.submit("a", name="y1", client="y")
    assert isinstance(effect, Refuse)
    assert (effect.ticket, type(effect.error)) == ("x3", QueueFull)
    assert list(world.scheduler.waiting) == ["x1", "x2", "y1"]
    [effect] = world.submit("a", name="y2", client="y")
    assert isinstance(effect, Refuse)
    assert effect.ticket == "y2"  # both would have two


def test_a_request_may_bring_its_own_patience() -> None:
    """A request waits for as long as it says, but not for longer than `queue_timeout`; the refusal says whose limit."""
    world = World(a=ModelLimits())
    for name, patience in (("short", 5.0), ("none", None), ("long", 1000.0)):
        world.submit("a", 0, name=name, patience=patience)
    assert world.scheduler.wake_at() == 5
    error = refusal(world.scheduler.tick(5))
    assert isinstance(error, WaitedTooLong)
    assert error.message == (
        "the request waited 5 s for model 'a', as long as its header X-Queue-Timeout allows"
    )
    assert world.scheduler.wake_at() == 100
    effects = world.scheduler.tick(100)
    assert {effect.ticket for effect in effects if isinstance(effect, Refuse)} == {"none", "long"}
    assert all("server.queue_timeout" in effect.error.message for effect in effects if isinstance(effect, Refuse))


def test_retry_after_counts_the_loads_ahead() -> None:
    """The advised time includes the load of the request's model, and of those before it, as long as loads took."""
    world = World(evolve(ONE, queue_size=1, concurrency=4), a=ModelLimits(), b=ModelLimits())
    for model, loaded in (("a", 20.0), ("b", 50.0)):
        world.submit(model, loaded - 10, name=model)
        if model == "b":
            world.scheduler.gone("a1", "closed", 40.0)
        world.serve(f"{model}1", slots=4, now=loaded)
        world.scheduler.finished(model, loaded + 2)
    world.submit("a", 60)
    error = refusal(world.submit("a", 60))
    assert isinstance(error, QueueFull)
    assert error.retry_after == 10 + 1  # a's load, and two requests of 2 s in four slots
    world.scheduler.gone("b1", "closed", 61)
    world.serve("a2", slots=4, now=62)
    world.submit("b", 63)
    error = refusal(world.submit("b", 63))
    assert isinstance(error, QueueFull)
    assert error.retry_after == 10 + 1


def test_failed_load_refuses_those_who_waited() -> None:
    """A failed load refuses all requests that wait for it, with the reason; one after the cooldown tries again."""
    world = World(a=ModelLimits())
    world.submit("a", name="t1")
    world.submit("a", name="t2")
    effects = world.scheduler.gone("a1", "no such file", 1)
    assert [type(effect) for effect in effects] == [Refuse, Refuse]
    assert isinstance(effects[0], Refuse)
    assert isinstance(effects[0].error, ModelLoadFailed)
    assert "no such file" in effects[0].error.message
    assert world.submit("a", 11) == [Start("a2", "a", 4)]


def fail_load(world: World, instance: str, now: float) -> float:
    """Let a load fail; return how long the model cools down."""
    world.scheduler.gone(instance, "no such file", now)
    last = world.scheduler.setbacks.cooling(instance[0], now)
    assert last is not None
    return last.retry_at - now


def test_a_failed_load_cools_down() -> None:
    """Requests within 10 s of a failed load are refused at once, with the cause and the time of the next try."""
    world = World(a=ModelLimits())
    world.submit("a")
    assert fail_load(world, "a1", 1) == 10
    for now, left in ((1, 10), (4.5, 7), (10.999, 1)):
        error = refusal(world.submit("a", now))
        assert isinstance(error, ModelLoadFailed)
        assert error.retry_after == left
        assert f"no such file; next try in {left} s (`lllms load a` tries at once)" in error.message
    assert (world.scheduler.instances, world.scheduler.waiting) == ({}, {})
    assert world.submit("a", 11) == [Start("a2", "a", 4)]


def test_consecutive_failed_loads_double_the_cooldown() -> None:
    """10 s, doubling up to 5 minutes; a load that succeeds, and later fails again, begins anew."""
    world = World(a=ModelLimits())
    now, pauses = 0.0, []
    for number in range(1, 8):
        world.submit("a", now)
        pauses.append(fail_load(world, f"a{number}", now))
        now += pauses[-1]
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    world.submit("a", now, name="served")
    world.serve("a8", now=now)
    assert world.scheduler.setbacks.failed_loads() == {}
    world.scheduler.finished("served", now)
    world.scheduler.unload("a", now)
    world.scheduler.gone("a8", "closed", now)
    world.submit("a", now)
    assert fail_load(world, "a9", now) == 10


def test_an_explicit_load_does_not_wait_for_the_cooldown() -> None:
    """A request with `retry` forgets the failure and loads; others wait with it instead of being refused."""
    world = World(a=ModelLimits())
    world.submit("a")
    fail_load(world, "a1", 1)
    assert world.scheduler.submit("load", "a", (), 2, retry=True) == [Start("a2", "a", 4)]
    assert world.submit("a", 3) == []
    assert fail_load(world, "a2", 4) == 10


def test_changed_files_end_the_cooldown() -> None:
    """`forgive` forgets a failed load; a kept instance is then loaded at once, others at the next request."""
    for kept in (0, 1):
        world = World(a=ModelLimits(min_instances=kept))
        if kept:
            world.scheduler.start(0)
        else:
            world.submit("a")
        fail_load(world, "a1", 1)
        assert world.scheduler.forgive("a", 2) == [Start("a2", "a", 4)] * kept
        assert world.submit("a", 2) == [Start("a2", "a", 4)] * (1 - kept)


def test_a_death_is_no_failed_load() -> None:
    """After a death at work the next request loads the model at once."""
    world = World(a=ModelLimits())
    world.submit("a")
    world.serve("a1")
    world.scheduler.gone("a1", "killed", 1)
    assert world.scheduler.setbacks.failed_loads() == {}
    assert world.submit("a", 1) == [Start("a2", "a", 4)]


def test_a_model_that_cools_down_serves_with_what_it_has() -> None:
    """While another instance cannot be loaded, requests queue for the one there is; it grows after the cooldown."""
    world = World(PoolLimits(max_instances=4, cores=1), a=ModelLimits(max_instances=3))
    for name in ("t1", "t2"):
        world.submit("a", name=name)
    world.serve("a1")
    assert fail_load(world, "a2", 1) == 10
    assert world.submit("a", 2, name="t3") == []
    assert world.scheduler.finished("t1", 3) == [Assign("t2", "a1")]
    assert world.submit("a", 11) == [Start("a3", "a", 1)]


def test_those_who_waited_are_worth_a_try() -> None:
    """If the only instance dies during a cooldown, the requests that were admitted before get another load at once."""
    world = World(PoolLimits(max_instances=4, cores=1), a=ModelLimits(max_instances=2))
    for name in ("t1", "t2"):
        world.submit("a", name=name)
    world.serve("a1")
    fail_load(world, "a2", 1)
    assert world.scheduler.gone("a1", "killed", 2) == [Start("a3", "a", 1)]


def test_an_explicit_load_keeps_what_is_loaded() -> None:
    """`keep` sets the ttl of the loaded instances, and their idle time begins anew; there is nothing to wait for."""
    world = World(a=ModelLimits(ttl=10))
    assert world.scheduler.keep("a", 50, 0) is None
    world.submit("a", name="t1")
    world.serve("a1")
    world.scheduler.finished("t1", 1)
    assert world.scheduler.keep("a", 50, 5) == "a1"
    assert world.scheduler.wake_at() == 55
    world.scheduler.keep("a", None, 6)
    assert world.scheduler.wake_at() == 16


def test_failed_growth_harms_nobody() -> None:
    """If a second instance cannot be loaded, waiting requests are served by the first; nothing is retried in a loop."""
    world = World(PoolLimits(max_instances=4, cores=1), a=ModelLimits(max_instances=2))
    for name in ("t1", "t2"):
        world.submit("a", name=name)
    world.serve("a1")
    assert world.scheduler.gone("a2", "no memory", 1) == []
    assert world.scheduler.finished("t1", 2) == [Assign("t2", "a1")]


def test_death_at_work_is_replaced_for_those_who_wait() -> None:
    """When an instance dies, a new one is loaded at once for the requests that wait for its model."""
    world = World(a=ModelLimits())
    for name in ("t1", "t2"):
        world.submit("a", name=name)
    world.serve("a1")
    assert world.scheduler.gone("a1", "killed", 1) == [Start("a2", "a", 4)]
    assert world.serve("a2", now=2) == [Assign("t2", "a2")]


def test_death_while_nobody_waits_is_replaced_on_the_next_request() -> None:
    """A dead instance that is not kept is not loaded again without a request."""
    world = World(a=ModelLimits())
    world.submit("a", name="t1")
    world.serve("a1")
    assert world.scheduler.gone("a1", "killed", 1) == []
    assert world.scheduler.wake_at() is None
    assert world.submit("a", 2) == [Start("a2", "a", 4)]


def test_deaths_without_end_cost_a_request_each() -> None:
    """An instance that dies at every request is started no more often than there are requests, and never in vain."""
    world = World(a=ModelLimits())
    for name in ("t1", "t2", "t3"):
        world.submit("a", name=name)
    starts = 1
    for number in (1, 2, 3):
        world.serve(f"a{number}")
        starts += sum(isinstance(effect, Start) for effect in world.scheduler.gone(f"a{number}", "killed", number))
    assert (starts, len(world.scheduler.waiting), world.scheduler.wake_at()) == (3, 0, None)


def restart(world: World, instance: str, now: float) -> float:
    """Let a kept instance die; assert that the next one is started when `wake_at` says, and return the pause."""
    number = int(instance[1:]) + 1
    assert world.scheduler.gone(instance, "killed", now) == []
    at = world.scheduler.wake_at()
    assert at is not None
    assert world.scheduler.tick(at - 0.001) == []
    assert world.scheduler.tick(at) == [Start(f"{instance[0]}{number}", instance[0], 4)]
    assert world.scheduler.wake_at() is None
    return at - now


def test_kept_instance_is_loaded_again_after_a_growing_pause() -> None:
    """A dead instance that is kept is restarted automatically: after 1 s, then twice as long each time, up to 5 min."""
    world = World(a=ModelLimits(min_instances=1))
    world.scheduler.start(0)
    now, pauses = 0.0, []
    for number in range(1, 13):
        world.serve(f"a{number}", now=now)
        pauses.append(restart(world, f"a{number}", now + 5))
        now += 5 + pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_kept_instance_that_cannot_be_loaded_is_tried_again_after_its_cooldown() -> None:
    """A kept instance whose load fails is loaded again automatically: after 10 s, then twice as long, up to 5 min."""
    world = World(a=ModelLimits(min_instances=1))
    world.scheduler.start(0)
    now, pauses = 0.0, []
    for number in range(1, 8):
        pauses.append(restart(world, f"a{number}", now + 5))
        now += 5 + pauses[-1]
    assert pauses == [10, 20, 40, 80, 160, 300, 300]


def test_pause_never_overflows() -> None:
    """After days of failures, of either kind, the pause is still 5 minutes."""
    setbacks = Setbacks()
    for _ in range(5000):
        setbacks.note("a", "killed", 0)
        setbacks.note_load("b", "no such file", 0)
    for model in "ab":
        last = setbacks.get(model)
        assert last is not None
        assert (last.count, last.retry_at) == (5000, 300)


def test_healthy_minute_resets_the_pause() -> None:
    """An instance that has served for a minute before it dies is restarted after a second, whatever happened before."""
    world = World(a=ModelLimits(min_instances=1))
    world.scheduler.start(0)
    for number in (1, 2, 3):
        world.serve(f"a{number}", now=number * 100)
        restart(world, f"a{number}", number * 100 + 1)
    world.serve("a4", now=1000)
    assert restart(world, "a4", 1060) == 1
    world.serve("a5", now=2000)
    assert restart(world, "a5", 2059) == 2


def test_request_does_not_wait_for_the_pause() -> None:
    """A request for a kept model after a death gets an instance at once; if its load fails, the model cools down."""
    world = World(a=ModelLimits(min_instances=1))
    world.scheduler.start(0)
    world.serve("a1")
    world.scheduler.gone("a1", "killed", 10)
    assert world.submit("a", 10.1) == [Start("a2", "a", 4)]
    assert isinstance(refusal(world.scheduler.gone("a2", "broken", 10.2)), ModelLoadFailed)
    assert world.scheduler.wake_at() == pytest.approx(20.2)


def test_death_refuses_nobody_who_waits() -> None:
    """Requests that wait for an instance that dies are served by its replacement, kept or not."""
    world = World(a=ModelLimits(min_instances=1))
    world.scheduler.start(0)
    world.serve("a1")
    for name in ("t1", "t2"):
        world.submit("a", name=name)
    assert world.scheduler.gone("a1", "killed", 1) == [Start("a2", "a", 4)]
    assert world.serve("a2", now=2) == [Assign("t2", "a2")]


def test_nobody_takes_the_place_of_a_kept_instance() -> None:
    """While a kept instance is away, its place stays reserved, even if others are requested beyond the limit."""
    world = World(evolve(ONE, max_instances=2), a=ModelLimits(1), b=ModelLimits(max_instances=2), c=ModelLimits())
    world.scheduler.start(0)
    world.serve("a1")
    world.scheduler.gone("a1", "killed", 1)
    assert world.submit("b", 1, name="b1") == [Start("b1", "b", 4)]
    world.serve("b1", now=1)
    assert world.submit("b", 1, name="b2") == []
    assert world.submit("c", 1, name="c1") == []
    assert world.scheduler.tick(2) == [Start("a2", "a", 4)]


def test_files_of_a_kept_model_are_asked_for_again() -> None:
    """Files that could not be fetched are requested again when their source says, if the model is kept."""
    scheduler = Scheduler({"a": ModelLimits(1), "b": ModelLimits()}, ONE, lambda model: f"{model}1", {"a", "b"})
    assert scheduler.start(0) == [Prepare("a")]
    assert scheduler.unprepared("a", SourceUnavailable("no answer", 7), 10) == []
    assert scheduler.wake_at() == 17
    assert scheduler.tick(17) == [Prepare("a")]
    assert scheduler.wake_at() is None
    assert scheduler.prepared("a", 20) == [Start("a1", "a", 4)]


@pytest.mark.parametrize("error", [ChecksumMismatch("other bytes"), DownloadCancelled("by you"), InvalidSource("?")])
def test_files_that_would_come_in_vain_are_not_fetched_again(error: DownloadError) -> None:
    """After a cancel or a permanent fault, files are fetched again only at the next request for the model."""
    scheduler = Scheduler({"a": ModelLimits(1)}, ONE, lambda model: f"{model}1", {"a"})
    scheduler.start(0)
    scheduler.unprepared("a", error, 10)
    assert scheduler.wake_at() is None
    assert scheduler.tick(1e6) == []
    setback = scheduler.setbacks.get("a")
    assert setback is not None
    assert setback.reason == error.message
    assert scheduler.submit("t1", "a", (), 1e6) == [Prepare("a")]


def test_cores_are_shared_among_those_at_work() -> None:
    """The core allowances of the running instances add up to the cores, and change as others start and stop."""
    world = World(evolve(ONE, max_instances=3, cores=5), a=ModelLimits(), b=ModelLimits())
    assert world.submit("a", name="t1") == [Start("a1", "a", 5)]
    assert world.serve("a1", slots=2) == [Assign("t1", "a1")]
    world.submit("b", name="t2")
    assert world.serve("b1") == [Assign("t2", "b1"), ShareCores("b1", 2), ShareCores("a1", 3)]
    assert world.submit("a", name="t3") == [Assign("t3", "a1")]
    assert world.scheduler.finished("t2", 1) == [ShareCores("a1", 5)]
    assert world.submit("b", 2, name="t4") == [Assign("t4", "b1"), ShareCores("a1", 3)]


def test_dead_instance_gives_its_cores_back() -> None:
    """When a running instance dies, the others get its share."""
    world = World(evolve(ONE, max_instances=2, cores=2), a=ModelLimits(), b=ModelLimits())
    for model in "ab":
        world.submit(model, name=model)
        world.serve(f"{model}1")
    assert world.scheduler.gone("a1", "killed", 1) == [ShareCores("b1", 2)]


@pytest.mark.parametrize(("prefixes", "instance"), [
    (("x", "xy", "xyz"), "a1"),  # a1 has two of them, a2 one
    (("x", "xq"), "a2"),  # both have the first: a2 is less loaded
    (("q",), "a2"),
])
def test_routing_prefers_the_longest_known_prefix(prefixes: Sequence[str], instance: str) -> None:
    """A request goes to the free instance with most of its conversation; among equals, to the least loaded."""
    world = World(evolve(ONE, max_instances=2), a=ModelLimits(max_instances=2))
    world.submit("a", prefixes=["x", "xy"], name="t1")
    world.submit("a", name="other")
    world.submit("a", prefixes=["x"], name="t2")
    world.serve("a1", slots=2)
    world.serve("a2", slots=4)
    world.scheduler.finished("other", 1)
    world.scheduler.finished("t2", 1)
    world.submit("a", 2, prefixes, name="asked")
    assert world.place("t1") == "a1"
    assert world.place("asked") == instance


def test_full_instance_is_no_target_of_routing() -> None:
    """A request does not wait for the instance that has its conversation while another has a free slot."""
    world = World(evolve(ONE, max_instances=2), a=ModelLimits(max_instances=2))
    for name in ("t1", "t2"):
        world.submit("a", prefixes=["x"], name=name)
    world.serve("a1")
    world.serve("a2", slots=2)
    assert world.submit("a", 1, ["x"], name="t3") == [Assign("t3", "a2")]


def test_stop_refuses_all_who_wait_and_all_who_come() -> None:
    """After `stop` no request waits or is accepted, nothing is loaded, and running requests may finish."""
    world = World(a=ModelLimits(min_instances=1))
    for name in ("t1", "t2"):
        world.submit("a", name=name)
    world.serve("a1")
    assert isinstance(refusal(world.scheduler.stop()), ShuttingDown)
    assert isinstance(refusal(world.submit("a")), ShuttingDown)
    assert world.scheduler.finished("t1", 1) == []
    assert world.scheduler.gone("a1", "closed", 2) == []
    assert world.scheduler.wake_at() is None
