"""The objects that choose the tokens of one answer, made by a `BatchingModel`."""

from collections.abc import Sequence
from typing import Protocol


class Sampler(Protocol):
    """Chooses the next token of one request."""

    def sample(self, row: int) -> int:
        """Choose a token from the logits in this row of the last decode, and remember it for the penalties.

        Raises `EngineFailed` if no token can be chosen, which ends the request.
        """

    def close(self) -> None:
        """Free what the sampler holds."""


class Matcher(Protocol):
    """Keeps one answer to its constraint."""

    def sample(self, sampler: Sampler, row: int, opening: int | None = None) -> int:
        """Let `sampler` choose among the tokens that may come next, and remember which one came.

        `opening` may come as well, and is not remembered: it opens the thoughts. Raises `RequestError` if the
        constraint turns out to be impossible.
        """

    def sample_thought(self, sampler: Sampler, row: int) -> int:
        """Let `sampler` choose any token but those that end the answer: the constrained part comes later."""

    def sample_except(self, sampler: Sampler, row: int, tokens: Sequence[int]) -> int:
        """Let `sampler` choose any token but these, from logits in which some may already be forbidden."""

    def sample_forced(self, sampler: Sampler, row: int) -> int | None:
        """Let `sampler` choose the next token if the constraint allows only one, and remember it; else return None.

        The logits in this row were used already, and may be overwritten. Called only if the model speculates.
        """

    def begin(self, written: bytes) -> bool:
        """Restart after the freely chosen text `written`; False if no match begins with it.

        Calls that a model makes of its own accord are constrained from their mark on, one after the other.
        """

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, so that nothing may follow."""
