"""The format of stored sessions, and the rules by which they are deleted; pure."""

import struct
from collections.abc import Sequence

from attrs import frozen

from lllms_core.pool.state import NEVER
from lllms_core.sessions import SessionEntry, TokenChain

HEAD = struct.Struct("<8sI")
_MAGIC = b"lllms-s1"


@frozen
class SessionLimits:
    """The limits of the stored sessions."""

    max_size: int = 2**30
    """Bytes."""
    ttl: float = 86400.0
    """Seconds since the last use; -1: no limit."""
    min_tokens: int = 128
    waiting: int = 2**29
    """Bytes that may wait for the store in memory, in the server and in each worker; a single session may be larger."""


def pack(tokens: bytes, state: bytes | memoryview) -> bytes:
    """Return the data of a session in its stored form; `tokens` are 4 bytes each."""
    return b"".join([HEAD.pack(_MAGIC, len(tokens)), tokens, state])


def unpack(data: bytes) -> tuple[bytes, memoryview]:
    """Return the tokens and the state that were packed. Raises `ValueError` for any other data."""
    if len(data) < HEAD.size:
        raise ValueError("it is too short")
    magic, length = HEAD.unpack_from(data)
    if magic != _MAGIC or len(data) < HEAD.size + length:
        raise ValueError("it is not a session")
    return data[HEAD.size : HEAD.size + length], memoryview(data)[HEAD.size + length :]


def superseded(entries: Sequence[SessionEntry], space: str, tokens: TokenChain, *, whole: bool) -> list[str]:
    """Return the ids of the sessions that a new one with these tokens makes useless: its prefixes.

    If sessions can only be resumed `whole`, only exact duplicates are superseded; prefixes still serve edited turns.
    """
    return [
        e.id for e in entries
        if e.space == space and tokens.continues(e) and (not whole or e.tokens == len(tokens))
    ]


def victims(entries: Sequence[SessionEntry], more: int, limits: SessionLimits, now: float) -> list[str]:
    """Return the ids of the sessions to evict: the expired ones, then the least recently used to make room."""
    expired = {e.id for e in entries if limits.ttl != NEVER and e.used + limits.ttl <= now}
    dead = [e.id for e in entries if e.id in expired]
    kept = sorted((e for e in entries if e.id not in expired), key=lambda entry: entry.used)
    size = sum(e.size for e in kept) + more
    for entry in kept:
        if size <= limits.max_size:
            break
        size -= entry.size
        dead.append(entry.id)
    return dead


def in_one_line(one: bytes, other: bytes) -> bool:
    """Whether one of the two token sequences is a prefix of the other."""
    return one.startswith(other) or other.startswith(one)
