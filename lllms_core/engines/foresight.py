"""What engines for GGUF files report about a model before a load: its tasks, and the context chosen by `"auto"`."""

from collections.abc import Callable

from lllms_core.chat.default import default_template
from lllms_core.gguf import GGUF
from lllms_core.machine import free_memory
from lllms_core.types import Task

MOST_CONTEXT = 32_768
"""The most tokens that "auto" chooses, whatever the trained length: few requests need more."""
LEAST_CONTEXT = 4096
"""The fewest tokens that "auto" chooses, however little memory is free, unless the model was trained for fewer."""
STEP = 1024
"""Lengths between those are multiples of this, so that small changes of the free memory do not matter."""
SHARE = 4
"""The context gets the free memory divided by this."""
UNKNOWN = 8 * 2**30
"""Bytes assumed to be free on a system that does not report it."""


def context_memory(weights: int) -> int:
    """Return the bytes that "auto" may use for what grows with the context, beside `weights` bytes of weights.

    Until there is a memory budget, that is a quarter of the free memory, and no more than the weights leave.
    """
    free = free_memory()
    free = UNKNOWN if free is None else free
    return max(0, min(free // SHARE, free - weights))


def largest_that_fits(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest of the lengths up to `most` that fits, `most` itself or a multiple of `STEP`; 0 if none does.

    Every length shorter than one that fits must also fit.
    """
    if fits(most):
        return most
    fitting, failing = 0, -(-most // STEP)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if fits(middle * STEP):
            fitting = middle
        else:
            failing = middle
    return fitting * STEP


def text_tasks(gguf: GGUF, *, templated: bool) -> frozenset[Task]:
    """Return the tasks of a model that generates text, and whose engine exposes tokens.

    It chats if it has a template, its own or, if `templated`, one of the options.
    """
    tasks: set[Task] = {"text", "tokenize", "detokenize"}
    if templated or gguf.metadata.text("tokenizer.chat_template") or _has_default(gguf):
        tasks |= {"chat", "render"}
    return frozenset(tasks)


def _has_default(gguf: GGUF) -> bool:
    tokens = gguf.metadata.get("tokenizer.ggml.tokens", [])
    return isinstance(tokens, list) and default_template([str(token) for token in tokens]) is not None


def written(tasks: frozenset[Task]) -> str:
    """Return tasks as `Engine.inspect` reports them."""
    return ", ".join(sorted(tasks))
