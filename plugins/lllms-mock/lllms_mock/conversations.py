"""Sessions of a model without weights: its state is its tokens, so any store can be tried with it."""

from array import array
from collections.abc import Iterator, Sequence
from zlib import crc32

from lllms_core.engines.batching.sequences import common_prefix
from lllms_core.engines.serial import Pause, Piece, Reused
from lllms_core.engines.session_link import Session, SessionLink
from lllms_core.types import Message
from lllms_mock.splitting import as_bytes

_SECONDS = 0.001
"""Interval at which an answer checks for its session."""


class Recall:
    """The sessions that past conversations of a mock have stored."""

    def __init__(self, link: SessionLink) -> None:
        self._link = link
        self._sought: dict[str, Session | None] = {}
        self._waiting: list[str] = []

    def found(self, request_id: str, session: Session | None) -> None:
        """Deliver a session, if a request waits for it."""
        if request_id in self._waiting:
            self._sought[request_id] = session

    def remember(self, request_id: str, tokens: Sequence[int]) -> Iterator[Piece]:
        """Pause until the session lookup ends, report the tokens reused, and store a session for the next turn."""
        if len(tokens) <= self._link.min_tokens:
            return
        self._waiting.append(request_id)
        try:
            self._link.find(request_id, tokens, 0, whole=False)
            while request_id not in self._sought:
                yield Pause(_SECONDS)
            session = self._sought[request_id]
        finally:
            self._waiting.remove(request_id)
            if request_id not in self._waiting:
                self._sought.pop(request_id, None)
        if session is not None and bytes(session.state) == _state(session.tokens):
            yield Reused(min(common_prefix(session.tokens, list(tokens)), len(tokens) - 1))
        self._link.put(Session(list(tokens), _state(tokens)), whole=False)


def tokens_of(messages: Sequence[Message], split: Sequence[Sequence[str | bytes]]) -> list[int]:
    """Return numbers for the pieces of a conversation; a message starts with one for its role."""
    numbers: list[int] = []
    for message, pieces in zip(messages, split, strict=True):
        numbers += [_number(message.role), *map(_number, pieces)]
    return numbers


def _number(piece: str | bytes) -> int:
    return crc32(as_bytes(piece)) >> 1


def _state(tokens: Sequence[int]) -> bytes:
    """Return a state as long as the tokens, but different from all of them."""
    return bytes(255 - byte for byte in array("i", tokens).tobytes())
