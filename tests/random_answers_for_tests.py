"""Random answers that a grammar accepts."""

from collections.abc import Sequence
from random import Random

from llguidance import LLMatcher, LLTokenizer
from lllms_llamacpp.grammars import translate

from lllms_core.types import Constraint

_TOKENIZER = LLTokenizer("byte")
_CLOSERS = ('"', "}", "]", ")", ",", ":", " ", "0", "e", "null", "true")
_LONGEST = 600


def random_text(constraint: Constraint | None, random: Random, ends: Sequence[str]) -> str | None:
    """A text that a grammar accepts, written at random byte by byte, ended sooner by one of `ends`; None if too long.

    A grammar of any text up to a mark would never end by itself, since a random walk finds no mark.
    """
    assert constraint is not None
    matcher = LLMatcher(_TOKENIZER, translate(constraint))
    assert not matcher.is_error(), matcher.get_error()
    text: list[int] = []
    while len(text) < _LONGEST and not matcher.is_stopped():
        allowed = _allowed(matcher)
        if matcher.is_accepting() and (not allowed or random.random() < 0.5):
            break
        tokens = _ending(matcher, random, ends, late=len(text) > 120) if random.random() < len(text) / 100 else []
        if not tokens:
            tokens = [random.choice([token for token in allowed if token < 128] or allowed)]
        assert matcher.consume_tokens(tokens)
        text += tokens
    return bytes(text).decode() if matcher.is_accepting() else None


def _ending(matcher: LLMatcher, random: Random, ends: Sequence[str], *, late: bool) -> list[int]:
    """The tokens of a mark that may come next, if any; late in a text, preferably of one that closes something."""
    marks = [*ends, *_CLOSERS] if late else random.sample([*ends, *_CLOSERS], len(ends) + len(_CLOSERS))
    for mark in marks:
        tokens = list(mark.encode())
        if tokens and matcher.validate_tokens(tokens) == len(tokens):
            return tokens
    return []


def _allowed(matcher: LLMatcher) -> list[int]:
    bits = matcher.compute_bitmask()
    return [token for token in range(256) if bits[token // 8] >> token % 8 & 1]
