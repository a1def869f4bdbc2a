"""Whether a grammar takes a text, with a vocabulary of bytes and of some marks that are no text."""

from collections.abc import Mapping, Sequence

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
