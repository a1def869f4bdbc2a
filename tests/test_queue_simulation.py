"""The queue against the order of arrival, on a simulated clock: loads, waits, and delays by other clients."""

import math

import pytest
from simulate_queue import (
    MOMENTS,
    Arrival,
    Fifo,
    Machine,
    burst,
    crowd,
    delay,
    delays,
    ours,
    play,
    siege,
    stream,
    swaps,
)

BOUND = 30.0
"""The default of `max_wait_before_swap`."""


@pytest.mark.parametrize("arrivals", [burst(), *map(stream, range(8))], ids=["burst", *map(str, range(8))])
def test_interleaved_requests_cost_a_fifth_of_the_swaps(arrivals: list[Arrival]) -> None:
    """With room for one of three models, 90 interleaved requests cost a fifth of the loads, and 99 % wait < 30 s."""
    machine = Machine()
    course, before = play(ours(machine), arrivals, machine), play(Fifo(), arrivals, machine)
    assert before.loads == 90
    assert course.loads * 5 <= before.loads
    assert course.wait(0.99) <= BOUND
    assert course.wait(0.99) < before.wait(0.99) / 5


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("moment", [*MOMENTS, 45.0, 79.0])
def test_a_client_with_many_requests_delays_another_by_two(slots: int, moment: float) -> None:
    """A single request waits for at most two of another client's hundred, even if these have waited for long."""
    machine = Machine(slots)
    arrivals = crowd(moment)
    assert delay(play(ours(machine), arrivals, machine), len(arrivals) - 1) <= 2


def test_a_busy_model_keeps_no_other_out_for_longer_than_the_bound() -> None:
    """A model whose slots are always taken is unloaded for another's request after 30 s, and the rest of its work."""
    machine = Machine()
    course = play(ours(machine), siege(), machine)
    assert BOUND < course.waits[-1] <= BOUND + siege()[0].seconds + machine.unload + machine.load
    assert course.loads == 3


def test_residency_keeps_an_overloaded_server_at_work() -> None:
    """If all have waited for longer than the bound, each load still serves requests for `min_residency` seconds."""
    machine = Machine(slots=1, load=5.0)
    course, without = (
        play(ours(machine, min_residency=seconds), burst(), machine) for seconds in (10.0, 0.0)
    )
    served = 10.0 // burst()[0].seconds
    assert course.loads <= 3 + math.ceil((90 - 30) / served)
    assert course.loads * 2 <= without.loads
    assert max(course.waits) < max(without.waits)


@pytest.mark.parametrize("limits", [{"max_wait_before_swap": 0.0, "min_residency": 0.0}, {"max_wait_before_swap": 0.0}])
def test_no_limits_make_loads_useless(limits: dict[str, float]) -> None:
    """Whatever the limits are, each load serves at least one request, and all are served."""
    machine = Machine()
    for arrivals in (burst(), stream(1)):
        course = play(ours(machine, **limits), arrivals, machine)
        assert course.loads <= len(arrivals)
        assert len(course.started) == len(arrivals)


def test_the_documented_tables_can_be_made() -> None:
    """The script that prints the tables for the documentation shows both orders in each of its cases."""
    for text in (swaps(), delays()):
        lines = text.splitlines()
        assert len(lines) >= 6
        assert sum("order of arrival" in line for line in lines) * 3 >= len(lines) - 2
