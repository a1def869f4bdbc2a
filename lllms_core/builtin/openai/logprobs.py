"""The log-probabilities of tokens in OpenAI's two shapes: that of chats, and the older one of texts; pure."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import evolve

from lllms_core.apis.writing import logprob_value
from lllms_core.types import PromptScores, TokenScore


class Logprobs(Protocol):
    """Writes the `logprobs` of one choice, piece by piece."""

    def write(self, scores: Sequence[TokenScore]) -> Mapping[str, object]:
        """Return the object for the next tokens."""


class ChatLogprobs:
    """`{"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...], "refusal": null}`."""

    def write(self, scores: Sequence[TokenScore]) -> dict[str, object]:
        """Return the object for these tokens."""
        content = [
            {**_entry(score.piece, score.logprob), "top_logprobs": [_entry(*one) for one in score.top]}
            for score in scores
        ]
        return {"content": content, "refusal": None}


class TextLogprobs:
    """`{"tokens", "token_logprobs", "top_logprobs", "text_offset"}`, arrays of one length.

    An offset is where in the choice's text the token begins, in characters; `offset` is that of the first one.
    """

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, scores: Sequence[TokenScore]) -> dict[str, list[object]]:
        """Return the object for the next tokens."""
        return {
            "tokens": [shown(score.piece) for score in scores],
            "token_logprobs": [logprob_value(score.logprob) for score in scores],
            "top_logprobs": [_likeliest(score) for score in scores],
            "text_offset": [self.place(score.piece) for score in scores],
        }

    def place(self, piece: bytes) -> int:
        """Return where the next token begins, which has these bytes."""
        offset = self._offset
        self._offset += len(self._decoder.decode(piece))
        return offset


def write_prompt(text: str, scores: PromptScores) -> dict[str, list[object]]:
    """Return the object for the tokens of a prompt that is echoed as `text`; the first one has no probability.

    A token that is not part of the text, like BOS before it, is not shown.
    """
    first, rest = _fit(text.encode(errors="replace"), scores)
    writer = TextLogprobs()
    if not first:
        return writer.write(rest)
    heads = {"tokens": shown(first), "token_logprobs": None, "top_logprobs": None, "text_offset": writer.place(first)}
    written = writer.write(rest)
    return {key: [head, *written[key]] for key, head in heads.items()}


def _fit(text: bytes, scores: PromptScores) -> tuple[bytes, tuple[TokenScore, ...]]:
    """The first token and the others, so that they spell the text as far as they can."""
    behind = b"".join(score.piece for score in scores.rest)
    if scores.first + behind == text or not scores.rest:
        return scores.first, scores.rest
    if scores.first + behind == b" " + text:  # SentencePiece puts a space before a text
        return scores.first[1:], scores.rest
    if behind == text:
        return b"", scores.rest
    if behind == b" " + text:
        return b"", (evolve(scores.rest[0], piece=scores.rest[0].piece[1:]), *scores.rest[1:])
    return scores.first, scores.rest


def _likeliest(score: TokenScore) -> dict[str, float]:
    # The token itself is among them, likely or not.
    return {shown(piece): logprob_value(logprob) for piece, logprob in (*score.top, (score.piece, score.logprob))}


def shown(piece: bytes) -> str:
    """Return the text of a token; bytes that are no whole character come as escapes."""
    return piece.decode(errors="backslashreplace")


def _entry(piece: bytes, logprob: float) -> dict[str, object]:
    return {"token": shown(piece), "logprob": logprob_value(logprob), "bytes": list(piece)}
