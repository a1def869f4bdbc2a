"""What texts have in common, not cut inside of a tag; pure."""

import re

TAG = re.compile(r"<[^<>\n]{1,60}>|\[/?[A-Z_]{2,}\]")


def common_head(one: str, other: str) -> str:
    """The text with which both begin, not cut inside of a tag."""
    return one[: snap_down(alike(one, other), one, other)]


def common_tail(one: str, other: str) -> str:
    """The text with which both end, not cut inside of a tag."""
    return one[len(one) - snap_up(alike(one[::-1], other[::-1]), one, other) :]


def alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def snap_down(length: int, *texts: str) -> int:
    """How long a common beginning of `length` is without the part of a tag at its end."""
    for text in texts:
        length = min([length, *(tag.start() for tag in TAG.finditer(text) if tag.start() < length < tag.end())])
    return length


def snap_up(length: int, *texts: str) -> int:
    """How long a common end of `length` is without the part of a tag at its beginning."""
    for text in texts:
        cut = len(text) - length
        length = min([length, *(len(text) - tag.end() for tag in TAG.finditer(text) if tag.start() < cut < tag.end())])
    return length
