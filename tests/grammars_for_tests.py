"""Whether a grammar takes a text, with a vocabulary of bytes and of some marks that are no text."""

from collections.abc import Mapping, Sequence
from random import Random

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from lllms_llamacpp.grammars import translate

from lllms_core.types import Constraint

MARKS = (
    '<|"|>', "<~>", "<call>", "</call>", "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>",
)
NAMES: Mapping[str, int] = {mark: 257 + at for at, mark in enumerate(MARKS)}
"""The marks with their tokens, for grammars that name them."""


class _Vocabulary:
    eos_token_id, bos_token_id = 256, None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<eos>", *(mark.encode() for mark in MARKS))
    special_token_ids = (256, *NAMES.values())

    def __call__(self, text: bytes) -> Sequence[int]:
        return list(text)


_TOKENIZER = LLTokenizer(TokenizerWrapper(_Vocabulary()))


def accepts(constraint: Constraint | None, text: str, names: Mapping[str, int] | None = None) -> bool:
    """Whether a text may be a whole answer; where there are `names`, its marks are those tokens."""
    assert constraint is not None
    matcher = LLMatcher(_TOKENIZER, translate(constraint))
    assert not matcher.is_error(), matcher.get_error()
    for mark, token in (names or {}).items():
        text = text.replace(mark, chr(0xE000 + token))
    tokens = [token for char in text for token in ([ord(char) - 0xE000] if char >= "\ue000" else char.encode())]
    return all(matcher.consume_token(token) for token in tokens) and bool(matcher.is_accepting())


_CLOSERS = ('"', "}", "]", ")", ",", ":", " ", "0", "e", "null", "true")
_LONGEST = 600


def random_text(constraint: Constraint | None, random: Random, ends: Sequence[str]) -> str | None:
    """A text that a grammar takes, written byte by byte at random, the sooner ended by one of `ends`; None if too long.

    A grammar of any text up to a mark would never end by itself, for a walk at random finds no mark.
    """
    assert constraint is not None
    matcher = LLMatcher(_TOKENIZER, translate(constraint))
    assert not matcher.is_error(), matcher.get_error()
    text: list[int] = []
    while len(text) < _LONGEST and not matcher.is_stopped():
        allowed = _allowed(matcher)
        if matcher.is_accepting() and (len(allowed) == 1 or random.random() < 0.5):
            break
        tokens = _ending(matcher, random, ends, late=len(text) > 120) if random.random() < len(text) / 100 else []
        if not tokens:
            usual = [token for token in allowed if token < 128] or [token for token in allowed if token < 256]
            tokens = [random.choice(usual)]
        assert matcher.consume_tokens(tokens)
        text += tokens
    return bytes(text).decode() if matcher.is_accepting() else None


def _ending(matcher: LLMatcher, random: Random, ends: Sequence[str], *, late: bool) -> list[int]:
    """The tokens of a mark that may come next, if any may; late in a text, rather a mark that ends something."""
    marks = [*ends, *_CLOSERS] if late else random.sample([*ends, *_CLOSERS], len(ends) + len(_CLOSERS))
    for mark in marks:
        tokens = list(mark.encode())
        if tokens and matcher.validate_tokens(tokens) == len(tokens):
            return tokens
    return []


def _allowed(matcher: LLMatcher) -> list[int]:
    bits = matcher.compute_bitmask()
    return [token for token in range(257) if bits[token // 8] >> token % 8 & 1]
