"""Several places: where instances are loaded, and what is lost with a place; without processes."""

import itertools
from collections.abc import Callable, Collection, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lllms_core.caller import Caller
from lllms_core.errors import (
    DownloadCancelled,
    LllmsError,
    ModelLoadFailed,
    ModelTooLarge,
    PlaceFull,
    PlaceLost,
    PlacementFailed,
)
from lllms_core.placements import LOCAL, Place
from lllms_core.pool.budget import DeviceRoom, Need, used
from lllms_core.pool.effects import Assign, Effect, Measure, Prepare, Refuse, ShareCores, Start, Stop
from lllms_core.pool.fleet import rough
from lllms_core.pool.scheduler import BARRED, DOUBT, Scheduler
from lllms_core.pool.state import ModelLimits, PoolLimits

KEPT = ModelLimits(min_instances=1)


class Cluster:
    """A scheduler with places; instances are called a1, a2, b1 ...

    Their needs are the same everywhere, or told by a function of the question.
    """

    def __init__(
        self, needs: Mapping[str, Need | int | Callable[[Measure], Need]], places: Collection[Place], most: int = 9, /,
        **models: ModelLimits,
    ) -> None:
        self.needs = {name: Need(need) if isinstance(need, int) else need for name, need in needs.items()}
        self.asked: list[Measure] = []
        numbers: dict[str, itertools.count[int]] = {model: itertools.count(1) for model in needs}
        self.scheduler = Scheduler(
            {name: models.get(name, ModelLimits()) for name in needs},
            PoolLimits(concurrency=99, queue_timeout=100, max_instances=most, max_wait_before_swap=0, min_residency=0),
            lambda model: f"{model}{next(numbers[model])}", local=False,
        )
        for place in places:
            self.there(place)

    def there(self, place: Place, now: float = 0, **devices: DeviceRoom) -> list[Effect]:
        return self.answer(self.scheduler.there(place, now, devices), now)

    def answer(self, effects: list[Effect], now: float = 0) -> list[Effect]:
        """Tell the needs that are asked for; return the other effects."""
        left = []
        for effect in effects:
            if isinstance(effect, Measure):
                self.asked.append(effect)
                need = self.needs[effect.model]
                told = need if isinstance(need, Need) else need(effect)
                left += self.answer(self.scheduler.measured(effect.model, told, now, effect.place, effect.memory), now)
            else:
                left.append(effect)
        return left

    def submit(self, model: str, now: float = 0, name: str = "") -> list[Effect]:
        return self.answer(self.scheduler.submit(name or f"{model}@{now}", model, (), now), now)

    def load(self, model: str, now: float = 0, slots: int = 1) -> str:
        """Load one more instance for a request that stays; return its place."""
        [start] = [effect for effect in self.submit(model, now) if isinstance(effect, Start)]
        assert isinstance(start, Start)
        assert Assign(f"{model}@{now}", start.instance) in self.scheduler.loaded(start.instance, slots, now)
        return start.place


def place(name: str, memory: int | None = 10, cores: int = 2) -> Place:
    return Place(name, name.upper(), cores, memory)


def test_a_new_instance_goes_where_most_memory_is_left() -> None:
    """Of the places with room the one with most memory left gets the instance; among equals the emptiest."""
    cluster = Cluster({"a": 3, "b": 3, "c": 3, "d": 0}, [place("x", 10), place("y", 9)])
    assert [cluster.load("a"), cluster.load("b"), cluster.load("c")] == ["x", "y", "x"]
    assert cluster.load("d") == "y"


def test_a_place_that_has_the_file_goes_first() -> None:
    """A model that was loaded at a place before is loaded there again if there is room, even if another has more."""
    cluster = Cluster({"a": 3}, [place("x", 5)])
    assert cluster.load("a") == "x"
    cluster.there(place("y", 10))
    cluster.scheduler.finished("a@0", 1)
    [stop] = cluster.scheduler.unload("a", 1)
    assert stop == Stop("a1")
    cluster.scheduler.gone("a1", "", 2)
    assert cluster.load("a", 3) == "x"


def test_a_place_with_room_goes_before_one_that_must_make_some() -> None:
    """Nothing is unloaded while another place has room."""
    cluster = Cluster({"a": 8, "b": 7}, [place("x", 10), place("y", 7)])
    assert cluster.load("a") == "x"
    cluster.scheduler.finished("a@0", 1)
    assert cluster.submit("b", 2) == [Start("b1", "b", 2, None, "y")]


def test_each_place_has_its_own_limit_of_instances_and_cores() -> None:
    """`max_instances` and the cores count for each place by itself."""
    cluster = Cluster({"a": 1, "b": 1, "c": 1}, [place("x", None, 4), place("y", None, 2)], 1)
    places = [cluster.load("a"), cluster.load("b")]
    assert sorted(places) == ["x", "y"]
    assert [one.threads for one in cluster.scheduler.instances.values() if one.place == "y"] == [2]
    assert cluster.submit("c", 1) == []


def test_cores_are_shared_within_a_place() -> None:
    """Two busy instances share the cores of their place; one elsewhere keeps all of its own."""
    cluster = Cluster({"a": 3, "b": 3, "c": 9}, [place("x", 8, 4), place("y", 9, 2)])
    assert [cluster.load("c"), cluster.load("a")] == ["y", "x"]
    start = cluster.submit("b", 1)
    assert start == [Start("b1", "b", 4, None, "x")]
    effects = cluster.scheduler.loaded("b1", 1, 2)
    assert effects == [Assign("b@1", "b1"), ShareCores("a1", 2), ShareCores("b1", 2)]


def test_gpus_of_a_place_count_for_it_alone() -> None:
    """The same name of a GPU at two places means two GPUs."""
    on_gpu = Need(1, devices={"CUDA0": 6})
    cluster = Cluster({"a": on_gpu, "b": on_gpu, "c": on_gpu}, [])
    for name in ("x", "y"):
        cluster.there(place(name), CUDA0=DeviceRoom(12, 10))
    assert sorted([cluster.load("a"), cluster.load("b")]) == ["x", "y"]
    assert cluster.submit("c", 1) == []


def test_a_model_is_too_large_only_if_it_is_for_every_place() -> None:
    """A model that fits at one place is served there; one that fits nowhere is refused, with the largest place."""
    cluster = Cluster({"a": 8, "b": 11}, [place("x", 5), place("y", 9)])
    assert cluster.load("a") == "y"
    [refuse] = cluster.submit("b", 1)
    assert isinstance(refuse, Refuse)
    assert isinstance(refuse.error, ModelTooLarge)
    assert "and Y, which has the most, gives its instances 9 bytes" in refuse.error.message


def test_without_a_place_requests_wait() -> None:
    """Before the first place is there requests wait; then they are served."""
    cluster = Cluster({"a": 3}, [])
    assert cluster.submit("a") == []
    assert cluster.there(place("x"), 1) == [Start("a1", "a", 2, None, "x")]


def test_what_is_lost_with_a_place_is_no_failure_of_its_model() -> None:
    """Requests without an answer so far wait once more and are served elsewhere at once, the others are forgotten."""
    cluster = Cluster({"a": 3}, [place("x", 10), place("y", 9)], a=ModelLimits(max_instances=2))
    assert cluster.load("a", slots=3) == "x"
    cluster.submit("a", 1, "silent")
    cluster.submit("a", 1, "answered")
    effects = cluster.answer(cluster.scheduler.departed("x", 2, {"silent"}), 2)
    assert effects == [Start("a2", "a", 2, None, "y")]
    assert [*cluster.scheduler.waiting] == ["silent"]
    assert not cluster.scheduler.running
    assert cluster.scheduler.setbacks.get("a") is None
    assert cluster.scheduler.loaded("a2", 1, 3) == [Assign("silent", "a2")]


def test_a_request_is_queued_anew_only_once() -> None:
    """A request that loses its place twice is not queued a third time."""
    cluster = Cluster({"a": 3}, [place("x", 10), place("y", 9)])
    cluster.load("a")
    cluster.scheduler.departed("x", 1, {"a@0"})
    cluster.scheduler.loaded("a2", 1, 2)
    cluster.there(place("z"), 2)
    assert cluster.scheduler.departed("y", 3, {"a@0"}) == []
    assert not cluster.scheduler.waiting
    assert not cluster.scheduler.running


def test_a_request_that_is_queued_anew_keeps_its_turn() -> None:
    """It goes before those of its client that arrived later, and may wait for as long as a new one."""
    cluster = Cluster({"a": 3}, [place("x", 10), place("y", 9)])
    cluster.load("a")
    cluster.submit("a", 1, "later")
    cluster.scheduler.departed("x", 50, {"a@0"})
    assert cluster.scheduler.tick(100.5) == []
    assert cluster.scheduler.loaded("a2", 1, 100.6) == [Assign("a@0", "a2")]
    assert cluster.scheduler.finished("a@0", 100.7) == [Assign("later", "a2")]


def test_kept_instances_come_back_elsewhere() -> None:
    """`min_instances` of a model are loaded at another place at once, without a request or a pause."""
    cluster = Cluster({"a": 3}, [place("x", 10), place("y", 9)], a=KEPT)
    assert [(one.id, one.place) for one in cluster.scheduler.instances.values()] == [("a1", "x")]
    cluster.scheduler.loaded("a1", 1, 1)
    assert cluster.answer(cluster.scheduler.departed("x", 2), 2) == [Start("a2", "a", 2, None, "y")]


def test_a_place_in_doubt_gets_no_instances_for_a_while() -> None:
    """After an instance was lost with its place, none is loaded there until its placement had time to tell more."""
    cluster = Cluster({"a": 3}, [place("x")])
    cluster.load("a")
    assert cluster.scheduler.lost_with_place("a1", 1, {"a@0"}) == []
    assert cluster.scheduler.wake_at() == 1 + DOUBT
    assert cluster.scheduler.tick(1 + DOUBT) == [Start("a2", "a", 2, None, "x")]
    cluster.scheduler.lost_with_place("a2", 20)
    assert cluster.there(place("x"), 21) == [Start("a3", "a", 2, None, "x")]


def test_another_place_is_drained_if_requests_wait_there_no_more() -> None:
    """With no room anywhere, the place whose instances got their last requests the longest ago is drained."""
    cluster = Cluster({"a": 8, "b": 8, "c": 8}, [place("x"), place("y")])
    first, second = cluster.load("a", 1), cluster.load("b", 2)
    assert first != second
    assert cluster.submit("c", 3) == []
    assert cluster.scheduler.placing.draining == {"a1"}
    assert cluster.scheduler.finished("a@1", 4) == [Stop("a1")]
    assert cluster.scheduler.gone("a1", "", 5) == [Start("c1", "c", 2, None, first)]


def test_needs_are_found_out_for_each_kind_of_place() -> None:
    """Machines of one make are one kind, even if their memory differs a little; GPUs make another."""
    cluster = Cluster({"a": lambda asked: Need(4 if asked.place == "x" else 5)}, [])
    cluster.there(place("x", 64_000))
    cluster.there(place("y", 64_500))
    cluster.submit("a")
    assert cluster.asked == [Measure("a", "y")]
    cluster.there(place("z", 64_000), 1, CUDA0=DeviceRoom(12, 10))
    cluster.there(place("small", 4_000), 2)
    assert cluster.asked[1:] == [Measure("a", "z"), Measure("a", "small")]
    assert [one.need.total for one in cluster.scheduler.instances.values()] == [5]


def test_a_place_with_a_gpu_takes_what_others_cannot() -> None:
    """Of main memory a model needs less where its layers are on a GPU."""

    def need(asked: Measure) -> Need:
        return Need(2, devices={"CUDA0": 8}) if asked.place == "gpu" else Need(9)

    cluster = Cluster({"a": need}, [place("x", 8)])
    [refuse] = cluster.submit("a")
    assert isinstance(refuse, Refuse)
    assert "needs about 9 bytes of memory, and X, which has the most, gives its instances 8" in refuse.error.message
    cluster.there(place("gpu", 4), 1, CUDA0=DeviceRoom(12, 10))
    assert cluster.load("a", 2) == "gpu"
    assert cluster.scheduler.instances["a1"].need.devices == {"CUDA0": 8}


def test_a_gpu_that_is_too_small_everywhere_is_told() -> None:
    """The refusal names the place with most memory and what its GPU gives, not its main memory, which suffices."""
    cluster = Cluster({"a": Need(1, devices={"CUDA0": 11})}, [])
    for name in ("x", "y"):
        cluster.there(place(name), CUDA0=DeviceRoom(12, 10))
    [refuse] = cluster.submit("a")
    assert isinstance(refuse, Refuse)
    assert "needs about 11 bytes of the memory of a GPU, and X, which has the most memory" in refuse.error.message
    assert "10 bytes of 'CUDA0'" in refuse.error.message


def test_all_instances_of_a_model_have_the_same_size() -> None:
    """Requests may go to any of them: at another kind of place, too, the next one gets the size of the first."""

    def need(asked: Measure) -> Need:
        whole = 12 if asked.place == "big" else 5
        if asked.memory is not None:
            return Need(asked.memory, memory=asked.memory)
        return Need(whole, memory=whole, smaller=(Need(whole - 2, memory=whole - 2),))

    cluster = Cluster({"a": need}, [place("big", 12)], a=ModelLimits(max_instances=2))
    assert cluster.submit("a") == [Start("a1", "a", 2, 12, "big")]
    cluster.scheduler.loaded("a1", 1, 1)
    cluster.there(place("other", 20), 2)
    assert cluster.submit("a", 3) == [Start("a2", "a", 2, 12, "other")]
    assert cluster.asked == [Measure("a", "big"), Measure("a", "other"), Measure("a", "other", 12)]


def test_nothing_is_refused_before_all_kinds_of_places_are_known() -> None:
    """A model that is too large for the place that was measured first may fit at the next."""
    cluster = Cluster({"a": 8}, [])
    scheduler = cluster.scheduler
    scheduler.there(place("x", 5), 0)
    scheduler.there(place("y", 9), 0)
    asked = scheduler.submit("t", "a", (), 1)
    assert asked == [Measure("a", "x"), Measure("a", "y")]
    assert scheduler.measured("a", Need(8), 2, "x") == []
    assert scheduler.measured("a", Need(8), 3, "y") == [Start("a1", "a", 2, None, "y")]


def test_a_need_for_a_place_that_is_gone_counts_no_more() -> None:
    """Facts about a kind without a place are forgotten; a place that has changed is of another kind."""
    cluster = Cluster({"a": 8}, [])
    scheduler = cluster.scheduler
    scheduler.there(place("x", 9), 0)
    assert scheduler.submit("t", "a", (), 1) == [Measure("a", "x")]
    assert scheduler.there(place("x", 20), 2) == [Measure("a", "x")]
    assert scheduler.departed("x", 3) == []
    assert scheduler.measured("a", Need(8), 4, "x") == []
    assert scheduler.seating.needs == {"a": {}}
    assert cluster.there(place("y", 9), 5) == [Start("a1", "a", 2, None, "y")]


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_kinds_differ_by_little(one: int, other: int) -> None:
    """The smallest place of a kind has at most a thirty-second less than any other, and a larger one is no smaller."""
    assert rough(one) <= one <= rough(one) * (1 + 1 / 32)
    assert one > other or rough(one) <= rough(other)
    assert rough(rough(one)) == rough(one)


# -- several loads at once --------------------------------------------------------------------------------------------


def grown(cluster: Cluster, requests: int, slots: int = 1) -> list[list[str]]:
    """Submit requests for the model a, and let all loads of a round end at once; return the places of each round."""
    for number in range(requests):
        cluster.submit("a", 0, f"r{number}")
    rounds = []
    while loading := [one for one in cluster.scheduler.instances.values() if one.state == "loading"]:
        rounds.append([one.place for one in loading])
        for one in loading:
            cluster.answer(cluster.scheduler.loaded(one.id, slots, len(rounds)), len(rounds))
    return rounds


def test_the_instances_of_a_model_double_at_several_places() -> None:
    """As many are loaded at once as are ready, each at a place of its own."""
    cluster = Cluster({"a": 1}, [place(f"p{number}") for number in range(8)], a=ModelLimits(max_instances=8))
    rounds = grown(cluster, 99)
    assert [len(one) for one in rounds] == [1, 1, 2, 4]
    assert all(len(one) == len({*one}) for one in rounds)


def test_one_machine_loads_one_instance_of_a_model_at_a_time() -> None:
    """So does a placement with one place."""
    cluster = Cluster({"a": 1}, [place("x")], a=ModelLimits(max_instances=4))
    assert grown(cluster, 99) == [["x"]] * 4


def test_no_more_is_loaded_than_waiting_requests_need() -> None:
    """What is being loaded counts with the slots of an instance that is ready."""
    cluster = Cluster({"a": 1}, [place(f"p{number}") for number in range(8)], a=ModelLimits(max_instances=8))
    rounds = grown(cluster, 12, slots=4)
    assert [len(one) for one in rounds] == [1, 1, 1]


def test_a_model_that_fails_is_loaded_no_more_often_at_many_places() -> None:
    """A failed load ends the growth: the model is tried again at a new request, after its pause."""
    places = [place(f"p{number}") for number in range(4)]
    cluster = Cluster({"a": 1}, places, a=ModelLimits(max_instances=4))
    for number in range(9):
        cluster.submit("a", 0, f"r{number}")
    assert len(cluster.scheduler.instances) == 1
    effects = cluster.scheduler.gone("a1", "broken", 1)
    assert len(effects) == 9
    assert all(isinstance(one, Refuse) for one in effects)


def test_kept_instances_are_loaded_at_several_places_at_once() -> None:
    """Like others: the first alone, then as many as are ready; none more than is kept."""
    places = [place(f"p{number}") for number in range(8)]
    cluster = Cluster({"a": 1}, places, a=ModelLimits(min_instances=6, max_instances=6))
    assert [len(one) for one in grown(cluster, 0)] == [1, 1, 2, 2]


def test_files_are_brought_to_several_places_at_once() -> None:
    """A fetch counts as the load that follows it."""
    places = [place(f"p{number}", 1) for number in range(4)]
    cluster = Cluster({"a": 1}, places, a=ModelLimits(max_instances=4, files=True))
    for number in range(9):
        cluster.submit("a", 0, f"r{number}")
    [name] = cluster.scheduler.fleet.fetching["a"]
    cluster.scheduler.prepared("a", 1, name)
    begun = cluster.scheduler.loaded("a1", 1, 2)
    assert [one for one in begun if isinstance(one, Prepare)] == [Prepare("a", "p1")]
    cluster.scheduler.prepared("a", 3, "p1")
    begun = cluster.scheduler.loaded("a2", 1, 4)
    assert [one for one in begun if isinstance(one, Prepare)] == [Prepare("a", "p2"), Prepare("a", "p3")]
    assert [one for one in cluster.scheduler.prepared("a", 5, "p2") if isinstance(one, Start)] == [
        Start("a3", "a", 2, None, "p2"),
    ]


# -- files ------------------------------------------------------------------------------------------------------------


def filed(model: str, *places: Place, **more: int) -> Cluster:
    """A cluster with a model that reads files, and others that do not."""
    return Cluster({model: 3, **more}, places, **{model: ModelLimits(max_instances=2, files=True)})


def test_a_place_gets_the_files_before_an_instance() -> None:
    """They are found or fetched first, at one place only; then the instance is loaded there, and later ones at once."""
    cluster = filed("a", place("x", 10), place("y", 9))
    assert cluster.submit("a", 0, "first") == [Prepare("a", "x")]
    assert cluster.submit("a", 1, "second") == []
    assert cluster.scheduler.prepared("a", 2, "x") == [Start("a1", "a", 2, None, "x")]
    assert cluster.scheduler.loaded("a1", 2, 3) == [Assign("first", "a1"), Assign("second", "a1")]
    assert cluster.submit("a", 4) == [Start("a2", "a", 2, None, "x")]
    assert cluster.scheduler.prepared("a", 5, "x") == []


def test_nothing_makes_room_before_the_files_are_there() -> None:
    """An idle instance stays until the place that it is to leave has the files of the other model."""
    cluster = Cluster({"a": 8, "b": 8}, [place("x")], a=ModelLimits(files=True))
    cluster.load("b")
    cluster.scheduler.finished("b@0", 1)
    assert cluster.submit("a", 2) == [Prepare("a", "x")]
    assert cluster.scheduler.prepared("a", 3, "x") == [Stop("b1")]
    assert cluster.scheduler.gone("b1", "", 4) == [Start("a1", "a", 2, None, "x")]


def test_another_place_is_tried_if_files_cannot_be_brought() -> None:
    """A place that cannot get them gets no instances of the model for a while; its requests learn nothing of it."""
    cluster = filed("a", place("x", 10), place("y", 9))
    cluster.submit("a")
    full = PlaceFull("X is full")
    assert cluster.scheduler.unprepared("a", full, 1, "x") == [Prepare("a", "y")]
    assert cluster.scheduler.prepared("a", 2, "y") == [Start("a1", "a", 2, None, "y")]
    cluster.scheduler.loaded("a1", 1, 3)
    assert cluster.scheduler.wake_at() == 1 + BARRED
    assert cluster.submit("a", 4) == [Start("a2", "a", 2, None, "y")]
    assert cluster.there(place("x", 100), 5) == []
    assert cluster.scheduler.fleet.bars == {}


def test_requests_are_refused_if_no_place_can_get_the_files() -> None:
    """A place that is too small counts as none. After the pause of the model a request tries again everywhere."""
    cluster = filed("a", place("x", 10), place("small", 2))
    cluster.submit("a")
    [refuse] = cluster.scheduler.unprepared("a", PlacementFailed("X cannot reach the hub"), 1, "x")
    assert isinstance(refuse, Refuse)
    assert refuse.error.message == "model 'a' cannot be loaded: X cannot reach the hub"
    [again] = cluster.submit("a", 2)
    assert isinstance(again, Refuse)
    assert "next try in 9 s" in again.error.message
    assert cluster.submit("a", 12) == [Prepare("a", "x")]


def test_a_cancelled_fetch_is_not_begun_elsewhere() -> None:
    """Its requests are refused with that; the next request begins it anew."""
    cluster = filed("a", place("x", 10), place("y", 9))
    cluster.submit("a")
    [refuse] = cluster.scheduler.unprepared("a", DownloadCancelled("it was cancelled"), 1, "x")
    assert isinstance(refuse, Refuse)
    assert isinstance(refuse.error, DownloadCancelled)
    assert cluster.submit("a", 2) == [Prepare("a", "x")]


def test_a_fetch_ends_with_its_place_in_the_scheduler() -> None:
    """The next place gets the files, and what the lost one still tells of them counts no more."""
    cluster = filed("a", place("x", 10), place("y", 9))
    cluster.submit("a")
    assert cluster.scheduler.departed("x", 1) == [Prepare("a", "y")]
    assert cluster.scheduler.prepared("a", 2, "x") == []
    assert cluster.scheduler.unprepared("a", PlaceLost("X is lost"), 2, "x") == []
    assert cluster.scheduler.prepared("a", 3, "y") == [Start("a1", "a", 2, None, "y")]


def test_a_place_that_is_lost_during_a_fetch_is_doubted() -> None:
    """If only the fetch tells of that, the place waits for its placement's word, and another one is tried."""
    cluster = filed("a", place("x", 10), place("y", 9))
    cluster.submit("a")
    assert cluster.scheduler.unprepared("a", PlaceLost("the link is cut"), 1, "x") == [Prepare("a", "y")]
    assert [*cluster.scheduler.fleet.doubted] == ["x"]


def test_files_are_brought_anew_after_a_failed_load_and_after_a_change() -> None:
    """They may be what was wrong, or be others now: the place looks for them again before the next load."""
    cluster = filed("a", place("x", 10))
    cluster.submit("a")
    cluster.scheduler.prepared("a", 1, "x")
    cluster.scheduler.gone("a1", "it is broken", 2)
    assert cluster.submit("a", 20) == [Prepare("a", "x")]
    [start] = cluster.scheduler.prepared("a", 21, "x")
    assert start == Start("a2", "a", 2, None, "x")
    assert cluster.answer(cluster.scheduler.outdated("a2", 22), 22) == [Prepare("a", "x")]


def test_files_that_have_left_this_machine_are_fetched_here_first() -> None:
    """A place is served from the server's files, or from their source by these: without them it waits."""
    cluster = filed("a", place("x", 10))
    cluster.submit("a")
    assert cluster.answer(cluster.scheduler.vanished("a", 1, "x")) == [Prepare("a")]
    assert cluster.answer(cluster.scheduler.prepared("a", 2), 2) == [Prepare("a", "x")]


def test_kept_models_get_their_files_without_a_request() -> None:
    """A place gets them before it loads an instance that a model keeps; if it cannot, another one does."""
    cluster = Cluster({"a": 3}, [place("x"), place("y")], a=ModelLimits(min_instances=1, files=True))
    scheduler = cluster.scheduler
    assert scheduler.fleet.fetching == {"a": {"x"}}
    assert scheduler.unprepared("a", PlaceFull("X is full"), 1, "x") == [Prepare("a", "y")]
    assert scheduler.unprepared("a", PlaceFull("Y is full"), 2, "y") == []
    assert scheduler.retry_at("a") == scheduler.wake_at() == 12
    assert scheduler.tick(12) == [Prepare("a", "x")]
    assert scheduler.prepared("a", 13, "x") == [Start("a1", "a", 2, None, "x")]


def test_the_local_place_is_the_default() -> None:
    """Without a placement there is one place, with the limits of the pool."""
    scheduler = Scheduler({"a": ModelLimits()}, PoolLimits(cores=3), lambda model: f"{model}1")
    assert scheduler.submit("t", "a", (), 0) == [Start("a1", "a", 3, None, LOCAL)]


NAMES = ("x", "y", "z")
MODELS = ("a", "b", "c")
NEEDS = st.builds(Need, private=st.integers(0, 6), shared=st.integers(0, 4), file=st.sampled_from([None, "file"]))


class ClusterPlay(RuleBasedStateMachine):
    """Places come and go while requests are served at random."""

    @initialize(
        needs=st.fixed_dictionaries(dict.fromkeys(MODELS, NEEDS)),
        models=st.fixed_dictionaries({name: st.tuples(st.integers(0, 1), st.integers(1, 3)) for name in MODELS}),
        most=st.integers(1, 3), concurrency=st.integers(1, 5), filed=st.sets(st.sampled_from(MODELS)),
    )
    def begin(
        self, needs: dict[str, Need], models: dict[str, tuple[int, int]], most: int, concurrency: int, filed: set[str],
    ) -> None:
        self.needs, self.most, self.concurrency, self.filed = needs, most, concurrency, filed
        self.fetching: list[tuple[str, str]] = []
        """Model and place."""
        self.brought: set[tuple[str, str]] = set()
        self.failed = False
        """Whether a fetch has failed."""
        numbers = itertools.count(1)
        limits = PoolLimits(concurrency, 99, 1e6, most, max_wait_before_swap=2.0, min_residency=1.0)
        self.scheduler = Scheduler(
            {name: ModelLimits(*both, ttl=5.0, files=name in filed) for name, both in models.items()}, limits,
            lambda model: f"{model}{next(numbers)}", local=False,
        )
        self.now = 0.0
        self.tickets = itertools.count()
        self.waiting: dict[str, str] = {}
        self.running: dict[str, str] = {}
        self.refused: dict[str, LllmsError] = {}
        self.again: set[str] = set()
        """Requests that lost an instance without an answer."""
        self.tell(self.scheduler.start(self.now))

    def tell(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(instance, model, threads, _, name):
                    entry = self.scheduler.instances[instance]
                    known = self.scheduler.fleet.places[name]
                    assert (entry.model, entry.place, threads) == (model, name, known.place.cores)
                    assert name not in self.scheduler.fleet.doubted
                    assert model not in self.filed or (model, name) in self.brought
                    assert known.memory is None or used((), self.needs_at(name)) <= known.memory
                    assert len(known.instances) <= self.most
                    self.check_loads(model)
                case Assign(ticket, instance):
                    assert self.waiting.pop(ticket) == self.scheduler.instances[instance].model
                    self.running[ticket] = instance
                case Refuse(ticket, error):
                    del self.waiting[ticket]
                    self.refused[ticket] = error
                case Measure(model, name, memory):
                    self.tell(self.scheduler.measured(model, self.needs[model], self.now, name, memory))
                case Prepare(model, name):
                    assert (model, name) not in self.fetching
                    assert (model, name) not in self.brought
                    self.fetching.append((model, name))
                    self.check_loads(model)
                case Stop(instance):
                    assert instance not in self.running.values()

    def check_loads(self, model: str) -> None:
        """At each place there is one load of a model at a time, and in all no more than have succeeded."""
        own = [one for one in self.scheduler.instances.values() if one.model == model]
        places = [one.place for one in own if one.state == "loading"]
        places += self.scheduler.fleet.fetching.get(model, ())
        assert len(places) == len({*places})
        assert len(places) <= max(1, sum(one.state == "ready" for one in own))

    def needs_at(self, name: str) -> list[Need]:
        return [entry.need for entry in self.scheduler.instances.values() if entry.place == name]

    @rule(model=st.sampled_from(MODELS), client=st.sampled_from(["", "x"]))
    def submit(self, model: str, client: str) -> None:
        ticket = f"t{next(self.tickets)}"
        self.waiting[ticket] = model
        self.tell(self.scheduler.submit(ticket, model, (), self.now, caller=Caller(client)))

    @rule(name=st.sampled_from(NAMES), memory=st.none() | st.integers(0, 20), cores=st.integers(1, 4))
    def arrive(self, name: str, memory: int | None, cores: int) -> None:
        if name not in self.scheduler.fleet.places:
            self.tell(self.scheduler.there(Place(name, name, cores, memory), self.now))

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def depart(self, name: str, data: st.DataObject) -> None:
        lost = {one for one, entry in self.scheduler.instances.items() if entry.place == name}
        silent = self.lose(lost, data)
        self.fetching = [one for one in self.fetching if one[1] != name]
        self.brought -= {(model, name) for model in MODELS}
        self.tell(self.scheduler.departed(name, self.now, silent))

    @precondition(lambda self: self.fetching)
    @rule(fault=st.sampled_from([None, None, PlaceFull("full"), PlacementFailed("cut"), PlaceLost("lost")]))
    def bring(self, fault: LllmsError | None) -> None:
        model, name = self.fetching.pop(0)
        if fault is None:
            self.brought.add((model, name))
            self.tell(self.scheduler.prepared(model, self.now, name))
        else:
            self.failed = True
            self.tell(self.scheduler.unprepared(model, fault, self.now, name))

    @precondition(lambda self: self.scheduler.instances)
    @rule(data=st.data())
    def lose_one(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(sorted(self.scheduler.instances)))
        silent = self.lose({instance}, data)
        self.tell(self.scheduler.lost_with_place(instance, self.now, silent))

    def lose(self, instances: set[str], data: st.DataObject) -> set[str]:
        running = sorted(ticket for ticket, instance in self.running.items() if instance in instances)
        silent = set(data.draw(st.sets(st.sampled_from(running)))) if running else set()
        for ticket in running:
            model = self.scheduler.instances[self.running.pop(ticket)].model
            if ticket in silent and ticket not in self.again:
                self.waiting[ticket] = model
                self.again.add(ticket)
        return silent

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[ticket]
        self.tell(self.scheduler.finished(ticket, self.now))

    @rule(slots=st.integers(1, 3))
    def load(self, slots: int) -> None:
        for entry in [one for one in self.scheduler.instances.values() if one.state == "loading"][:1]:
            self.tell(self.scheduler.loaded(entry.id, slots, self.now))

    @rule()
    def close(self) -> None:
        for entry in [one for one in self.scheduler.instances.values() if one.state == "closing"][:1]:
            self.tell(self.scheduler.gone(entry.id, "closed", self.now))

    @rule(seconds=st.sampled_from([0.5, 3.0, DOUBT + 1]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.scheduler.wake_at()) is not None and at <= until:
            self.now = at
            self.tell(self.scheduler.tick(self.now))
            following = self.scheduler.wake_at()
            assert following is None or following > self.now
        self.now = until
        self.tell(self.scheduler.tick(self.now))

    @rule()
    def settle(self) -> None:
        """With a place for each model beside those it keeps, and if all goes well, all are served in some turns."""
        for name in ("big 1", "big 2", "big 3", "big 4"):
            if name not in self.scheduler.fleet.places:
                self.tell(self.scheduler.there(Place(name, name, 1, 100), self.now))
        self.wait(DOUBT + BARRED)  # no place is in doubt, or barred, any more
        for _ in range(100):
            if not self.waiting:
                break
            while self.fetching:
                self.bring(None)
            for entry in list(self.scheduler.instances.values()):
                if entry.state == "loading":
                    self.tell(self.scheduler.loaded(entry.id, 1, self.now))
                elif entry.state == "closing":
                    self.tell(self.scheduler.gone(entry.id, "closed", self.now))
            for ticket in list(self.running):
                del self.running[ticket]
                self.tell(self.scheduler.finished(ticket, self.now))
        assert not self.waiting

    @invariant()
    def requests_are_where_they_should_be(self) -> None:
        assert self.waiting == {ticket.id: ticket.model for ticket in self.scheduler.waiting.values()}
        assert self.running == {ticket.id: ticket.instance for ticket in self.scheduler.running.values()}
        assert len(self.running) <= self.concurrency
        reasons = (ModelTooLarge, ModelLoadFailed) if self.failed else ModelTooLarge
        assert all(isinstance(error, reasons) for error in self.refused.values())
        fetching = {(model, name) for model, names in self.scheduler.fleet.fetching.items() for name in names}
        assert fetching == {*self.fetching}

    @invariant()
    def no_place_is_over_its_limits(self) -> None:
        for name, entry in self.scheduler.fleet.places.items():
            needs = self.needs_at(name)
            assert entry.used == used((), needs)
            assert entry.memory is None or entry.used <= entry.memory
            assert len(needs) <= self.most
            busy = [one.threads for one in entry.instances.values() if one.running]
            assert not busy or sum(busy) == max(entry.place.cores, len(busy))

    @invariant()
    def indexes_agree(self) -> None:
        fleet = self.scheduler.fleet
        for model in MODELS:
            own = [one for one in fleet.instances.values() if one.model == model]
            assert list(fleet.all(model)) == own
            assert list(fleet.alive(model)) == [one for one in own if one.state != "closing"]
            assert {one.id for one in fleet.free(model)} == {
                one.id for one in own if one.state == "ready" and len(one.running) < one.slots
            }
        assert fleet.loading == sum(one.state == "loading" for one in fleet.instances.values())
        assert fleet.closing == sum(one.state == "closing" for one in fleet.instances.values())

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        if len(self.running) == self.concurrency:
            return
        for model in set(self.waiting.values()):
            free = {one.id for one in self.scheduler.fleet.free(model)}
            assert free <= self.scheduler.placing.draining


class TestClusterPlay(ClusterPlay.TestCase):  # type: ignore[misc,name-defined]  # hypothesis makes the base at run time
    """Random histories of a cluster keep every invariant."""

    settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
