import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.engines.answer_text import AnswerText
from lllms_core.engines.batching.plan import PAUSE, SHORT, SHORT_STALL, STALL, Pace, plan, share_out
from lllms_core.engines.batching.run import Phase, Run
from lllms_core.engines.choices import Choices
from lllms_core.types import TextRequest

LONG = SHORT + 1


def run_of(tokens, pending, *, scored):
    """A run in its sequence, with this many tokens still to be evaluated."""
    request = TextRequest("r", "m", prompt=(1,) * tokens)
    return Run(
        request=request, choices=Choices(request, tokens, 1), index=0, tokens=[1] * tokens, prompt_length=tokens,
        limit=tokens + 5, output=AnswerText(request), phase=Phase.RUNNING, evaluated=tokens - pending,
        prompt_scores=[] if scored else None,
    )


RUNS = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 300), st.booleans()).map(
        lambda drawn: run_of(max(drawn[:2]), min(drawn[:2]), scored=drawn[2]),
    ),
    max_size=8,
)


@given(RUNS, st.integers(8, 600), st.integers(16, 600))
def test_a_plan_keeps_its_bounds(runs, batch_size, logit_rows):
    """A decode holds at most a batch of tokens and asks for no more rows than exist; generating requests come first."""
    fed = plan(runs, Pace(), batch_size, logit_rows)
    assert sum(len(feed.tokens) for _, feed in fed) <= batch_size
    assert sum(len(feed.tokens) if feed.all_logits else feed.logits for _, feed in fed) <= logit_rows
    generating = [run for run in runs if run.pending == 1]
    assert [run for run, _ in fed][: len(generating)] == generating
    assert all(feed.tokens for _, feed in fed)
    assert all(feed.position == run.evaluated for run, feed in fed)
    assert not runs or fed


@given(st.integers(0, 1000), st.lists(st.integers(1, 500), max_size=8))
def test_shares_are_fair_and_complete(budget, wanted):
    """No request gets more than it wants, nothing is left while one wants more, and only smaller wishes get less."""
    shares = share_out(budget, wanted)
    assert sum(shares) == min(budget, sum(wanted))
    assert all(share <= want for share, want in zip(shares, wanted, strict=True))
    cut = [share for share, want in zip(shares, wanted, strict=True) if share < want]
    assert not cut or max(shares) - min(cut) <= 1


def test_what_one_leaves_goes_to_the_others():
    """A short prompt takes what it needs; the long ones share the rest."""
    assert share_out(100, [10, 200, 60]) == [10, 45, 45]


def test_prompts_get_the_whole_batch_when_nobody_generates():
    """No request can be stalled, so the batch is full."""
    pace = Pace()
    pace.observe(1, 0, 0.01)
    pace.observe(0, 100, 1.0)
    assert pace.prompt_budget(0, 512, LONG) == 512


def test_prompts_get_the_rest_of_the_batch_until_the_pace_is_known():
    """Before anything was measured, only the batch's size limits a prompt."""
    assert Pace().prompt_budget(3, 512, LONG) == 509


def test_prompts_may_take_so_many_token_times():
    """Beside others, prompts get as many tokens as take `STALL` times as long as a step of the others."""
    pace = Pace()
    pace.observe(1, 0, 0.010)
    pace.observe(0, 200, 0.100)
    assert pace.prompt_budget(1, 512, LONG) == int(STALL * 0.010 / 0.0005)


@pytest.mark.parametrize(("step", "share"), [(0.010, PAUSE), (0.400, SHORT_STALL * 0.400)])
def test_short_prompts_may_take_longer(step, share):
    """Short prompts get larger shares: `SHORT_STALL` times a step of the others, and at least `PAUSE`."""
    pace = Pace()
    pace.observe(1, 0, step)
    pace.observe(0, 200, 0.800)
    assert pace.prompt_budget(1, 512, SHORT) == int(share / 0.004)


def test_a_long_prompt_is_long_to_its_end():
    """The last tokens of a long prompt, too, are read in the shares of a long one."""
    pace = Pace()
    pace.observe(1, 0, 0.010)
    pace.observe(0, 200, 0.100)
    writer, reader = run_of(9, 1, scored=False), run_of(LONG, 100, scored=False)
    assert [len(feed.tokens) for _, feed in plan([writer, reader], pace, 512, 64)] == [1, int(STALL * 0.010 / 0.0005)]
    pace.budget = None
    reader.cached = LONG - SHORT  # what a session held does not count
    assert [len(feed.tokens) for _, feed in plan([writer, reader], pace, 512, 64)] == [1, 100]


def test_prompts_always_advance():
    """However slow prompts are, each step evaluates part of one."""
    pace = Pace()
    pace.observe(1, 0, 0.001)
    pace.observe(0, 100, 10.0)
    assert pace.prompt_budget(1, 512, LONG) == 1


@pytest.mark.parametrize("writers", [1, 2, 8])
@pytest.mark.parametrize(("fixed", "each"), [(0.011, 0.00185), (0.1, 0.02), (0.02, 0.00001)])
def test_nobody_waits_longer_than_two_steps_while_a_prompt_is_read(writers, fixed, each):
    """A decode takes what any takes, and so much for each token: a step with prompts takes at most twice that without.

    The cost of a step was learnt with other numbers of writers, too, and a deep context makes each token dearer.
    """
    pace = Pace()

    def decode(generating, prompts, dearer=1.0):
        seconds = fixed + (generating + prompts * dearer) * each
        pace.observe(generating, prompts, seconds)
        return seconds

    for others in (1, 8, writers):
        decode(others, 0)
    decode(0, 300)
    usual = decode(writers, 0)
    waits = [decode(writers, pace.prompt_budget(writers, 512, LONG), 1 + at / 2000) for at in range(1000)]
    assert max(waits) <= 2 * usual
    # Half of the time is the prompt's, as far as one batch goes.
    prompt = min(512 - writers, int(STALL * usual / (each * 1.5)))
    assert waits[-1] - usual >= 0.8 * prompt * each * 1.5


@pytest.mark.parametrize("deepest", [3, 8])
def test_a_deep_context_makes_nobody_wait(deepest):
    """Where a prompt token costs most of a step, each step reads one or two; the next prompt soon gets more again."""
    pace, fixed, each = Pace(), 0.011, 0.0018

    def decode(prompts, dearer):
        seconds = fixed + (2 + prompts * dearer) * each
        pace.observe(2, prompts, seconds)
        return seconds

    pace.observe(0, 300, 300 * each)
    usual = decode(0, 1)
    waits = [decode(pace.prompt_budget(2, 512, LONG), 1 + (deepest - 1) * at / 500) for at in range(500)]
    assert max(waits) <= 2 * usual
    assert pace.budget == max(1, int(STALL * usual / (each * deepest)))
    again = [decode(pace.prompt_budget(2, 512, LONG), 1) for _ in range(20)]
    assert max(again) <= 2 * usual
    assert pace.budget == int(STALL * usual / each)


def test_a_step_that_was_fast_by_chance_makes_the_next_ones_little_longer():
    """However cheap a prompt seems after a lucky measurement, a step's share of it grows by a quarter at most."""
    pace = Pace()
    pace.observe(1, 0, 0.010)
    pace.observe(1, pace.prompt_budget(1, 512, LONG), 0.0)
    pace.observe(0, 200, 0.100)
    before = pace.prompt_budget(1, 512, LONG)
    for _ in range(8):
        pace.observe(1, before, 0.010)
        budget = pace.prompt_budget(1, 512, LONG)
        assert before < budget <= before + before // 4 + 1
        before = budget


def test_mixed_steps_correct_a_wrong_pace():
    """A first prompt that was slow (a cold cache) does not slow down all others while some request generates."""
    pace = Pace()
    pace.observe(1, 0, 0.010)
    pace.observe(0, 100, 10.0)
    for _ in range(40):
        pace.observe(1, pace.prompt_budget(1, 512, LONG), 0.010 + 0.0001 * pace.prompt_budget(1, 512, LONG))
    assert pace.prompt_token == pytest.approx(0.0001, rel=0.05)


def test_mixed_steps_teach_nothing_while_tokens_are_unknown():
    """Unless the cost of the others' tokens is known, a mixed step cannot be attributed."""
    pace = Pace()
    pace.observe(2, 100, 0.5)
    assert pace == Pace()
