"""Sessions of a model without weights: its state is its tokens, so that every store can be tried with it."""

from array import array
from collections.abc import Iterator, Sequence
from zlib import crc32

from lllms_core.engines.sequences import common_prefix
from lllms_core.engines.serial import Pause, Piece, Reused
from lllms_core.engines.sessions import Session, SessionLink
from lllms_core.types import Message
from lllms_mock.tokens import as_bytes

_SECONDS = 0.001
"""How often an answer looks whether its session was found."""


class Recall:
    """What past conversations of a mock have left with those who keep its sessions."""

    def __init__(self, link: SessionLink) -> None:
        self._link = link
        self._sought: dict[str, Session | None] = {}
        self._waiting: list[str] = []

    def found(self, request_id: str, session: Session | None) -> None:
        """Take the answer, if anybody waits for it."""
        if request_id in self._waiting:
            self._sought[request_id] = session

    def remember(self, request_id: str, tokens: Sequence[int]) -> Iterator[Piece]:
        """Pause until the session of a prompt is there, tell how much of it is of use, and leave one for the next."""
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
    """Return numbers for the pieces of a conversation; a message begins with one for who speaks."""
    numbers: list[int] = []
    for message, pieces in zip(messages, split, strict=True):
        numbers += [_number(message.role), *map(_number, pieces)]
    return numbers


def _number(piece: str | bytes) -> int:
    return crc32(as_bytes(piece)) >> 1


def _state(tokens: Sequence[int]) -> bytes:
    """A state that is as long as the tokens, and looks like none of them."""
    return bytes(255 - byte for byte in array("i", tokens).tobytes())
