"""What the page shows, computed from what the server tells; pure."""

from hypothesis import given
from hypothesis import strategies as st

from lllms_core.builtin.status.paces import SPAN, Paces
from lllms_core.builtin.status.sections import MOST_ENDED, MOST_REQUESTS, Seen, make_sections
from lllms_core.status import (
    FailedLoad,
    InstanceStatus,
    Lack,
    PoolStatus,
    Problem,
    RequestRecord,
    RequestStatus,
    SpareStatus,
    Waiting,
)


def writing(tokens: int, name: str = "a") -> RequestStatus:
    return RequestStatus(name, "m", "chat", "answering", 1.0, tokens, "m:1")


def seen(**more: object) -> Seen:
    pool = PoolStatus(instances=(), running=0, waiting=0, concurrency=8, queue_size=9, cores=2)
    given: dict[str, object] = {
        "pool": pool, "cards": (), "abilities": {}, "problems": (), "lacks": (), "failed": (), "requests": (),
        "ended": (), "downloads": (), "told_downloads": [], "version": "1", "ready": True, "now": 1000.0, **more,
    }
    return Seen(**given)  # type: ignore[arg-type]


@given(st.floats(0.1, 500), st.floats(0.05, 3), st.integers(2, 30))
def test_a_steady_pace_is_told(rate: float, interval: float, looks: int) -> None:
    """Whatever the interval between looks, a request that writes evenly has that pace, up to whole tokens."""
    paces = Paces()
    told = {}
    for look in range(1, looks + 1):
        told = paces.look([writing(1 + int(rate * look * interval))], look * interval)
    covered = min((looks - 1) * interval, SPAN)
    assert abs(told["a"] - rate) <= 1 / covered + 0.1


def test_a_pace_needs_two_looks_and_forgets() -> None:
    """The first look knows no pace; a request that is gone is forgotten, and one that has not begun has none."""
    paces = Paces()
    assert paces.look([writing(5), writing(0, "b")], 0.0) == {}
    assert paces.look([writing(15), writing(0, "b")], 1.0) == {"a": 10.0}
    assert paces.look([], 2.0) == {}
    assert paces.look([writing(500)], 3.0) == {}


def test_each_trouble_of_a_model_is_told_once() -> None:
    """One cause that several parts of the server tell is one line, with its next try; broken offers are shown, too."""
    sections = make_sections(seen(
        problems=[Problem("offer", "its file is gone", configured=False), Problem("", "no new configuration", True)],
        failed=[FailedLoad("m", "no memory", 2, 30.0)],
        lacks=[Lack("m", 0, 1, "no memory", 30.0), Lack("x", 0, 1, "", None)],
    ))
    models = {one["name"]: one for one in sections["models"]}  # type: ignore[attr-defined]
    assert {name: one["troubles"] for name, one in models.items()} == {
        "offer": [{"text": "its file is gone", "retry_at": None}], "m": [{"text": "no memory", "retry_at": 1030}],
    }
    assert models["offer"]["state"] == "broken"
    assert sections["problems"] == ["no new configuration"]


def test_an_instance_has_the_pace_of_its_requests() -> None:
    """Its pace is the sum of theirs, its times are points in time, and the GPUs that it takes are named."""
    instance = InstanceStatus(
        "m:1", "m", "ready", 1.0, 0, 2, 7.2, 0.0, 12, None, memory=5, ttl=60.0, devices={"CUDA0": 9},
    )
    pool = PoolStatus(
        instances=(instance,), running=0, waiting=0, concurrency=8, queue_size=9, cores=2,
        spares=(SpareStatus("e", ready=False, pid=None),),
    )
    queued = RequestStatus("c", "m", "chat", "queued", 2.0, waiting=Waiting("queued", 1))
    requests = [writing(9), writing(9, "b"), queued]
    sections = make_sections(seen(pool=pool, requests=requests, paces={"a": 10.0, "b": 5.5}))
    [told] = sections["instances"]  # type: ignore[misc]
    assert (told["pace"], told["idle_since"], told["ttl"], told["devices"]) == (15.5, 993, 60.0, {"CUDA0": 9})
    assert sections["spares"] == [{"engine": "e", "ready": False, "pid": None}]
    states = [(one["state"], one["position"], one["since"]) for one in sections["requests"]]  # type: ignore[attr-defined]
    assert states == [("answering", None, 999.0), ("answering", None, 999.0), ("queued", 1, 998.0)]


def test_lists_are_bounded_and_hold_no_text_of_clients() -> None:
    """However many requests there are, a page gets so many; what a client calls its request is not among them."""
    ended = [RequestRecord(str(one), "m", "chat", 1.0, 2.0, client_id="private") for one in range(100)]
    sections = make_sections(seen(requests=[writing(1, str(one)) for one in range(100)], ended=ended))
    assert len(sections["requests"]) == MOST_REQUESTS  # type: ignore[arg-type]
    assert len(sections["ended"]) == MOST_ENDED  # type: ignore[arg-type]
    assert "private" not in str(sections)
