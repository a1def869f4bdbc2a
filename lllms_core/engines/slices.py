"""Long texts to tokens, a slice at a time; pure.

Tokenizers in C cannot be cancelled. Some need time that grows with the square of a text's length (llama.cpp: byte
tokens of SentencePiece, control tokens), or a stack that grows with it (the regular expressions of BPE: 100 KB of one
letter kill the process). In slices the work is linear, can be cancelled, and ends as soon as there are enough tokens.
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice

from lllms_core.cancellation import check_cancelled

SLICE = 4096
"""Characters of a slice at least; it has at most some more than twice as many. A shorter text is one slice."""
WINDOW = 64
"""Characters on either side of a cut, whose tokens show whether it changes any."""
_BETWEEN_WORDS = re.compile(r"(?<=\w)(?=\s\w)")
_MOST_TRIED = 8
_NEXT_TRIED = 32

Tokenize = Callable[[str], list[int]]


def token_slices(text: str, first: Tokenize, further: Tokenize, *, size: int = SLICE) -> Iterator[list[int]]:
    """The tokens of a text, slice by slice: of its beginning by `first`, of what follows other text by `further`.

    A text is cut between words, or else wherever the tokens around are the same with and without the cut, so that the
    tokens are those of the whole text. One without any such place in `size` characters (a word of 4,096 letters) is cut
    all the same: its tokens stand for the same text. Where it is cut depends on nothing that comes later, so that texts
    with a common beginning have common tokens. Raises `WorkCancelled`.
    """
    start = 0
    while len(text) - start > 2 * size + WINDOW:
        check_cancelled()
        end = _cut(text, start + size, size, further)
        yield (further if start else first)(text[start:end])
        start = end
    check_cancelled()
    yield (further if start else first)(text[start:])


def _cut(text: str, at: int, size: int, tokenize: Tokenize) -> int:
    """Where to cut between `at` and `at + size`."""
    between_words = (match.start() for match in _BETWEEN_WORDS.finditer(text, at, at + size))
    places = chain(islice(between_words, _MOST_TRIED), range(at, at + min(size, _NEXT_TRIED)))
    return next((place for place in places if _is_free(text, place, tokenize)), at)


def _is_free(text: str, place: int, tokenize: Tokenize) -> bool:
    """Whether a cut changes no token near it."""
    before, after = text[place - WINDOW : place], text[place : place + WINDOW]
    return tokenize(before + after) == tokenize(before) + tokenize(after)
