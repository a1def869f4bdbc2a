"""The timelines of requests: which events make which, and that they stay bounded and hold no client's text."""

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.errors import InvalidRequest, LllmsError, ModelLoadFailed, QueueFull
from lllms_core.events import (
    LoadBegun,
    LoadEnded,
    Observers,
    RequestAssigned,
    RequestBegun,
    RequestEnded,
    RequestSubmitted,
    RequestsWait,
    UnloadBegun,
)
from lllms_core.observers.request_history import MOST_MOMENTS, History
from lllms_core.observers.request_log import as_text, ended_fields
from lllms_core.status import RequestRecord
from lllms_core.types import Finish, Timings, Usage

SUBMITTED = RequestSubmitted("r1", "m", "chat", 10.0, "alice", "trace-7")
FINISH = Finish("stop", Usage(20, 5, 12), timings=Timings(0.5, 1.0, 0.25, 0.8))


def heard(*events: object) -> History:
    history = History(lambda: 1000.0)
    for event in events:
        history(event)  # type: ignore[arg-type]  # every one of them is an event
    return history


def test_a_timeline_tells_each_step() -> None:
    """A request that waited for a load and an eviction says so in order, with the seconds since its submission."""
    history = heard(
        SUBMITTED, RequestsWait("m", "memory", "first holds it", 10.1),
        UnloadBegun("first:1", "first", "room", 10.2, "m"),
        RequestsWait("m", "memory", "first holds it", 10.2), LoadBegun("m:1", "m", 10.3),
        RequestsWait("m", "loading", "", 10.3), LoadEnded("m:1", "m", 1.0, 11.3), RequestAssigned("r1", "m:1", 11.5),
        UnloadBegun("x:1", "x", "room", 11.6, "m"), RequestBegun("r1", Usage(20, 0, 12), 11.75),
        RequestEnded("r1", 12.55, FINISH, tokens=5),
    )
    [record] = history.ended
    assert [(round(one.seconds, 2), one.what, one.detail) for one in record.moments] == [
        (0.0, "submitted", ""), (0.1, "waits: memory", "first holds it"), (0.2, "evicting", "first:1"),
        (0.3, "loading", "m:1"), (0.3, "waits: loading", ""), (1.3, "loaded", "m:1"), (1.5, "assigned", "m:1"),
        (1.75, "answering", "12 of 20 prompt tokens were cached"), (2.55, "ended", "stop"),
    ]
    assert as_text(ended_fields(record)) == (
        "id=r1 client_id=trace-7 key=alice model=m task=chat instance=m:1 queued_ms=500 load_ms=1000 prompt_ms=250"
        " decode_ms=800 total_ms=2550 prompt_tokens=20 cached_tokens=12 tokens=5 tokens_per_second=5.0 finish=stop"
        " status=200"
    )


@pytest.mark.parametrize(("error", "outcome", "status", "told"), [
    (InvalidRequest("sEcReT", "messages", "invalid_value"), "invalid_value", 400, "invalid_value"),
    (InvalidRequest("sEcReT", "messages", "sEcReT with spaces"), "error", 400, "error"),
    (ModelLoadFailed("model 'm' cannot be loaded: no memory"), "model_not_available", 503,
     "model_not_available: model 'm' cannot be loaded: no memory"),
    (QueueFull("full", 3), "queue_full", 429, "queue_full: full"),
])
def test_errors_are_told_by_their_codes(error: LllmsError, outcome: str, status: int, told: str) -> None:
    """What a request's own error says, which may quote its client, is not kept; the pool's own reasons are."""
    [record] = heard(SUBMITTED, RequestEnded("r1", 12.0, error=error)).ended
    assert (record.outcome, record.status, record.moments[-1].detail) == (outcome, status, told)
    assert record.timings.queued == 2.0
    assert "sEcReT" not in repr(record)


def test_requests_are_found_by_each_of_their_names() -> None:
    """By the own id, the client's, or the answer's; of several with one client's id, the latest."""
    history = heard(SUBMITTED, RequestEnded("r1", 11.0, FINISH), evolve(SUBMITTED, id="r2"))
    found = [history.find(name, 13.0) for name in ("r1", "trace-7", "chatcmpl-m:1-r1", "r")]
    assert [None if one is None else (one.id, one.outcome, one.seconds) for one in found] == [
        ("r1", "stop", 1.0), ("r2", None, 3.0), ("r1", "stop", 1.0), None,
    ]
    assert (history.open_ids("trace-7"), history.open_ids("r2"), history.open_ids("r1")) == (["r2"], ["r2"], [])


@given(st.lists(st.tuples(st.sampled_from("swabelu"), st.integers(0, 5)), max_size=200))
def test_any_order_of_events_keeps_the_history_sound(steps: list[tuple[str, int]]) -> None:
    """Each submitted request ends once at most, time never runs backwards in a timeline, and nothing grows for ever."""
    history, ended = History(lambda: 0.0, kept=3), list[RequestRecord]()
    history.on_end(ended.append)
    open_now: set[str] = set()
    expected = 0
    for at, (step, number) in enumerate(steps):
        name = f"r{number}"
        match step:
            case "s" if name not in open_now:
                open_now.add(name)
                history(RequestSubmitted(name, "m", "text", at))
            case "w":
                history(RequestsWait("m", "queued", str(at), at))
            case "a":
                history(RequestAssigned(name, "m:1", at))
            case "b":
                history(RequestBegun(name, None, at))
            case "e":
                expected += name in open_now
                open_now.discard(name)
                history(RequestEnded(name, at, FINISH))
            case "l":
                history(LoadBegun("m:1", "m", at))
            case "u":
                history(UnloadBegun("x:1", "x", "room", at, "m"))
    assert len(ended) == expected
    assert list(history.ended) == ended[::-1][:3]
    for record in ended:
        times = [one.seconds for one in record.moments]
        assert times == sorted(times)
        assert record.moments[0].what == "submitted"
        assert record.moments[-1].what == "ended"
        assert len(times) <= MOST_MOMENTS + 1
    assert all(history.open_ids(name) == [name] for name in open_now)


def test_an_observer_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The others hear the event, and the failure is logged."""
    def fail(_: object) -> None:
        raise ValueError("x")

    history = History()
    observers = Observers([fail])
    observers.add(history)
    observers(SUBMITTED)
    assert history.open_ids("r1") == ["r1"]
    assert "an observer failed at RequestSubmitted" in caplog.text
