"""What sessions are as stores get them, and which of them go; pure."""

import struct
from collections.abc import Sequence

from attrs import frozen

from lllms_core.sessions import SessionEntry, TokenChain

NEVER = -1.0
HEAD = struct.Struct("<8sI")
_MAGIC = b"lllms-s1"


@frozen
class SessionLimits:
    """What bounds the stored sessions."""

    max_size: int = 2**30
    """Bytes."""
    ttl: float = 86400.0
    """Seconds since the last use; -1: no limit."""
    min_tokens: int = 128


def pack(tokens: bytes, state: bytes | memoryview) -> bytes:
    """Return the data of a session as stores get it; `tokens` are 4 bytes each."""
    return b"".join([HEAD.pack(_MAGIC, len(tokens)), tokens, state])


def unpack(data: bytes) -> tuple[bytes, memoryview]:
    """Return what was packed. Raises `ValueError` for anything else."""
    if len(data) < HEAD.size:
        raise ValueError("it is too short")
    magic, length = HEAD.unpack_from(data)
    if magic != _MAGIC or len(data) < HEAD.size + length:
        raise ValueError("it is no session")
    return data[HEAD.size : HEAD.size + length], memoryview(data)[HEAD.size + length :]


def superseded(entries: Sequence[SessionEntry], space: str, tokens: TokenChain, *, whole: bool) -> list[str]:
    """Name the sessions that a new one of these tokens makes useless: its beginnings.

    With `whole`, where a session is only ever gone on with as it is, only its equals: beginnings are for who goes back.
    """
    return [
        e.id for e in entries
        if e.space == space and tokens.continues(e) and (not whole or e.tokens == len(tokens))
    ]


def victims(entries: Sequence[SessionEntry], more: int, limits: SessionLimits, now: float) -> list[str]:
    """Name the sessions that must go: those not used for too long, then the least recently used to have room."""
    dead = [e.id for e in entries if limits.ttl != NEVER and e.used + limits.ttl <= now]
    kept = sorted((e for e in entries if e.id not in set(dead)), key=lambda entry: entry.used)
    size = sum(e.size for e in kept) + more
    while kept and size > limits.max_size:
        size -= kept[0].size
        dead.append(kept.pop(0).id)
    return dead


def in_one_line(one: bytes, other: bytes) -> bool:
    """Whether one line of tokens begins with the other."""
    return one.startswith(other) or other.startswith(one)
