"""A llama.cpp model that answers several requests at once."""

import ctypes
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from math import isnan
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import llama_cpp.llama_cpp as llama
import numpy as np
from attrs import field, frozen

from lllms_core.chat import ChatTemplate, Segment
from lllms_core.engines import (
    BatchingModel,
    Constrains,
    Detokenizes,
    Exports,
    Feed,
    Infills,
    Interrupted,
    KVCacheFull,
    Matcher,
    Sampler,
    Scores,
    Speculation,
    Tokenizes,
)
from lllms_core.engines.base import Opening, Opens
from lllms_core.engines.session_link import State
from lllms_core.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from lllms_core.queries import Tokens
from lllms_core.types import ChatRequest, Constraint, Request, Sampling, Task, TextRequest, TokenScore
from lllms_llamacpp.batch import Batch
from lllms_llamacpp.flag import NativeFlag
from lllms_llamacpp.gaps import gap_prompt
from lllms_llamacpp.sampling import (
    NO_NUMBERS,
    ChainSampler,
    GreedySampler,
    Logits,
    is_greedy,
    log_probabilities,
    seeded,
)
from lllms_llamacpp.schemas import relax
from lllms_llamacpp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lllms_llamacpp.constraints import Constraints
    from lllms_llamacpp.draft_model import DraftModel

_ABORTABLE = 32
"""A cancel aborts a decode of at least this many tokens; a shorter one ends before an abort would pay."""
_NO_SLOT, _ABORTED = 1, 2


class Threads(Protocol):
    """Chooses the number of threads of each decode."""

    def allow(self, count: int) -> None:
        """Use at most `count` threads from now on."""

    def choose(self, tokens: int, work: float | None = None) -> int:
        """Return the number of threads for a decode of `tokens` tokens.

        `work` is what it costs, in tokens at the beginning of a context; None: as many as it has.
        """

    def observe(self, work: float, threads: int, seconds: float) -> None:
        """Learn how long a decode took."""


class FixedThreads:
    """Always the configured count, up to the allowance."""

    def __init__(self, count: int, allowance: int) -> None:
        self._count = count
        self._allowance = allowance

    def allow(self, count: int) -> None:
        """Use at most `count` threads from now on."""
        self._allowance = count

    def choose(self, tokens: int, work: float | None = None) -> int:  # noqa: ARG002  # as all `Threads`
        """Return the configured count, or the allowance if that is lower."""
        return max(1, min(self._count, self._allowance))

    def observe(self, work: float, threads: int, seconds: float) -> None:
        """Do nothing: a fixed count learns nothing."""


@frozen
class Loaded:
    """The results of a load."""

    model: llama.llama_model_p
    context: llama.llama_context_p
    vocabulary: Vocabulary
    template: ChatTemplate | None
    threads: Threads
    context_length: int
    kv_size: int
    kept_tokens: int | None
    slots: int
    sequences: int
    batch_size: int
    can_trim: bool
    can_trim_imported: bool
    state_key: str
    seed: int | None
    reach: float
    """See `work.reach`."""
    speculates: bool = True
    drafter: "DraftModel | None" = None
    details: Mapping[str, str | int | float] = field(factory=dict)


def _pointer(buffer: "NDArray[np.uint8]") -> object:
    return buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class LlamaCppModel(BatchingModel, Scores, Constrains, Infills, Exports, Tokenizes, Detokenizes):
    """The token-level methods over one llama.cpp context with a unified KV cache."""

    way_out: Mapping[Task, str] = {
        "embed": "configure a second model of the same file with options.embeddings = true",
        "rerank": "use a model that was trained to rank",
        "render": "set options.chat_template",
    }

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(
            slots=loaded.slots, context_length=loaded.context_length, kv_size=loaded.kv_size,
            sequences=loaded.sequences, kept_tokens=loaded.kept_tokens, batch_size=loaded.batch_size,
            # As `n_outputs_max` of the context.
            logit_rows=loaded.sequences, template=loaded.template, can_trim=loaded.can_trim,
            can_trim_imported=loaded.can_trim_imported,
            speculation=Speculation(loaded.drafter) if loaded.speculates else None,
        )
        self.tasks |= {"tokenize", "detokenize"}
        self._loaded = loaded
        self._context = loaded.context
        self._memory = llama.llama_get_memory(loaded.context)
        self._vocabulary = loaded.vocabulary
        self._logits = Logits(loaded.context, loaded.vocabulary.size, loaded.vocabulary.suppressed())
        self._threads = loaded.threads
        self._can_trim = loaded.can_trim
        self._window = llama.llama_model_n_swa(loaded.model)
        self.state_key = loaded.state_key
        self._batch = Batch(loaded.batch_size, loaded.reach)
        self._constraints: Constraints | None = None
        self._threads_set = 0
        self._abortable = False
        self._flag = self.interrupt = NativeFlag()
        self._flag.watch(self._context, abortable=False)

    def details(self) -> Mapping[str, str | int | float]:
        """Return the description of the file."""
        return self._loaded.details

    def use_threads(self, count: int) -> None:
        """Compute with at most `count` threads from the next decode on."""
        self._threads.allow(count)
        if self._loaded.drafter is not None:
            self._loaded.drafter.allow(count)

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Return the tokens of a prompt, with BOS once if the vocabulary wants it."""
        return self._vocabulary.tokenize(segments, most=self.enough_tokens)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; none for control tokens."""
        return self._vocabulary.piece(token)

    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:
        """Return the tokens of a text; with `add_special` as in the prompt of a completion."""
        segment = Segment(text, parse_special=True)
        vocabulary, most = self._vocabulary, self.most_tokens
        if add_special:
            ids = vocabulary.tokenize([segment], most=most)
        else:
            ids = vocabulary.text_tokens(text, parse_special=True, most=most)
        return Tokens(tuple(ids), tuple(map(vocabulary.shown, ids)))

    def to_text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with the names of control tokens."""
        self._vocabulary.check(tokens, "tokens")
        return self._vocabulary.text(tokens)

    @property
    def longest_token(self) -> int | None:
        """The most bytes of text that one token represents, if the vocabulary knows."""
        return self._vocabulary.longest

    def control_token(self, text: str) -> int | None:
        """Return the token that a mark of the template consists of, if it is a single one."""
        tokens = self._vocabulary.text_tokens(text, parse_special=True)
        return tokens[0] if len(tokens) == 1 else None

    def control_text(self, token: int) -> str:
        """Return the name of a control token; "" for any other."""
        return self._vocabulary.control_text(token)

    def grammar_names(self) -> Mapping[str, int]:
        """Return the tokens that are not text to grammars."""
        return self._vocabulary.grammar_names

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        return self._vocabulary.is_end(token)

    def prepare(self, request: Opens) -> Opening:
        """Check what only the vocabulary knows, then prepare the request as usual."""
        if isinstance(request, Request):
            self._check(request)
        return super().prepare(request)

    def _check(self, request: Request) -> None:
        for token in request.sampling.logit_bias:
            if token >= self._vocabulary.size:
                text = f"model '{request.model}' has no token {token}, only 0 to {self._vocabulary.size - 1}"
                raise InvalidRequest(text, f"logit_bias.{token}", "invalid_key")
        if isinstance(request, ChatRequest) or isinstance(request.prompt, str):
            return
        most, last = max(request.prompt, default=0), self._vocabulary.size - 1
        if most > last:
            text = f"model '{request.model}' has no token {most}, only 0 to {last}"
            raise InvalidRequest(text, "prompt", "invalid_value")

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:
        """Return a new sampler."""
        if is_greedy(sampling):
            return GreedySampler(self._logits)
        return ChainSampler(
            self._context, self._logits, seeded(sampling, self._loaded.seed), prompt, vocabulary=self._vocabulary,
            context_length=self.context_length,
        )

    def relax(self, schema: str) -> tuple[str, Sequence[str]]:
        """Return the part of a schema that llguidance can enforce, and pointers to the rest."""
        return relax(schema)

    def matcher(self, constraint: Constraint) -> Future[Matcher]:
        """Return the future of a matcher by llguidance."""
        if self._constraints is None:
            # Not earlier: most models never need it.
            from lllms_llamacpp.constraints import Constraints

            self._constraints = Constraints(self._vocabulary, self._logits)
        return self._constraints.matcher(constraint)

    def score(self, row: int, token: int, top: int) -> TokenScore:
        """Return the log probability of a token, and the likeliest tokens."""
        logprob, likeliest = log_probabilities(self._logits.row(row), token, top)
        if isnan(logprob):
            raise EngineFailed(NO_NUMBERS)
        # The names of control tokens distinguish them, even where the answer would not show them.
        shown = self._vocabulary.shown
        return TokenScore(self.piece(token), logprob, tuple((shown(one), value) for one, value in likeliest))

    def infill(self, request: TextRequest) -> list[int]:
        """Return the prompt and the suffix between the vocabulary's tokens for filling in the middle."""
        return gap_prompt(self._vocabulary, request, self.context_length)

    def decode(self, feeds: Sequence[Feed]) -> Sequence[int]:
        """Evaluate all feeds in one `llama_decode`."""
        rows = self._batch.fill(feeds)
        tokens, work = self._batch.tokens, self._batch.work
        threads = self._threads.choose(tokens, work)
        if threads != self._threads_set:
            llama.llama_set_n_threads(self._context, threads, threads)
            self._threads_set = threads
        abortable = tokens >= _ABORTABLE and self._can_trim
        if abortable != self._abortable:
            self._flag.watch(self._context, abortable=abortable)
            self._abortable = abortable
        self._flag.refill()
        started = perf_counter()
        code = llama.llama_decode(self._context, self._batch.native)
        if code == 0:
            # A GPU still works after the call returns.
            llama.llama_synchronize(self._context)
            self._threads.observe(work, threads, perf_counter() - started)
            return rows
        if code == _NO_SLOT:
            raise KVCacheFull
        if code == _ABORTED:
            raise Interrupted
        raise RuntimeError(f"llama_decode failed with code {code} on {tokens} tokens")

    def trim(self, sequence: int, length: int) -> bool:
        """Keep the first `length` tokens; recurrent and hybrid models can only drop all of them."""
        if length and not self._can_trim:
            return False
        return bool(llama.llama_memory_seq_rm(self._memory, sequence, length or -1, -1))

    def copy(self, source: int, target: int, length: int) -> None:
        """Share the cells of the first `length` tokens."""
        llama.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def earliest_cut(self, sequence: int) -> int:
        """Return where the window is still complete: llama.cpp may reuse cells outside it, even of a full cache."""
        if not self._window:
            return 0
        first = int(llama.llama_memory_seq_pos_min(self._memory, sequence))
        return first + self._window if first > 0 else 0

    def state_size(self, sequence: int) -> int:
        """Return the bytes of a sequence's keys and values, or of its recurrent state."""
        return int(llama.llama_state_seq_get_size(self._context, sequence))

    def export_state(self, sequence: int) -> memoryview:
        """Return a copy of a sequence's state, including shared cells."""
        size = self.state_size(sequence)
        buffer = np.empty(size, np.uint8)  # which nobody fills with zeros first
        written = llama.llama_state_seq_get_data(self._context, _pointer(buffer), size, sequence)
        return buffer.data[:written]

    def import_state(self, sequence: int, state: State) -> bool:
        """Fill an empty sequence; return False if llama.cpp refuses the state: it does not fit, or there is no room."""
        buffer = np.frombuffer(state, np.uint8)  # no copy
        if llama.llama_state_seq_set_data(self._context, _pointer(buffer), len(buffer), sequence):
            return True
        self.trim(sequence, 0)
        return False

    def warm_up(self) -> None:
        """Touch all weights, so that no request pays for reading them. Raises `ModelLoadFailed` if the decode fails."""
        # Not by `decode`: the duration of the first one says nothing about later ones.
        self._batch.fill([Feed(0, 0, [0], logits=True)])
        llama.llama_set_warmup(self._context, True)  # noqa: FBT003  # C
        code = llama.llama_decode(self._context, self._batch.native)
        llama.llama_synchronize(self._context)
        llama.llama_set_warmup(self._context, False)  # noqa: FBT003
        llama.llama_memory_clear(self._memory, True)  # noqa: FBT003
        if code != 0:
            raise ModelLoadFailed(f"the model is loaded, but its first decode failed with code {code}")

    def close(self) -> None:
        """Free samplers, context and model, once."""
        super().close()
        constraints, self._constraints = self._constraints, None
        if constraints is not None:
            constraints.close()
        if self._loaded.drafter is not None:
            self._loaded.drafter.close()
        context, self._context = self._context, None
        if context is not None:
            llama.llama_free(context)
            llama.llama_model_free(self._loaded.model)
