"""What engines of GGUF files tell about a model before it is loaded: its tasks, and the context that `"auto"` takes."""

from collections.abc import Callable

from lllms_core.chat.default import default_template
from lllms_core.gguf import GGUF
from lllms_core.machine import free_memory
from lllms_core.types import Task

MOST_CONTEXT = 32_768
"""Tokens that "auto" takes at most, however many a model was trained for: few requests need more."""
LEAST_CONTEXT = 4096
"""Tokens that "auto" takes at least, unless the model was trained for fewer, however little memory is free."""
STEP = 1024
"""Lengths between those are multiples of this: small changes of the free memory do not change them."""
SHARE = 4
"""A fraction of the free memory: one part in this many is for the context."""
UNKNOWN = 8 * 2**30
"""Bytes taken for free on a system that does not tell."""


def context_memory(weights: int) -> int:
    """Return the bytes that "auto" may take for what grows with the context, beside `weights` bytes of weights.

    Until there is a memory budget, that is a quarter of the free memory, and no more than the weights leave.
    """
    free = free_memory()
    free = UNKNOWN if free is None else free
    return max(0, min(free // SHARE, free - weights))


def largest_that_fits(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest of the lengths up to `most` that fits, `most` itself or a multiple of `STEP`; 0 if none does.

    Whatever is shorter than a length that fits must fit, too.
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
    """Return the tasks of a model that generates text, and whose engine tells tokens.

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
    """Return tasks as `Engine.inspect` tells them."""
    return ", ".join(sorted(tasks))
