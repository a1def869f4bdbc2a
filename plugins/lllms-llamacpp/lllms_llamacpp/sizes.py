"""The size of a context, from the options and the file: for loading and for estimates."""

from typing import Self

from attrs import evolve, frozen

from lllms_llamacpp.options import MAX_SEQUENCES, Options

EMBEDDED = 64
"""Texts embedded in one pass."""
EXACT = 2048
"""Up to this many tokens in a pass, "auto" computes the attention of embeddings in full precision, so that other texts
in the pass change a vector as little as possible; beyond that, it would take too much memory."""
SEQUENCES = 32
"""Sequences of a context, busy or kept, unless there are more slots."""


@frozen
class Sizes:
    """The sizes of a context."""

    context_length: int
    """Tokens of one request."""
    kv_size: int
    """Tokens of all sequences together."""
    slots: int
    """Requests at once."""
    sequences: int
    batch: int
    """The most tokens of one step; of a model that embeds, those of the longest text if it is longer than `shared`."""
    shared: int
    """Tokens of one step over several requests, or texts."""
    micro_batch: int
    """Tokens that pass the layers together."""

    def beside(self, tokens: int) -> Self:
        """Return these sizes with room for `tokens` more tokens, in their own sequence."""
        sequences = min(MAX_SEQUENCES, self.sequences + 1)
        return evolve(self, kv_size=self.kv_size + tokens, sequences=sequences)


def sizes(options: Options, *, can_trim: bool, embeds: bool = False) -> Sizes:
    """Return the sizes for options from `context.settle`; `can_trim`: the model's sequences can be cut."""
    context_length, slots = options.context_length, options.slots
    assert context_length != "auto" and slots != "auto"  # noqa: PT018, S101  # they are settled
    if embeds:
        # A text is read in one pass, and nothing of it is kept. Short ones share passes of at most `batch_size`:
        # llama.cpp reserves a row of logits for each token of the largest pass, although they are never read.
        sequences = min(EMBEDDED, options.batch_size)
        # llama.cpp reserves the same number of tokens for each sequence, and aborts if that exceeds the batch.
        batch = -(-max(options.batch_size, context_length) // sequences) * sequences
        return Sizes(context_length, batch, slots, sequences, batch, options.batch_size, batch)
    return Sizes(
        context_length=context_length,
        kv_size=options.kv_size or context_length * slots,
        slots=slots,
        sequences=min(MAX_SEQUENCES, max(slots, SEQUENCES)) if can_trim else slots,
        batch=options.batch_size,
        shared=options.batch_size,
        micro_batch=min(options.micro_batch_size, options.batch_size),
    )


def flash_for_vectors(options: Options, made: Sizes) -> bool:
    """Whether a model that embeds may use flash attention, which sums in half precision."""
    return options.flash_attention == "on" or (options.flash_attention == "auto" and made.batch > EXACT)

