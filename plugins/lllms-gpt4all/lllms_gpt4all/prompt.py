"""The part of a prompt that is already evaluated, and the hand-over of the rest; pure.

gpt4all takes texts, not tokens, so a prompt can only be resumed where its text can be cut so that the rest gives the
same tokens as in the whole: after and before special tokens, and mostly before white space.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from attrs import frozen

from lllms_core.chat import Segment
from lllms_core.engines.batching.sequences import common_prefix

_MOST_CUTS = 8
"""At most this many resume points are tried, the latest first: each costs tokenising the rest."""


class Tokenizer(Protocol):
    """The functions of a vocabulary that the planning needs."""

    def tokenize(
        self, text: str, *, parse_special: bool, after: Sequence[int], most: int | None = None,
    ) -> list[int]:
        """Return the tokens of a text that follows the tokens `after`; may stop beyond `most` tokens."""

    def text(self, token: int) -> bytes:
        """Return the bytes that a token is made from."""

    def is_special(self, token: int) -> bool:
        """Whether a token is parsed apart from the text around it."""


@frozen
class Prompt:
    """A prompt as texts and as tokens; `ends[i]` is the number of tokens up to the end of segment i."""

    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    ends: tuple[int, ...]


def make_prompt(segments: Sequence[Segment], vocabulary: Tokenizer, most: int | None = None) -> Prompt:
    """Tokenise the segments, one after the other; only some of them if there are more than `most` tokens."""
    tokens: list[int] = []
    ends: list[int] = []
    for segment in segments:
        if most is not None and len(tokens) > most:
            break
        tokens += vocabulary.tokenize(segment.text, parse_special=segment.parse_special, after=tokens, most=most)
        ends.append(len(tokens))
    return Prompt(tuple(segments), tuple(tokens), tuple(ends))


def continue_from(cached: Sequence[int], prompt: Prompt, vocabulary: Tokenizer) -> tuple[int, list[Segment]]:
    """Return how many of the `cached` tokens the prompt keeps, and the segments to evaluate after them.

    At least one token is left to evaluate: the logits after it are needed.
    """
    most = min(common_prefix(list(cached), list(prompt.tokens)), len(prompt.tokens) - 1)
    cuts = [cut for cut in _cuts(prompt, vocabulary, most) if 0 < cut[0] <= most]
    for keep, at, rest in reversed(cuts[-_MOST_CUTS:]):
        segment = Segment(rest, prompt.segments[at].parse_special)
        tokens = vocabulary.tokenize(rest, parse_special=segment.parse_special, after=prompt.tokens[:keep])
        if tokens == list(prompt.tokens[keep : prompt.ends[at]]):
            return keep, [segment, *prompt.segments[at + 1 :]]
    return 0, list(prompt.segments)


def _cuts(prompt: Prompt, vocabulary: Tokenizer, most: int) -> Iterator[tuple[int, int, str]]:
    """Yield the places where the prompt may be cut: the tokens before, the segment, and the rest of its text."""
    start = 0
    for at, (segment, end) in enumerate(zip(prompt.segments, prompt.ends, strict=True)):
        data, place = segment.text.encode(errors="replace"), 0
        special = True
        for index in range(start, min(end, most + 1)):
            token = prompt.tokens[index]
            piece, was_special, special = vocabulary.text(token), special, vocabulary.is_special(token)
            if was_special or special or index == start or piece[:1].isspace():
                yield index, at, data[place:].decode(errors="replace")
            if data.startswith(piece, place):
                place += len(piece)
            elif was_special and piece.startswith(b" ") and data.startswith(piece[1:], place):
                place += len(piece) - 1  # the space that the vocabulary has added
            elif not special:
                break  # some normalisation has changed the text: later places in it are unknown
        start = end
