"""The context chosen by `context_length = "auto"`, from a model's header and the free memory."""

from collections.abc import Sequence

from attrs import evolve

from lllms_core.engines.foresight import LEAST_CONTEXT, MOST_CONTEXT, STEP, context_memory, largest_that_fits
from lllms_core.gguf import GGUF
from lllms_llamacpp.memory import estimate
from lllms_llamacpp.options import Options
from lllms_llamacpp.pooling import pooling

AT_ONCE = 2
"""The number of full-length requests that can run at once if memory has no room for a full-length cache per slot."""


def settle(parts: Sequence[GGUF], options: Options) -> Options:
    """Return the options with a number as `context_length`; the same for the same files, options and free memory.

    "auto" is the length that the model was trained for, at most `MOST_CONTEXT`, if the buffers and a KV cache for that
    many tokens in each slot fit into `context_memory`. Otherwise the slots share a cache that fits, and one request may
    hold half of it. With a `kv_size`, only that limits the context.
    """
    if options.context_length != "auto":
        return options
    trained = parts[0].hyperparameter("context_length") or 0
    most = min(trained, MOST_CONTEXT) if trained > 0 else LEAST_CONTEXT
    if options.kv_size is not None:
        return evolve(options, context_length=min(most, options.kv_size))
    least = min(most, LEAST_CONTEXT)
    room = context_memory(estimate(parts, evolve(options, context_length=least)).weights)
    if pooling(parts[0], options) is not None:
        return evolve(options, context_length=max(least, largest_that_fits(
            most, lambda length: _cost(parts, evolve(options, context_length=length)) <= room,
        )))
    cells = largest_that_fits(most * options.slots, lambda cells: _cost(
        parts, evolve(options, context_length=min(most, cells), kv_size=cells),
    ) <= room)
    if cells == most * options.slots:
        return evolve(options, context_length=most)
    length = min(most, max(least, cells // min(options.slots, AT_ONCE) // STEP * STEP))
    return evolve(options, context_length=length, kv_size=max(length, cells))


def halved(options: Options) -> Options | None:
    """Return settled options with half the context; None if that is too little to try."""
    assert options.context_length != "auto"  # noqa: S101  # the options are settled
    length = options.context_length // 2
    if length < LEAST_CONTEXT:
        return None
    return evolve(options, context_length=length, kv_size=None if options.kv_size is None else options.kv_size // 2)


def _cost(parts: Sequence[GGUF], options: Options) -> int:
    memory = estimate(parts, options)
    return memory.kv + memory.compute
