"""What a model and those who keep its sessions say to each other."""

from collections.abc import Sequence
from typing import Protocol

from attrs import field, frozen

State = bytes | memoryview
"""What a model exports of a sequence; it means something to the same model only."""


@frozen
class Session:
    """A line of evaluated tokens, and the state of the model after them."""

    tokens: list[int]
    state: State = field(repr=False)


@frozen
class Resident:
    """A conversation that a model holds by itself, to be gone on with."""

    key: int
    """Names it inside the model, as long as it holds these tokens."""
    tokens: Sequence[int] = field(repr=False)
    used: float
    """When a request last had to do with it, in seconds since 1970."""
    size: int | None = None
    """Bytes of its state; None if the model cannot tell."""


class SessionLink(Protocol):
    """A model's way to the stored sessions. Both methods return at once."""

    min_tokens: int
    """A session that saves the evaluation of fewer tokens is not worth its way."""
    max_size: int
    """A state of more bytes is not taken."""

    def find(self, request_id: str, tokens: Sequence[int], known: int, *, whole: bool) -> None:
        """Ask for the stored session that shares most with `tokens`, if that is more than `known` of them.

        With `whole` only sessions count that are a beginning of `tokens`, all of them. The answer comes as a call of
        the model's `found`, in any case.
        """

    def put(self, session: Session, *, whole: bool) -> None:
        """Have a session stored, some time soon; if that cannot be done, it is lost, as a cache's entries may be.

        With `whole` it can only be gone on with as it is.
        """
