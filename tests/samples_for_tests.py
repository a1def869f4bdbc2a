"""Texts that a grammar can write, drawn at random as a model without sense would."""

from collections.abc import Mapping, Sequence
from random import Random

from grammars_for_tests import matcher_of, tokens_of

from lllms_core.types import Constraint

_CLOSERS = ('"', "'", "}", "]", ")", ",", ", ", "\n", "true", "null", "1")


def sample(
    constraint: Constraint, random: Random, ends: Sequence[str], names: Mapping[str, int] | None = None,
    longest: int = 3000,
) -> str | None:
    """Return a whole text that a grammar allows, None if it does not come to an end.

    `ends` are texts that it should write in full where it can, since chance alone rarely spells them.
    """
    matcher = matcher_of(constraint)
    closers = [tokens_of(end, names) for end in (*ends, *_CLOSERS) if end]
    named = {token: mark for mark, token in (names or {}).items()}
    written: list[int] = []
    while len(written) < longest:
        assert not matcher.is_error(), matcher.get_error()
        if matcher.is_stopped() or (matcher.is_accepting() and random.random() < 0.5):
            pieces = [named[one].encode() if one in named else bytes([one]) for one in written if one != 256]
            return b"".join(pieces).decode(errors="surrogateescape")
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [at for at in range(bits.bit_length()) if bits >> at & 1 and at != 256]
        if not allowed:
            continue
        # Half of the time, and always towards the end, write something that may close what is open.
        whole = [one for one in closers if matcher.validate_tokens(one) == len(one)]
        if whole and (random.random() < 0.5 or len(written) > longest // 2):
            chosen = random.choice(whole)
        else:
            texts = [one for one in allowed if 32 <= one < 127] or allowed
            chosen = [random.choice(texts if random.random() < 0.95 else allowed)]
        assert matcher.consume_tokens(chosen), matcher.get_error()
        written += chosen
    return None
