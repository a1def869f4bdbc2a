"""Whether a grammar takes a text, with a vocabulary of bytes and of some marks that are no text."""

from collections.abc import Mapping, Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from lllms_llamacpp.grammars import translate

from lllms_core.chat import CallWatch, LazyGrammar
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


def matcher_of(constraint: Constraint) -> LLMatcher:
    """Return a fresh matcher."""
    matcher = LLMatcher(_TOKENIZER, translate(constraint), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def tokens_of(text: str, names: Mapping[str, int] | None = None) -> list[int]:
    """Return the bytes of a text, whose marks are tokens where there are `names`."""
    for mark, token in (names or {}).items():
        text = text.replace(mark, chr(0xE000 + token))
    cut = ([ord(char) - 0xE000] if "\ue000" <= char < "\uf000" else [*char.encode()] for char in text)
    return [token for tokens in cut for token in tokens]


def accepts(constraint: Constraint | None, text: str, names: Mapping[str, int] | None = None) -> bool:
    """Whether a text may be a whole answer; where there are `names`, its marks are those tokens."""
    assert constraint is not None
    matcher = matcher_of(constraint)
    return all(matcher.consume_token(token) for token in tokens_of(text, names)) and bool(matcher.is_accepting())


def keeps(lazy: LazyGrammar | Constraint | None, text: str, names: Mapping[str, int] | None = None) -> bool:
    """Whether an answer may be a text whose calls, all of them whole, are kept to a grammar from their mark on."""
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
    return matcher is None
