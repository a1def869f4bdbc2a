"""The scheduler with many nodes, on a simulated clock: what an event costs, fairness, and what is lost with nodes."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from simulate_cluster import INSTANCES, LOAD, Layout, Play, layouts

from lllms_core.pool.effects import Effect


class Counting(Play):
    """Counts the calls of functions by which the scheduler answers an event: a cost that no busy machine changes."""

    calls = 0

    def tell(self, event: Callable[[], list[Effect]]) -> None:
        before = sys.getprofile()

        def count(frame: FrameType, what: str, _: object) -> None:
            self.calls += what == "call" and "lllms_core" in frame.f_code.co_filename

        def counted() -> list[Effect]:
            sys.setprofile(count)
            try:
                return event()
            finally:
                sys.setprofile(before)

        super().tell(counted)


def cost(layout: Layout) -> float:
    """Return the calls for each event once everything is loaded."""
    play = Counting(layout)
    play.run(1)
    play.calls, play.course.events = 0, 0
    play.advance(150)
    return play.calls / play.course.events


@pytest.mark.parametrize("number", range(3), ids=[layout.title for layout in layouts(1)])
def test_an_event_costs_little_more_on_ten_times_the_nodes(number: int) -> None:
    """What the scheduler does for a request hardly grows with the instances of other models, or with the nodes."""
    assert cost(layouts(10)[number]) < 2 * cost(layouts(1)[number])


def test_a_client_with_half_of_all_requests_does_not_delay_the_others() -> None:
    """The others wait for less time than without it, and it waits for longer."""
    course = Play(Layout("8", 4, 8, greedy=0.5)).run(600)
    waits = {client: sum(every) / len(every) for client, every in course.waits.items()}
    others = [wait for client, wait in waits.items() if client != "c0"]
    assert sum(others) / len(others) < waits["c0"] / 3


def test_a_model_spreads_over_many_nodes_in_little_more_time_than_over_one() -> None:
    """One machine loads one instance after the other, and so does each of 16, but all of these at the same time."""
    assert Play(Layout("1", 1, 1)).grow() == pytest.approx(INSTANCES * LOAD)
    assert Play(Layout("1", 16, 1)).grow() < 1.7 * INSTANCES * LOAD


def test_a_dead_node_costs_only_the_requests_that_had_begun() -> None:
    """All others are served, and models have the instances that they keep again."""
    play = Play(Layout("8", 10, 8, most=10**6, kept=2))
    play.run(100)
    running = len(play.scheduler.running)
    assert running == 10 * 8 * 8
    play.kill(1)
    assert play.course.failed + play.course.again <= 8 * 8
    assert play.course.failed > 0
    asked = set(play.asked)
    while asked & play.asked.keys():
        play.advance(1)
    assert not play.scheduler.fleet.lacking
    assert len(play.scheduler.instances) == 9 * 8
