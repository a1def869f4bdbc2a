"""The values that a model exchanges with the keeper of its sessions."""

from collections.abc import Sequence
from typing import Protocol

from attrs import field, frozen

State = bytes | memoryview
"""The exported state of a sequence; only the same model can read it."""


@frozen
class Session:
    """A sequence of evaluated tokens, and the state of the model after them."""

    tokens: list[int]
    state: State = field(repr=False)


@frozen
class Resident:
    """A conversation still in the model's KV cache, which can be resumed."""

    key: int
    """Identifies it within the model, as long as it holds these tokens."""
    tokens: Sequence[int] = field(repr=False)
    used: float
    """The last time that a request used it, in seconds since 1970."""
    size: int | None = None
    """Bytes of its state; None if the model does not know."""


class SessionLink(Protocol):
    """A model's access to the stored sessions. Both methods return at once."""

    min_tokens: int
    """A session that saves the evaluation of fewer tokens is not worth transferring."""
    max_size: int
    """A larger state, in bytes, is not stored."""

    def find(self, request_id: str, tokens: Sequence[int], known: int, *, whole: bool) -> None:
        """Look up the stored session that shares the longest prefix with `tokens`, longer than `known`.

        With `whole`, only sessions that are prefixes of `tokens` match. The result always comes as a call of the
        model's `found`.
        """

    def put(self, session: Session, *, whole: bool) -> None:
        """Store a session soon, in the background; like a cache entry, it may be lost.

        With `whole`, it can only be resumed whole.
        """
