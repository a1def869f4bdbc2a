"""The contract of a smaller model that drafts the answers of a `BatchingModel`."""

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen


@frozen
class DraftWish:
    """A wish for the likeliest continuation of a sequence."""

    sequence: int
    tokens: Sequence[int]
    """All tokens of the sequence, the prompt among them."""
    count: int
    """The number of tokens wanted."""


class Drafter(Protocol):
    """Writes drafts, which the model verifies: they cost time if they are wrong, but change no answer."""

    def draft(self, wishes: Sequence[DraftWish]) -> Sequence[Sequence[int]]:
        """Return the likeliest tokens after each sequence, as many as wished or fewer.

        None for a sequence of which it has not read everything yet: it reads as much per call as delays no step for
        long.
        """

    def forget(self, sequence: int) -> None:
        """Note that the answer in this sequence has ended."""
