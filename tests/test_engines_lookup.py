from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from lllms_core.engines.batching.lookup import GRAM, MOST_KEPT, PER_CALL, Lookup

TOKENS = st.lists(st.integers(0, 5), max_size=60)


@given(TOKENS, TOKENS, TOKENS, st.integers(1, 8))
def test_what_is_found_was_there(prompt, answer, prediction, most):
    """A continuation stands in the prompt, the answer or the prediction, after tokens like the answer's last ones."""
    tokens = list(prompt)
    lookup = Lookup(tokens, prediction)
    for token in answer:
        begins = lookup.begins
        found = list(lookup.find(most))
        assert len(found) <= most
        if found and not begins:
            assert lookup.alike >= 1
            end = tokens[-min(lookup.alike, len(tokens)) :]
            places = [
                (text, at) for text in (tokens, prediction) for at in range(len(end), len(text) + 1)
                if text[at - len(end) : at] == end and text[at : at + most][: len(found)] == found
            ]
            assert places, (tokens, end, found)
        tokens.append(token)


@given(st.lists(st.integers(0, 2**20), min_size=GRAM + 1, max_size=40, unique=True), st.integers(1, 40))
def test_a_repetition_is_found(prompt, most):
    """If an answer begins like a part of its prompt, the rest of that part is found."""
    for start in range(len(prompt) - GRAM):
        tokens = [*prompt, *prompt[start : start + GRAM]]
        found = Lookup(tokens).find(most)
        assert list(found) == tokens[start + GRAM :][:most]


def test_the_prediction_comes_first():
    """A predicted text is followed from its beginning, before anything confirms it."""
    lookup = Lookup([1, 2, 3], [7, 8, 9, 10])
    assert lookup.begins
    assert list(lookup.find(3)) == [7, 8, 9]


def test_one_other_token_does_not_lose_the_place():
    """An answer that differs from the text in one token is expected to continue like it after the next one."""
    text = list(range(10, 30))
    tokens = [1]
    lookup = Lookup(tokens, text)
    tokens += [10, 11, 12]
    assert list(lookup.find(2)) == [13, 14]
    tokens += [99]
    assert list(lookup.find(2)) == []
    tokens += [14]
    assert list(lookup.find(2)) == [15, 16]
    tokens += [98, 97]
    assert list(lookup.find(2)) == []


def test_an_insertion_is_followed_after_a_few_tokens():
    """After tokens that the text lacks, its place is found again by what follows."""
    text = list(range(10, 30))
    tokens = [1]
    lookup = Lookup(tokens, text)
    for token in [10, 11, 12, 90, 91, 92, 13, 14, 15]:
        tokens.append(token)
        found = list(lookup.find(2))
    assert found == [16, 17]


def test_the_index_is_bounded_and_built_in_parts():
    """A prompt of any length takes a bounded index, of which each call builds a part."""
    tokens = [at % 50_000 for at in range(3 * MOST_KEPT)]
    lookup = Lookup(tokens)
    calls = 0
    while not lookup.find(4):
        calls += 1
        tokens.append(tokens[-50_000])
        assert calls < 100
    assert calls >= (MOST_KEPT - 50_000) // PER_CALL
    assert sum(len(text.places) for text in lookup._texts) <= MOST_KEPT + calls


def test_a_token_costs_little():
    """Following an answer in which nothing repeats takes microseconds a token."""
    tokens = list(range(1000))
    lookup = Lookup(tokens)
    lookup.find(8)
    best = 1.0
    for block in range(20):
        started = perf_counter()
        for token in range(200):
            tokens.append(10_000 + block * 1000 + token)
            lookup.find(8)
        best = min(best, (perf_counter() - started) / 200)
    assert best < 50e-6
