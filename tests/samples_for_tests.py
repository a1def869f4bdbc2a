"""Random texts of a grammar, as a model with random weights would write them."""

from collections.abc import Mapping, Sequence
from random import Random

from grammars_for_tests import tokens_of
from llguidance import LLMatcher

_CLOSERS = ('"', "'", "}", "]", ")", ",", ", ", "\n", "true", "null", "1")


def sample(
    matcher: LLMatcher, random: Random, ends: Sequence[str], names: Mapping[str, int] | None = None,
    longest: int = 1500,
) -> str | None:
    """Return a whole text that a matcher allows; None if it finds no end.

    `ends` are texts to write in full where possible, since chance alone rarely spells them.
    """
    closers = [tokens_of(end, names) for end in (*ends, *_CLOSERS) if end]
    named = {token: mark for mark, token in (names or {}).items()}
    written: list[int] = []
    while len(written) < longest:
        if matcher.is_stopped() or (matcher.is_accepting() and random.random() < 0.5):
            pieces = [named[one].encode() if one in named else bytes([one]) for one in written]
            return b"".join(pieces).decode()
        # Half of the time, and always towards the end, write a text that may close what is open.
        random.shuffle(closers)
        wishes = closers if random.random() < 0.5 or len(written) > longest // 2 else []
        chances = [[random.randrange(32, 127)] for _ in range(6)] + [[*chr(random.randrange(128, 9000)).encode()]]
        fits = (one for one in (*wishes, *chances) if matcher.validate_tokens(one) == len(one))
        chosen = next(fits, None) or [_any(matcher)]
        assert matcher.consume_tokens(chosen), matcher.get_error()
        written += chosen
    return None


def _any(matcher: LLMatcher) -> int:
    """Return the first token that may come, other than the end."""
    bits = int.from_bytes(matcher.compute_bitmask(), "little")
    bits &= ~(1 << 256)
    assert bits, matcher.get_error()
    return (bits & -bits).bit_length() - 1
