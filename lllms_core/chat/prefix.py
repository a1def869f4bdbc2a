"""Keys for the prefixes of a prompt, by which the pool finds the instance with the longest cached prefix.

A key is 16 bytes of SHA-256. It only routes: the engine compares tokens before it reuses any, so a collision costs
speed and never leaks text; at 128 bits none happens by chance. Each key covers the previous one, which has a fixed
length, and one canonical piece: no text of a user can look like the border between two messages.
"""

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256

from attrs import asdict

from lllms_core.types import Message, Tool

_SIZE = 16


def prefix_keys(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[bytes, ...]:
    """Return one key per prefix of the conversation: key i stands for `messages[: i + 1]` and the tools, by value."""
    start = _canonical([asdict(tool) for tool in tools]) if tools else b""
    return _chain(b"chat" + start, (_canonical(asdict(message)) for message in messages))


def text_prefix_keys(prompt: str, *, block: int = 256) -> tuple[bytes, ...]:
    """Return one key per prefix of a whole number of blocks of `block` characters; a shorter prompt has none."""
    ends = range(block, len(prompt) + 1, block)
    return _chain(b"text %d" % block, (prompt[end - block : end].encode("utf-8", "surrogatepass") for end in ends))


def _canonical(value: object) -> bytes:
    # ASCII escapes keep lone surrogates distinct, which UTF-8 cannot encode.
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _chain(start: bytes, pieces: Iterable[bytes]) -> tuple[bytes, ...]:
    keys = []
    key = sha256(start).digest()[:_SIZE]
    for piece in pieces:
        key = sha256(key + piece).digest()[:_SIZE]
        keys.append(key)
    return tuple(keys)
