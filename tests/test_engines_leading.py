from unittest.mock import patch

import pytest
from batching_for_tests import ACTIONS, Driver, FakeModel, ask, finish, reference, text, usage
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.engines.batching import leading

SHARED = "system: be kind to everyone, and never say more than a few words at once. " * 3


def evaluated(model):
    """The number of tokens of all decodes so far."""
    return sum(len(feed.tokens) for decode in model.decodes for feed in decode)


@settings(max_examples=200, deadline=None)
@given(ACTIONS, st.integers(2, 4), st.integers(0, 3), st.integers(64, 140), st.integers(4, 40))
def test_answers_are_the_same_whoever_waits_for_whom(actions, slots, spare, kv_size, batch_size):
    """If prompts wait for even the shortest shared prefix, each answer is the same as alone, and none is lost."""
    with patch.object(leading, "WORTH", 2):
        model = FakeModel(slots=slots, sequences=slots + spare, kv_size=kv_size, batch_size=batch_size)
        driver = Driver(model)
        for action, first, second in actions:
            driver.play(action, first, second)
        for name, deltas in finish(model).items():
            driver.answers.setdefault(name, []).extend(deltas)
    driver.check()
    assert model._cache.table.held == len(model.cells)


def test_prompts_that_begin_alike_are_read_once():
    """Of four requests that come at once with one system prompt, one reads it; the others read what is their own."""
    model = FakeModel(slots=4, sequences=4, context_length=400, kv_size=1600, batch_size=100)
    prompts = {name: f"{SHARED}user {name}: hello" for name in "abcd"}
    for name, prompt in prompts.items():
        model.open(ask(name, prompt, 4))
    answers = finish(model)
    assert {name: text(deltas) for name, deltas in answers.items()} == {
        name: reference(prompt, 4) for name, prompt in prompts.items()
    }
    own = 4 * (len(prompts["a"]) - len(SHARED) + leading.WORTH + 4)
    assert evaluated(model) < len(SHARED) + own
    assert [usage(answers[name]).cached_tokens > len(SHARED) - leading.WORTH for name in "abcd"] == [False, *[True] * 3]


def test_a_prompt_waits_no_longer_than_the_shared_part():
    """A request whose prompt goes its own way early is not delayed by all of a long prompt."""
    model = FakeModel(slots=2, sequences=2, context_length=2000, kv_size=4000, batch_size=50)
    model.open(ask("long", SHARED + "x" * 1500, 4))
    model.step()
    model.open(ask("short", SHARED + "y", 4))
    before = len(model.decodes)
    while not any(delta.request_id == "short" for delta in model.step()):
        assert len(model.decodes) - before < 2 * len(SHARED) / 50
    finish(model)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_prompt_waits_for_nobody_who_has_left(end):
    """If the request that reads the shared part ends, the one that waited uses what is there, and reads the rest."""
    model = FakeModel(slots=2, sequences=2, context_length=400, kv_size=800, batch_size=50)
    model.open(ask("first", SHARED + "one", 4))
    model.open(ask("second", SHARED + "two", 4))
    model.step()
    assert model.prompt_progress().keys() == {"first"}
    if end == "cancel":
        model.cancel("first")
    else:
        model._drop("first")
    answers = finish(model)
    assert text(answers["second"]) == reference(SHARED + "two", 4)
    assert usage(answers["second"]).cached_tokens == 50


def test_short_prompts_and_private_ones_wait_for_nobody():
    """Reading a few tokens twice costs less than waiting; a request that reuses nothing has nothing to wait for."""
    model = FakeModel(slots=3, sequences=3, context_length=400, kv_size=1200, batch_size=300)
    start = "a" * (leading.WORTH - 1)
    model.open(ask("1", start + "b" * 100, 4))
    model.open(ask("2", start + "c" * 100, 4))
    model.open(ask("3", start + "b" * 100, 4, cache_prompt=False))
    model.step()
    assert model.prompt_progress().keys() == {"1", "2", "3"}
    finish(model)


def test_a_model_that_cannot_copy_waits_for_nobody():
    """Where a sequence cannot be cut, none can begin as another one does, so waiting would only delay."""
    model = FakeModel(slots=2, context_length=400, kv_size=800, batch_size=50, can_trim=False)
    for name in ("1", "2"):
        model.open(ask(name, SHARED + name, 4))
    model.step()
    assert model.prompt_progress().keys() == {"1", "2"}
    finish(model)
