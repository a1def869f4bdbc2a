"""The context and the slots that "auto" means, from a model's header and the memory that it may take."""

from collections.abc import Callable, Iterator, Sequence

from attrs import evolve

from lllms_core.engines.foresight import LEAST_CONTEXT, STEP, USUAL_CONTEXT, context_memory, largest_that_fits
from lllms_core.gguf import GGUF
from lllms_core.types import Memory
from lllms_llamacpp.memory import estimate
from lllms_llamacpp.options import Options
from lllms_llamacpp.pooling import pooling

AT_ONCE = 2
"""The number of full-length requests that can run at once if memory has no room for a full-length cache per slot."""
MOST_SLOTS = 8
"""The most slots that "auto" chooses, as many requests as a server runs at once by default."""


def settle(parts: Sequence[GGUF], options: Options, given: int | None = None) -> Options:
    """Return the options with numbers for "auto"; the same for the same files, options and memory.

    `given` are the bytes that the model may take (`ModelSpec.memory`); None: as the free memory allows.

    An automatic `context_length` is the length that the model was trained for, if the memory has room for it. There is
    a KV cache of `USUAL_CONTEXT` tokens for each slot, or of the trained length if that is shorter, and of the trained
    length for `AT_ONCE` requests. If that does not fit, the slots share a cache that fits, and one request may hold
    half of it. With a `kv_size`, only that limits the context. Automatic `slots` are as many as fit with the context,
    from 1 to `MOST_SLOTS`; if both are automatic, each has room for `LEAST_CONTEXT` tokens.
    """
    if options.context_length != "auto" and options.slots != "auto":
        return options
    trained = parts[0].hyperparameter("context_length") or 0
    known = trained if trained > 0 else LEAST_CONTEXT
    most_slots = min(MOST_SLOTS, options.batch_size)
    if options.kv_size is not None:
        length = min(known, options.kv_size) if options.context_length == "auto" else options.context_length
        fitting = max(1, min(most_slots, options.kv_size // min(length, LEAST_CONTEXT)))
        return evolve(options, context_length=length, slots=fitting if options.slots == "auto" else options.slots)
    least = evolve(options, context_length=min(known, LEAST_CONTEXT), slots=1)
    room = context_memory(estimate(parts, least), given)

    def fits(options: Options) -> bool:
        return _cost(parts, options) <= room

    if pooling(parts[0], options) is not None:
        options = evolve(options, slots=most_slots) if options.slots == "auto" else options
        return _embedding(options, known, fits)
    if options.context_length != "auto":
        return evolve(options, slots=max(1, largest_that_fits(
            most_slots, lambda slots: fits(evolve(options, slots=slots)), 1,
        )))
    return _writing(options, known, most_slots, fits)


def _embedding(options: Options, known: int, fits: Callable[[Options], bool]) -> Options:
    if options.context_length != "auto":
        return options
    length = largest_that_fits(known, lambda length: fits(evolve(options, context_length=length)))
    return evolve(options, context_length=max(min(known, LEAST_CONTEXT), length))


def _writing(options: Options, known: int, most_slots: int, fits: Callable[[Options], bool]) -> Options:
    chosen = options.slots == "auto"
    slots = most_slots if options.slots == "auto" else options.slots
    options = evolve(options, slots=slots)
    most = max(min(slots, AT_ONCE) * known, slots * min(known, USUAL_CONTEXT))
    cells = largest_that_fits(most, lambda cells: fits(evolve(
        options, context_length=min(known, cells), kv_size=cells,
    )))
    if cells == most:
        return evolve(options, context_length=known, kv_size=None if cells == slots * known else cells)
    least = min(known, LEAST_CONTEXT)
    if chosen:
        slots = max(1, min(slots, cells // least))
    length = min(known, max(least, cells // min(slots, AT_ONCE) // STEP * STEP))
    return evolve(options, slots=slots, context_length=length, kv_size=max(length, cells))


def halved(options: Options) -> Options | None:
    """Return settled options with half the context; None if that is too little to try."""
    assert options.context_length != "auto"  # noqa: S101  # the options are settled
    length = options.context_length // 2
    if length < LEAST_CONTEXT:
        return None
    return evolve(options, context_length=length, kv_size=None if options.kv_size is None else options.kv_size // 2)


def smaller(
    parts: Sequence[GGUF], options: Options, given: int | None, fits: Callable[[Memory], bool],
    measure: Callable[[Options], Memory],
) -> Iterator[str]:
    """Yield changes of options, in words, each of which makes a model that `fits`: the largest of its kind.

    `measure` returns the memory for settled options.
    """
    settled = settle(parts, options, given)
    slots, length = settled.slots, settled.context_length
    assert slots != "auto" and length != "auto"  # noqa: PT018, S101  # they are settled

    def fit(options: Options) -> bool:
        return fits(measure(settle(parts, options, given)))

    def shorter(length: int) -> Options:
        kv_size = None if options.kv_size is None else min(options.kv_size, length * slots)
        return evolve(options, context_length=length, kv_size=kv_size)

    if found := largest_that_fits(length, lambda length: fit(shorter(max(1, length)))):
        kv_size = shorter(found).kv_size
        yield f"options.context_length = {found}{'' if kv_size == options.kv_size else f' and kv_size = {kv_size}'}"
    if options.slots != "auto" and (fewer := largest_that_fits(
        slots, lambda slots: fit(evolve(options, slots=max(1, slots))), 1,
    )):
        yield f"options.slots = {fewer}"
    if options.gpu_layers != "auto" and measure(settled).device:
        layers = (parts[0].hyperparameter("block_count") or 0) + 1
        most = layers if options.gpu_layers < 0 else min(layers, options.gpu_layers)
        if found := largest_that_fits(most, lambda count: fit(evolve(options, gpu_layers=count)), 1):
            yield f"options.gpu_layers = {found}"
        elif fit(evolve(options, gpu_layers=0)):
            yield "options.gpu_layers = 0"


def _cost(parts: Sequence[GGUF], options: Options) -> int:
    memory = estimate(parts, options)
    return memory.kv + memory.compute
