"""Whether a grammar accepts a text, with a vocabulary of bytes and of some special tokens for marks."""

from collections.abc import Mapping, Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from lllms_llamacpp.grammars import translate

from lllms_core.chat import CallWatch, LazyGrammar
from lllms_core.types import Constraint

MARKS = (
    '<|"|>', "<~>", "<call>", "</call>", "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>",
)
NAMES: Mapping[str, int] = {mark: 257 + at for at, mark in enumerate(MARKS)}
"""The marks and their tokens, for grammars that name them."""


class _Vocabulary:
    eos_token_id, bos_token_id = 256, None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<eos>", *(mark.encode() for mark in MARKS))
    special_token_ids = (256, *NAMES.values())

    def __call__(self, text: bytes) -> Sequence[int]:
        return list(text)


_TOKENIZER = LLTokenizer(TokenizerWrapper(_Vocabulary()))


def matcher_of(constraint: Constraint) -> LLMatcher:
    """Return a fresh matcher."""
    matcher = LLMatcher(_TOKENIZER, translate(constraint), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def tokens_of(text: str, names: Mapping[str, int] | None = None) -> list[int]:
    """Return a text's bytes as tokens; with `names`, the marks are single tokens."""
    for mark, token in (names or {}).items():
        text = text.replace(mark, chr(0xE000 + token))
    cut = ([ord(char) - 0xE000] if "\ue000" <= char < "\uf000" else [*char.encode()] for char in text)
    return [token for tokens in cut for token in tokens]


def accepts(constraint: Constraint | None, text: str, names: Mapping[str, int] | None = None) -> bool:
    """Whether a grammar accepts a text as a whole answer; with `names`, the marks are those tokens."""
    assert constraint is not None
    matcher = matcher_of(constraint)
    return all(matcher.consume_token(token) for token in tokens_of(text, names)) and bool(matcher.is_accepting())


def keeps(lazy: LazyGrammar | Constraint | None, text: str, names: Mapping[str, int] | None = None) -> bool:
    """Whether a lazy grammar, which constrains calls from their mark on, accepts a text with complete calls."""
    assert isinstance(lazy, LazyGrammar)
    watch, matcher = CallWatch(lazy.cue), None
    shown = {token: mark.encode() for mark, token in (names or {}).items()}
    for token in tokens_of(text, names):
        piece = shown.get(token, bytes([token % 256]))
        if matcher is None and (written := watch.look(piece)) is not None:
            matcher = matcher_of(lazy.constraint)
            watch.restart()
            if not matcher.consume_tokens([*written]):
                return False
        elif matcher is None:
            watch.take(piece)
        elif not matcher.consume_token(token):
            return False
        if matcher is not None and matcher.is_stopped():
            matcher = None
    return matcher is None or bool(matcher.is_accepting())
