import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.engines.batching.drafting import (
    FIRST,
    FULL,
    LADDER,
    MARGIN,
    NEIGHBOURS,
    OLD,
    REFRESH,
    SHARE,
    Acceptance,
    Chance,
    Costs,
    Purse,
    allot,
)

CHANCES = st.lists(st.builds(Chance, st.floats(0, 0.995), st.integers(0, 40), st.floats(0, 0.5)), max_size=6)
SLOPES = st.floats(0, 2)


def expected(chances, shares):
    """The tokens that these drafts are expected to bring."""
    return sum(
        sum(chance.rate ** (depth + 1) for depth in range(share)) for chance, share in zip(chances, shares, strict=True)
    )


@given(CHANCES, st.integers(0, 4), st.integers(0, 40), SLOPES)
def test_a_draft_is_expected_to_pay(chances, others, room, slope):
    """What is drafted fits, and brings more tokens per time than a step without drafts; otherwise nothing is."""
    answers = max(1, len(chances) + others)
    shares = allot(chances, answers, room, lambda drafted: 1 + slope * drafted)
    drafted = sum(shares)
    assert drafted <= max(0, room)
    assert all(0 <= share <= chance.most for chance, share in zip(chances, shares, strict=True))
    if drafted:
        price = sum(chance.price * share for chance, share in zip(chances, shares, strict=True))
        time = 1 + slope * drafted + price
        assert (answers + expected(chances, shares)) / answers / time >= MARGIN * 0.999
        assert others == 0 or 1 + slope * drafted <= NEIGHBOURS


@given(CHANCES.filter(bool), st.integers(1, 40))
def test_free_drafts_are_as_long_as_they_can_be_likely(chances, room):
    """If drafts cost nothing, the longest draft is at least as good as any other."""
    free = [Chance(chance.rate, chance.most) for chance in chances]
    shares = allot(free, len(free), room, lambda _: 1.0)
    for count in LADDER:
        tokens = sorted((one.rate ** (depth + 1) for one in free for depth in range(one.most)), reverse=True)[:room]
        if count <= len(tokens) and (len(free) + sum(tokens[:count])) / len(free) > MARGIN:
            assert expected(free, shares) >= sum(tokens[:count]) - 1e-6


def test_likely_drafts_are_longer():
    """With the same costs, the surer draft gets more tokens."""
    sure, unsure = allot([Chance(0.98, 30), Chance(0.5, 30)], 2, 40, lambda drafted: 1 + 0.05 * drafted)
    assert sure > unsure


def test_dear_steps_are_not_drafted():
    """If each token costs a whole step, nothing is gained by drafting it."""
    assert allot([Chance(0.9, 30)], 1, 40, lambda drafted: 1.0 + drafted) == [0]


STEPS = st.lists(st.tuples(st.integers(0, 12), st.floats(0, 1), st.floats(1, 5)), max_size=300)


@given(STEPS)
def test_wrong_drafts_lose_only_what_was_saved(steps):
    """However wrong costs and chances are, drafts lose at most a small share of the time, and one draft."""
    purse = Purse()
    time = tokens = worst = 0.0
    for wanted, right, cost in steps:
        drafted = wanted if purse.open else 0
        paid = cost if drafted else 1.0
        accepted = int(right * drafted)
        purse.pay(paid)
        purse.earn(accepted)
        time += paid
        tokens += 1 + accepted
        worst = max(worst, paid - 1)
    # Without drafts, a step brings a token.
    assert time - tokens <= FIRST + worst + SHARE * time + 1e-6


def test_a_full_purse_allows_a_probe():
    """After enough steps without a loss, a draft may be tried again though it is not expected to pay."""
    purse = Purse()
    purse.pay(3.0)
    assert not purse.full
    steps = 0
    while not purse.full:
        purse.pay(1.0)
        steps += 1
    assert FULL / SHARE * 0.9 < steps < FULL / SHARE * 1.1


def test_costs_are_learnt_from_steps():
    """A cost that was measured is known; between two of them it lies between."""
    costs = Costs()
    for _ in range(30):
        costs.learn(1, 0, 0.010)
        costs.learn(1, 4, 0.020)
        costs.learn(1, 12, 0.040)
    assert costs.cost(1, 4) == pytest.approx(2.0, rel=0.1)
    assert costs.cost(1, 12) == pytest.approx(4.0, rel=0.1)
    assert 2.0 < costs.cost(1, 8) < 4.0
    assert costs.cost(1, 16) > 4.0


def test_a_disturbed_step_teaches_little():
    """One step that took a hundred times as long changes a known cost, and what it loses, only a little."""
    costs = Costs()
    for _ in range(30):
        costs.learn(1, 0, 0.010)
        costs.learn(1, 4, 0.020)
    assert costs.learn(1, 4, 2.0) == pytest.approx(4.0, rel=0.1)
    assert costs.cost(1, 4) < 3.0
    costs.learn(1, 0, 1.0)
    assert costs.usual[1] < 0.02


def test_old_costs_are_forgotten():
    """A cost that was measured long ago is tried again."""
    costs = Costs()
    costs.learn(1, 0, 0.010)
    for _ in range(10):
        costs.learn(1, 4, 0.1)
    dear = costs.cost(1, 4)
    for _ in range(OLD + 1):
        costs.learn(1, 0, 0.010)
    assert dear > 5
    assert costs.cost(1, 4) < 3


def test_the_usual_step_is_measured_again():
    """After many steps with drafts, one without is due."""
    costs = Costs()
    costs.learn(1, 0, 0.010)
    for _ in range(REFRESH):
        assert not costs.due
        costs.learn(1, 4, 0.02)
    assert costs.due
    costs.learn(1, 0, 0.010)
    assert not costs.due


@given(st.floats(0, 1), st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), max_size=50))
def test_acceptance_is_a_probability(start, drafts):
    """Whatever comes, the rate stays below certainty, and above nothing."""
    acceptance = Acceptance(start)
    for drafted, share in drafts:
        acceptance.learn(drafted, int(share * drafted))
        assert 0 <= acceptance.rate < 1


def test_acceptance_follows_what_happens():
    """After wrong drafts it is low, after right ones high again."""
    acceptance = Acceptance(0.5)
    for _ in range(20):
        acceptance.learn(4, 0)
    assert acceptance.rate < 0.15
    for _ in range(20):
        acceptance.learn(4, 4)
    assert acceptance.rate > 0.9
