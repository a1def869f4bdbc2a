"""A smaller model of the same vocabulary, which drafts what a model verifies."""

from collections.abc import Sequence
from time import perf_counter

import llama_cpp.llama_cpp as llama

from lllms_core.engines import DraftWish, Feed
from lllms_core.engines.batching.sequences import common_prefix
from lllms_llamacpp.batch import Batch
from lllms_llamacpp.model import Threads
from lllms_llamacpp.sampling import Logits


class DraftModel:
    """One more model and context; its sequences are numbered as those of the model that it drafts for."""

    def __init__(
        self, model: llama.llama_model_p, context: llama.llama_context_p, threads: Threads, *, batch_size: int,
        vocabulary: int, common: int, reach: float,
    ) -> None:
        """Own `model` and `context`. It has `vocabulary` tokens, the first `common` of which both models have.

        `reach`: see `work.reach`.
        """
        self._model = model
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._threads = threads
        self._batch_size = batch_size
        self._batch = Batch(batch_size, reach)
        self._logits = Logits(context, vocabulary)
        self._common = common
        self._held: dict[int, list[int]] = {}
        """The evaluated tokens, by sequence."""

    def allow(self, count: int) -> None:
        """Compute with at most `count` threads from now on."""
        self._threads.allow(count)

    def draft(self, wishes: Sequence[DraftWish]) -> Sequence[Sequence[int]]:
        """Return the likeliest tokens; none for a sequence of which a batch could not read the rest."""
        drafts: dict[int, list[int]] = {wish.sequence: [] for wish in wishes}
        room, feeds = self._batch_size, []
        for number, wish in enumerate(wishes):
            held = self._held.setdefault(wish.sequence, [])
            keep = min(common_prefix(held, wish.tokens), len(wish.tokens) - 1)
            if keep < len(held):
                self._trim(wish.sequence, keep)
            end = min(len(wish.tokens), keep + room - (len(wishes) - number - 1))
            room -= end - keep
            feeds.append(Feed(wish.sequence, keep, wish.tokens[keep:end], logits=end == len(wish.tokens)))
        wanted = {wish.sequence: wish.count for wish in wishes}
        while feeds and self._decode(feeds, drafts):
            feeds = [
                Feed(sequence, len(self._held[sequence]), draft[-1:], logits=True)
                for sequence, draft in drafts.items() if 0 < len(draft) < wanted[sequence]
            ]
        return [drafts[wish.sequence] for wish in wishes]

    def forget(self, sequence: int) -> None:
        """Empty a sequence."""
        if self._held.pop(sequence, None):
            llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """Free context and model, once."""
        context, self._context = self._context, None
        if context is not None:
            llama.llama_free(context)
            llama.llama_model_free(self._model)

    def _decode(self, feeds: Sequence[Feed], drafts: dict[int, list[int]]) -> bool:
        """Evaluate tokens, and add one to each draft whose logits are wanted; False if llama.cpp could not."""
        rows = self._batch.fill(feeds)
        work = self._batch.work
        threads = self._threads.choose(self._batch.tokens, work)
        llama.llama_set_n_threads(self._context, threads, threads)
        started = perf_counter()
        if llama.llama_decode(self._context, self._batch.native) != 0:
            for sequence in list(self._held):  # a draft is no duty: begin anew
                self.forget(sequence)
            for draft in drafts.values():
                draft.clear()
            return False
        llama.llama_synchronize(self._context)
        self._threads.observe(work, threads, perf_counter() - started)
        for feed in feeds:
            self._held[feed.sequence] += feed.tokens
        for feed, row in zip([feed for feed in feeds if feed.logits], rows, strict=True):
            drafts[feed.sequence].append(int(self._logits.row(row)[: self._common].argmax()))
        return True

    def _trim(self, sequence: int, length: int) -> None:
        # With a sliding window, an earlier place may be lost.
        if length and not llama.llama_memory_seq_rm(self._memory, sequence, length, -1):
            length = 0
        if not length:
            llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        del self._held[sequence][length:]
