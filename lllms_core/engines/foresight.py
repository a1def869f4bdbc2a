"""What engines for GGUF files report about a model before a load: its tasks, and the context chosen by `"auto"`."""

from collections.abc import Callable

from lllms_core.chat.default import default_template
from lllms_core.gguf import GGUF
from lllms_core.machine import free_memory
from lllms_core.types import Memory, Task

USUAL_CONTEXT = 32_768
"""Few requests need more tokens: with "auto", a cache has room for this many per slot, or the trained length if that is
shorter; a request that needs more takes room that others could have."""
LEAST_CONTEXT = 4096
"""The fewest tokens that "auto" chooses, however little memory is free, unless the model was trained for fewer."""
STEP = 1024
"""Lengths between those are multiples of this, so that small changes of the free memory do not matter."""
SHARE = 4
"""The context gets the free memory divided by this, if nobody has said how much memory the model may take."""
UNKNOWN = 8 * 2**30
"""Bytes assumed to be free on a system that does not report it."""


def context_memory(least: Memory, given: int | None) -> int:
    """Return the bytes that "auto" may use for what grows with the context, and with the slots.

    `least` is an estimate for the smallest context; `given` is `ModelSpec.memory`. Without that, it is a quarter of the
    free memory, and no more than the weights leave.
    """
    fixed = least.weights + least.overhead
    if given is not None:
        return max(0, given - fixed)
    free = free_memory()
    free = UNKNOWN if free is None else free
    return max(0, min(free // SHARE, free - fixed))


def largest_that_fits(most: int, fits: Callable[[int], bool], step: int = STEP) -> int:
    """Return the largest of the sizes up to `most` that fits, `most` itself or a multiple of `step`; 0 if none does.

    Every size smaller than one that fits must also fit.
    """
    if fits(most):
        return most
    fitting, failing = 0, -(-most // step)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if fits(middle * step):
            fitting = middle
        else:
            failing = middle
    return fitting * step


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
