"""How log-probabilities are written, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.builtin.openai.logprobs import TextLogprobs, write_prompt
from lllms_core.types import PromptScores, TokenScore

pytestmark = pytest.mark.slow


def scores(first: bytes, *rest: bytes) -> PromptScores:
    return PromptScores(first, tuple(TokenScore(piece, -1.0) for piece in rest))


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=6), st.integers(1, 4))
def test_offsets_are_where_tokens_begin(words: list[str], width: int) -> None:
    """However a prompt is split into tokens, even within characters, offsets increase and lie in the text."""
    text = "".join(words)
    data = text.encode(errors="replace")
    pieces = [data[at : at + width] for at in range(0, len(data), width)]
    written = write_prompt(data.decode(), scores(*pieces))
    offsets = written["text_offset"]
    assert offsets == sorted(offsets)  # type: ignore[type-var]
    assert offsets == [len(data[: at * width].decode(errors="ignore")) for at in range(len(pieces))]
    assert written["token_logprobs"] == [None, *[-1.0] * (len(pieces) - 1)]


def test_a_token_before_the_text_is_not_shown() -> None:
    """BOS is not part of an echoed text: the first token of the text has a probability after it."""
    written = write_prompt("Hi you", scores(b"<s>", b"Hi", b" you"))
    assert written["tokens"] == ["Hi", " you"]
    assert written["token_logprobs"] == [-1.0, -1.0]
    assert written["text_offset"] == [0, 2]


def test_a_space_that_the_vocabulary_adds_is_not_shown() -> None:
    """SentencePiece puts a space before a text, with BOS or without, which is not part of the echo."""
    with_bos = write_prompt("Hi you", scores(b"<s>", b" Hi", b" you"))
    assert (with_bos["tokens"], with_bos["text_offset"]) == (["Hi", " you"], [0, 2])
    without = write_prompt("Hi you", scores(b" Hi", b" you"))
    assert (without["tokens"], without["token_logprobs"]) == (["Hi", " you"], [None, -1.0])


def test_tokens_that_do_not_spell_the_text_are_shown_as_they_are() -> None:
    """If tokens and text differ otherwise, nothing is guessed."""
    assert write_prompt("other", scores(b"a", b"b"))["tokens"] == ["a", "b"]


def test_a_prompt_of_one_token_has_no_probabilities() -> None:
    """No token precedes it."""
    written = write_prompt("Hi", scores(b"Hi"))
    assert written == {"tokens": ["Hi"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}


def test_the_answer_goes_on_where_the_prompt_ends() -> None:
    """The offsets of an answer count from the beginning of the echoed prompt."""
    assert TextLogprobs(len("Hi you")).write(scores(b"", b" and").rest)["text_offset"] == [6]
