"""The pieces of an answer that one step has written, as one where that changes nothing; pure."""

from collections.abc import Sequence

from attrs import evolve

from lllms_core.types import Delta


def joined(deltas: Sequence[Delta]) -> list[Delta]:
    """Join pieces of one answer, as far as that changes no order of text, thoughts and calls."""
    result = [deltas[0]]
    for delta in deltas[1:]:
        before = result[-1]
        if before.reasoning or before.calls or delta.reasoning or delta.calls:
            result.append(delta)
            continue
        result[-1] = evolve(
            delta, text=before.text + delta.text, tokens=before.tokens + delta.tokens,
            scores=before.scores + delta.scores, prompt_scores=before.prompt_scores,
            admitted=before.admitted or delta.admitted, unenforced=before.unenforced + delta.unenforced,
        )
    return result
