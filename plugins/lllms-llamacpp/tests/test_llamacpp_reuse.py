"""Reused prefixes equal freshly evaluated ones, as the model's own probabilities show."""

import random

import pytest
from models_for_tests import RECIPES, Link

from lllms_core.types import Preload

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "red", "ball", "dog", "cat", "house", "tree"]


def scores(talk, prompts, **fields):
    """Send all prompts at once; return the likeliest next tokens after each, and the count of cached tokens."""
    names = [talk.open(prompt=prompt, max_tokens=1, top_logprobs=8, **fields) for prompt in prompts]
    heard = {}
    while not talk.model.idle:
        for delta in talk.step():
            heard.setdefault(delta.request_id, []).extend(delta.scores)
    found = [dict(heard[name][0].top) if heard.get(name) else {} for name in names]
    return found, sum(talk.answers[name].cached for name in names)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stored", [False, True])
def test_reuse_changes_nothing(load, file_of, name, stored):
    """Branches, edits and repetitions at any place, several at once, give the probabilities of a fresh evaluation.

    They are equal up to the rounding differences between batches of different sizes.
    """
    chosen = random.Random(name)
    fresh = load(file_of(name), slots=1, context_length=256)
    talk = load(file_of(name), slots=3, context_length=256, kv_size=600, **({"kept_tokens": 0} if stored else {}))
    if stored:
        talk.model.use_sessions(Link(talk.model))
    texts = [" ".join(chosen.choices(WORDS, k=20))]
    talk.model.preload("preload", Preload(prefix=texts[0]))
    while not talk.model.idle:
        talk.model.step()
    cached = 0
    for _ in range(60):
        prompts = []
        for _ in range(chosen.choice([1, 1, 4])):
            before = chosen.choice(texts).split()[:40]
            cut = chosen.randint(1, len(before)) if chosen.random() < 0.6 else len(before)
            prompts.append(" ".join(before[:cut] + chosen.choices(WORDS, k=chosen.randint(0, 15))))
        texts += prompts
        thought, reused = scores(talk, prompts)
        cached += reused
        for prompt, one in zip(prompts, thought, strict=True):
            [other], _ = scores(fresh, [prompt], cache_prompt=False)
            likeliest = [*other][:4]
            assert all(abs(one[token] - other[token]) < 0.05 for token in likeliest)
    assert cached > 300
