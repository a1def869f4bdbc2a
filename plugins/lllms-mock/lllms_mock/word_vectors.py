"""Vectors without a model: texts that share words point in similar directions."""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import shake_256


def vector(words: Iterable[str], dimensions: int) -> list[float]:
    """Return the sum of the words' directions, in any order; without words, the direction of the empty word."""
    directions = [_direction(word.strip().lower(), dimensions) for word in words] or [_direction("", dimensions)]
    return [float(sum(numbers)) for numbers in zip(*directions, strict=True)]


@lru_cache(4096)
def _direction(word: str, dimensions: int) -> tuple[float, ...]:
    """Return numbers from -1 to 1 that look random, but are always the same for a word."""
    data = shake_256(word.encode(errors="replace")).digest(2 * dimensions)
    return tuple(int.from_bytes(data[at : at + 2], "big") / 32767.5 - 1 for at in range(0, len(data), 2))
