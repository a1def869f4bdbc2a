"""Encodes values for answers: as JSON, JSON lines and server-sent events; pure."""

import json
from collections.abc import Mapping
from math import isfinite

IMPOSSIBLE = -9999.0
"""What OpenAI and others write for the logarithm of a probability of 0, since JSON has no infinity."""


def dumps(value: object) -> bytes:
    """Encode compactly, as ASCII, so that no line reader stumbles over U+2028 and the like.

    Infinity and NaN, which JSON lacks, become null.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False).encode()


def _finite(value: object) -> object:
    match value:
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


def logprob_value(logprob: float) -> float:
    """Return the logarithm of a probability as APIs write it."""
    return max(logprob, IMPOSSIBLE)


def event(value: object, name: str = "") -> bytes:
    """Encode one server-sent event, with its `name`, if any."""
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + dumps(value) + b"\n\n"


def line(value: object) -> bytes:
    """Encode one line of JSON (`application/x-ndjson`)."""
    return dumps(value) + b"\n"


def comment(text: str) -> bytes:
    """Encode a line that readers of event streams skip; it shows that the connection is alive."""
    return f": {' '.join(text.split())}\n\n".encode()
