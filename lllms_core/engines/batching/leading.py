"""Prompts that begin alike and come at once: one is read, and the others wait for it instead of reading the same."""

from collections.abc import Callable, Iterable

from lllms_core.engines.batching.run import Run
from lllms_core.engines.batching.sequences import common_prefix

WORTH = 64
"""The fewest tokens that are worth waiting for: as many as a small chunk, read in some ten milliseconds."""


def follows(run: Run, running: Iterable[Run], known: Callable[[], int]) -> bool:
    """Whether a run should wait, because a running request reads the tokens that its own prompt begins with.

    `known` returns how many leading tokens of the prompt need no evaluation; it is called seldom.
    """
    if run.leader is not None and _leads(run.leader, run.shared):
        return True
    run.leader = None
    reading = [other for other in running if not other.alone and _leads(other, run.prompt_length)]
    if not reading or run.alone:
        return False
    least = known()
    for other in reading:
        shared = min(common_prefix(other.tokens, run.tokens), run.prompt_length - 1)
        if shared - least >= WORTH and _leads(other, shared):
            run.leader, run.shared = other, shared
            return True
    return False


def _leads(other: Run, shared: int) -> bool:
    """Whether a request has yet to read enough of the first `shared` tokens of its prompt."""
    return not other.over and min(other.prompt_length, shared) - other.evaluated >= WORTH
