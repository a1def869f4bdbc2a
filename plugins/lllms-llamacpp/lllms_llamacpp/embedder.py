"""A llama.cpp model for embeddings: it turns several texts per pass into vectors or scores."""

import re
from collections.abc import Mapping, Sequence
from math import exp, isfinite
from time import perf_counter
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as llama
from attrs import field, frozen

from lllms_core.engines import EmbeddingModel
from lllms_core.errors import ModelLoadFailed
from lllms_core.queries import Text, Tokens
from lllms_core.types import Task
from lllms_llamacpp.batch import Batch
from lllms_llamacpp.flag import NativeFlag
from lllms_llamacpp.sizes import Sizes
from lllms_llamacpp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from lllms_llamacpp.model import Threads

_PLACES = re.compile(r"(\{query\}|\{document\})")


@frozen
class LoadedEmbedder:
    """The results of a load."""

    model: llama.llama_model_p
    context: llama.llama_context_p
    vocabulary: Vocabulary
    threads: "Threads"
    sizes: Sizes
    slots: int
    ranks: bool
    rank_template: str | None
    """The model's own template for a pair, with `{query}` and `{document}`, if it has one."""
    truncate: bool
    matryoshka: bool
    token_inputs: bool
    details: Mapping[str, str | int | float] = field(factory=dict)


class LlamaCppEmbedder(EmbeddingModel):
    """Encodes texts with one llama.cpp context, and keeps nothing of them."""

    way_out: Mapping[Task, str] = {
        "embed": "it ranks: use /v1/rerank",
        "rerank": "use a model that was trained to rank, whose file says pooling_type = 4",
        "render": "it does not chat",
    }

    def __init__(self, loaded: LoadedEmbedder) -> None:
        outputs = llama.llama_model_n_cls_out if loaded.ranks else llama.llama_model_n_embd_out
        size: int = outputs(loaded.model)
        super().__init__(
            slots=loaded.slots, context_length=loaded.sizes.context_length, batch_size=loaded.sizes.shared,
            sequences=loaded.sizes.sequences, dimensions=size, can_shorten=loaded.matryoshka,
            truncate=loaded.truncate, ranks=loaded.ranks, token_inputs=loaded.token_inputs,
        )
        self.tasks |= {"tokenize", "detokenize"}
        self._loaded = loaded
        self._size = size
        self._context = loaded.context
        self._memory = llama.llama_get_memory(loaded.context)
        self._vocabulary = loaded.vocabulary
        self._control = loaded.vocabulary.control_tokens() if loaded.rank_template else []
        self._native = Batch(loaded.sizes.batch)
        self._threads_set = 0
        self._flag = self.interrupt = NativeFlag()
        self._flag.watch(self._context, abortable=False)

    def details(self) -> Mapping[str, str | int | float]:
        """Return the description of the file."""
        return self._loaded.details

    def use_threads(self, count: int) -> None:
        """Compute with at most `count` threads from the next pass on."""
        self._loaded.threads.allow(count)

    def tokenize(self, text: Text, room: int | None) -> list[int]:
        """Return a text's tokens, framed as the vocabulary wants unless they already are; control tokens stay text."""
        before, after = self._vocabulary.frame
        if isinstance(text, str):
            own = self._vocabulary.text_tokens(text, parse_special=False, most=self.enough_tokens)
        else:
            self._vocabulary.check(text, "input")
            own = list(text)
            if own[: len(before)] == before:
                own = own[len(before) :]
            if after and own[-len(after) :] == after:
                own = own[: -len(after)]
        if room is not None:
            own = own[: max(0, room - len(before) - len(after))]
        return [*before, *own, *after]

    def pair(self, query: str, document: str, room: int | None) -> list[int]:
        """Return the tokens of the query and then the document, joined as the model's template or vocabulary does."""
        tokens = self._pair(query, document)
        kept = self._vocabulary.text_tokens(document, parse_special=False, most=self.enough_tokens)
        if room is not None and len(kept) > room:
            # Both may have been read only until they were certainly too long.
            del kept[room:]
            tokens = self._pair(query, self._vocabulary.text(kept))
        while room is not None and len(tokens) > room and kept:
            # The text of fewer tokens may have more when read again, so one cut may not be enough.
            del kept[-(len(tokens) - room) :]
            tokens = self._pair(query, self._vocabulary.text(kept))
        return tokens

    def _pair(self, query: str, document: str) -> list[int]:
        before, after = self._vocabulary.frame
        template = self._loaded.rank_template
        if template is None:
            second = self.tokenize(document, None)[len(before) :]
            return [*self.tokenize(query, None), *self._vocabulary.separator, *second]
        texts = {"{query}": query, "{document}": document}
        pieces = [(texts.get(piece, piece), piece not in texts) for piece in _PLACES.split(template)]
        if any(token in text for text in texts.values() for token in self._control):
            own = [
                token for text, ours in pieces
                for token in self._vocabulary.text_tokens(text, parse_special=ours, most=self.enough_tokens)
            ]
        else:
            # In one piece, because the tokens of a text depend on the text before it.
            whole = "".join(text for text, _ in pieces)
            own = self._vocabulary.text_tokens(whole, parse_special=True, most=self.enough_tokens)
        return [*before, *own, *after]

    def encode(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Run one pass; each input is a sequence of its own and sees no other."""
        tokens = self._native.fill_inputs(inputs)
        threads = self._loaded.threads.choose(tokens)
        if threads != self._threads_set:
            llama.llama_set_n_threads(self._context, threads, threads)
            self._threads_set = threads
        self._flag.refill()
        started = perf_counter()
        code = llama.llama_decode(self._context, self._native.native)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with code {code} on {tokens} tokens of {len(inputs)} inputs")
        llama.llama_synchronize(self._context)
        self._loaded.threads.observe(tokens, threads, perf_counter() - started)
        vectors = [llama.llama_get_embeddings_seq(self._context, i)[: self._size] for i in range(len(inputs))]
        if self._memory:
            llama.llama_memory_clear(self._memory, False)  # noqa: FBT003  # C; the cells' contents may stay
        return [[self._score(vector)] for vector in vectors] if self._loaded.ranks else vectors

    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:
        """Return the tokens of a text as the model reads it."""
        before, after = self._vocabulary.frame if add_special else ([], [])
        ids = [*before, *self._vocabulary.text_tokens(text, parse_special=True, most=self.most_tokens), *after]
        return Tokens(tuple(ids), tuple(map(self._vocabulary.shown, ids)))

    def to_text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, as far as the vocabulary preserves it."""
        self._vocabulary.check(tokens, "tokens")
        return self._vocabulary.text(tokens)

    def warm_up(self) -> None:
        """Touch all weights. Raises `ModelLoadFailed` if the first pass fails."""
        try:
            self.encode([[0]])
        except RuntimeError as error:
            raise ModelLoadFailed(f"the model is loaded, but its first pass failed: {error}") from error

    def close(self) -> None:
        """Free context and model, once."""
        context, self._context = self._context, None
        if context is not None:
            llama.llama_free(context)
            llama.llama_model_free(self._loaded.model)

    def _score(self, outputs: Sequence[float]) -> float:
        # One output is a logit; models with two (yes and no) have turned them into probabilities. A value that is not
        # finite is refused later, and would become a plausible score here.
        if len(outputs) > 1 or not isfinite(outputs[0]):
            return outputs[0]
        return 1 / (1 + exp(-outputs[0])) if outputs[0] > -700 else 0.0
