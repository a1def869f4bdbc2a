"""The contract for authors of session stores: bytes in, bytes out; no store knows their meaning.

A session is an evaluated conversation: its tokens, and the state of the model after them. It may only be loaded into
the same `space`: the model's file, the engine and its versions, the options that matter. It only serves a prompt that
shares a prefix with its tokens. A chain of hashes over blocks of tokens shows how much two sessions share, without
reading either; the engine compares the tokens themselves before it uses any.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from attrs import frozen

from lllms_core.engines.base import NoOptions

BLOCK = 64
"""Tokens per block: a shared prefix is found in whole blocks, or in full if one session is a prefix of the other."""
_DIGEST_SIZE = 16


@frozen
class SessionEntry:
    """The metadata of a stored session; contains no text."""

    id: str
    """Unique among all sessions of all servers that share a store; safe as a file name."""
    model: str
    """The configured name of the model, for people."""
    space: str
    """Identifies everything that the state may be loaded into."""
    tokens: int
    chain: tuple[str, ...]
    """One hash per whole block: the n-th stands for the first n blocks."""
    digest: str
    """The hash of all its tokens."""
    size: int
    """Bytes of its data."""
    used: float
    """When it was last stored or read, in seconds since 1970."""


class TokenChain:
    """The hashes of the prefixes of a token sequence."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = array("i", tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """One hash per whole block, each covering those before it."""
        hashes: list[str] = []
        for end in range(BLOCK, len(self._tokens) + 1, BLOCK):
            hashes.append(_hash(hashes[-1] if hashes else "", self._tokens[end - BLOCK : end]))
        return tuple(hashes)

    def digest(self, length: int) -> str:
        """Return the hash of the first `length` tokens."""
        whole = length // BLOCK
        return _hash(f"{length} {self.blocks[whole - 1] if whole else ''}", self._tokens[whole * BLOCK : length])

    def shared(self, entry: SessionEntry) -> int:
        """Return the number of leading tokens shared with a session, as far as hashes tell."""
        if self.continues(entry):
            return entry.tokens
        # Each hash stands for all blocks before it, too.
        low, high = 0, min(len(entry.chain), len(self.blocks))
        while low < high:
            middle = (low + high + 1) // 2
            if entry.chain[middle - 1] == self.blocks[middle - 1]:
                low = middle
            else:
                high = middle - 1
        return BLOCK * low

    def continues(self, entry: SessionEntry) -> bool:
        """Whether these tokens start with all those of a session."""
        if entry.tokens > len(self):
            return False
        # Of many sessions, most differ in whole blocks, whose hashes are known.
        if entry.chain and entry.chain[-1:] != self.blocks[len(entry.chain) - 1 : len(entry.chain)]:
            return False
        return self.digest(entry.tokens) == entry.digest


def longest_prefix(
    entries: Iterable[SessionEntry], space: str, prompt: TokenChain, *, whole: bool,
) -> SessionEntry | None:
    """Return the session of this space that shares most with a prompt, the last used among equals; None if none does.

    With `whole`, only sessions that the prompt continues count.
    """
    fit = [(shared, e) for e in entries if e.space == space and ((shared := prompt.shared(e)) == e.tokens or not whole)]
    shared, best = max(fit, key=lambda one: (one[0], one[1].used), default=(0, None))
    return best if shared else None


class SessionStore(ABC):
    """Keeps sessions; the server calls it from two threads: one puts, one finds and gets, both list and delete.

    It may lose sessions, raise any exception, or be slow: requests continue without it. It must not return bytes that
    differ from those it was given. The server deletes sessions that exceed the size limit or are too old.
    """

    name: ClassVar[str]
    """Its value in `[sessions] store = "..."`."""
    in_memory: ClassVar[bool] = False
    """Whether it keeps the data in the server's memory, so that they count against `server.memory_limit`."""
    Options: ClassVar[type] = NoOptions
    """An attrs class: the keys of `[sessions.options]`, with their types and defaults. Unknown keys are refused."""

    @property
    def documents_folder(self) -> Path | None:
        """A folder for the server's other private files that should live as long as sessions; None: keep none.

        Read after `open`.
        """
        return None

    def open(self, options: object) -> None:
        """Start; called once, with an instance of `Options`. Raises `ConfigError` if that is not possible."""

    @abstractmethod
    def put(self, entry: SessionEntry, data: bytes) -> None:
        """Store a session, atomically."""

    @abstractmethod
    def get(self, session_id: str) -> bytes | None:
        """Return the data of a session, and record its use; None if it is missing or damaged."""

    @abstractmethod
    def delete(self, session_id: str) -> bool:
        """Delete a session; return whether it existed."""

    @abstractmethod
    def list(self) -> Sequence[SessionEntry]:
        """Return the entries of all sessions, without reading their data."""

    def find(self, space: str, prompt: TokenChain, *, whole: bool) -> SessionEntry | None:
        """Return the session that shares most with a prompt, see `longest_prefix`."""
        return longest_prefix(self.list(), space, prompt, whole=whole)

    def size(self) -> int:
        """Return the bytes of all sessions together."""
        return sum(entry.size for entry in self.list())

    def close(self) -> None:
        """Release all resources. The last call."""


def _hash(start: str, tokens: "array[int]") -> str:
    return sha256(start.encode() + b"\0" + tokens.tobytes()).hexdigest()[: 2 * _DIGEST_SIZE]
