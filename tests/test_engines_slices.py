"""Long texts are tokenised in bounded slices, with the same tokens as a whole text, until no client waits."""

import re
from collections.abc import Callable
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.cancellation import WorkCancelled, cancelled_by, check_cancelled
from lllms_core.engines.slices import WINDOW, token_slices

WORD = re.compile(r" ?\w{1,30}|\s+(?!\S)|\s|[^\w\s]+")
SIZE = 200
words = st.sampled_from(
    ["the", " quick", " brown", "\n", "\n\n", "  ", ", ", "1", " 23", "日本語", " é😀", "<|a|>", '{"a": [1', "."],
)
texts = st.builds("".join, st.lists(words, max_size=400))


def tokenizer(seen: list[str] | None = None) -> Callable[[str], list[int]]:
    """A tokenizer whose tokens are words, and which records what it was given."""

    def tokenize(text: str) -> list[int]:
        if seen is not None:
            seen.append(text)
        return [hash(word) for word in WORD.findall(text)]

    return tokenize


def whole(text: str, *, size: int = SIZE) -> list[int]:
    return [token for piece in token_slices(text, tokenizer(), tokenizer(), size=size) for token in piece]


@given(text=texts)
def test_slices_change_no_token(text: str) -> None:
    """The tokens of the slices are those of the whole text, provided that it has word boundaries."""
    assert whole(text) == tokenizer()(text)


@given(text=st.one_of(texts, st.text(max_size=3000), st.builds(str.__mul__, st.text(max_size=3), st.integers(0, 1500))))
def test_slices_are_bounded_and_lose_nothing(text: str) -> None:
    """The slices add up to the text, and none is much longer than twice the size, whatever the text is made of."""
    slices = [*token_slices(text, lambda piece: [len(piece)], lambda piece: [len(piece)], size=SIZE)]
    assert sum(length for [length] in slices) == len(text)
    assert max(length for [length] in slices) <= 2 * SIZE + WINDOW


@given(text=texts, more=texts)
def test_cuts_do_not_depend_on_what_follows(text: str, more: str) -> None:
    """A text that is continued keeps its first slices: the prefix cache depends on that."""
    before, after = (
        [len(piece) for piece in token_slices(one, list, list, size=SIZE)] for one in (text, text + more)  # type: ignore[arg-type]
    )
    assert after[: len(before) - 1] == before[:-1]


def test_only_the_beginning_is_read_as_one() -> None:
    """The first slice is tokenised as the beginning of a text, and all others as a continuation."""
    first: list[str] = []
    text = "word " * 1000
    pieces = [*token_slices(text, tokenizer(first), tokenizer(), size=SIZE)]
    assert len(first) == 1
    assert text.startswith(first[0])
    assert len(pieces) > 10


def test_cancelled_between_slices() -> None:
    """Abandoned work ends after the current slice; other threads' flags, or no flag, have no effect."""
    flag = Event()
    with cancelled_by(flag):
        slices = token_slices("word " * 1000, tokenizer(), tokenizer(), size=SIZE)
        assert next(slices)
        flag.set()
        with pytest.raises(WorkCancelled):
            next(slices)
        with pytest.raises(WorkCancelled):
            check_cancelled()
    check_cancelled()
