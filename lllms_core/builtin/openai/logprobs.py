"""The log-probabilities of tokens in OpenAI's two shapes: that of chats, and the older one of texts."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from lllms_core.types import TokenScore


class Logprobs(Protocol):
    """Writes the `logprobs` of one choice, in as many pieces as it comes in."""

    def write(self, scores: Sequence[TokenScore]) -> dict[str, object]:
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

    def write(self, scores: Sequence[TokenScore]) -> dict[str, object]:
        """Return the object for the next tokens."""
        offsets = []
        for score in scores:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(score.piece))
        return {
            "tokens": [shown(score.piece) for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            # The token itself is among them, likely or not.
            "top_logprobs": [
                {shown(piece): logprob for piece, logprob in (*score.top, (score.piece, score.logprob))}
                for score in scores
            ],
            "text_offset": offsets,
        }


def shown(piece: bytes) -> str:
    """Return the text of a token; bytes that are no whole character come as escapes."""
    return piece.decode(errors="backslashreplace")


def _entry(piece: bytes, logprob: float) -> dict[str, object]:
    return {"token": shown(piece), "logprob": logprob, "bytes": list(piece)}
