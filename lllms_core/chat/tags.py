"""Common parts of texts, never cut inside a tag; pure."""

import re

TAG = re.compile(r"<[^<>\n]{1,60}>|\[/?[A-Z_]{2,}\]")


def common_head(one: str, other: str) -> str:
    """Return the common start of both, not cut inside a tag."""
    return one[: snap_down(alike(one, other), one, other)]


def common_tail(one: str, other: str) -> str:
    """Return the common end of both, not cut inside a tag."""
    return one[len(one) - snap_up(alike(one[::-1], other[::-1]), one, other) :]


def alike(one: str, other: str) -> int:
    """Return the number of characters with which both start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def snap_down(length: int, *texts: str) -> int:
    """Return the length of a common start of `length`, without a partial tag at its end."""
    for text in texts:
        length = min([length, *(tag.start() for tag in TAG.finditer(text) if tag.start() < length < tag.end())])
    return length


def snap_up(length: int, *texts: str) -> int:
    """Return the length of a common end of `length`, without a partial tag at its start."""
    for text in texts:
        cut = len(text) - length
        length = min([length, *(len(text) - tag.end() for tag in TAG.finditer(text) if tag.start() < cut < tag.end())])
    return length
