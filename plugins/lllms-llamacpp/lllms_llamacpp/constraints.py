"""Answers that keep to a grammar: which tokens may come next, as llguidance knows, is written over the logits."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from lllms_core.engines import Matcher, Sampler
from lllms_core.errors import EngineFailed, RequestError
from lllms_core.types import Constraint
from lllms_llamacpp.grammars import explain, refusal, spell_tokens, translate
from lllms_llamacpp.sampling import Logits
from lllms_llamacpp.trial import Trial, limits
from lllms_llamacpp.vocabulary import Vocabulary

logger = logging.getLogger("lllms.llamacpp")

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHED = 64
"""Compiled grammars that a model keeps."""
Key = tuple[str, str]
"""Kind and text of a constraint."""
_NO_TEXT = b"\xff"
"""Marks the names of tokens that are no text."""


class Mask:
    """Room for which tokens are allowed, and the way from there to the logits; one for all requests of a model."""

    def __init__(self, logits: Logits, vocabulary_size: int) -> None:
        self._logits = logits
        bits = np.zeros((vocabulary_size + 31) // 32, dtype=np.uint32)
        self.address: int = bits.ctypes.data
        self.bytes: int = bits.nbytes
        self._bits: NDArray[np.uint8] = bits.view(np.uint8)
        # What is added to the logits of eight tokens, by their byte of the mask: much faster than unpacking bits.
        allowed = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._biases = np.where(allowed, np.float32(0), np.float32(-np.inf))
        self._bias = np.zeros((self._bits.size, 8), dtype=np.float32)

    def apply(self, row: int, also: int | None = None) -> None:
        """Set the logits of all other tokens, in this row of the last decode, to minus infinity."""
        logits = self._logits.row(row)
        if also is not None:
            self._bits[also // 8] |= 1 << also % 8
        # "clip": the default mode copies the output once more.
        np.take(self._biases, self._bits, axis=0, out=self._bias, mode="clip")
        logits += self._bias.reshape(-1)[: logits.size]

    def forbid(self, row: int, tokens: Sequence[int]) -> None:
        """Set the logits of these tokens to minus infinity."""
        self._logits.row(row)[tokens] = -np.inf


class TokenMatcher:
    """Keeps one answer to a grammar."""

    def __init__(self, matcher: LLMatcher, mask: Mask, ends: Sequence[int], fail: Callable[[str], Exception]) -> None:
        """Advance `matcher`, which is nobody else's; `fail` turns its complaints into errors to raise."""
        self._matcher = matcher
        self._mask = mask
        self._ends = ends
        self._fail = fail

    def sample(self, sampler: Sampler, row: int, opening: int | None = None) -> int:
        """Let `sampler` choose among the tokens that may come next, and `opening`."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.address, self._mask.bytes)
        if self._matcher.is_error():
            raise self._fail(self._matcher.get_error())
        self._mask.apply(row, opening)
        token = sampler.sample(row)
        if token == opening:
            return token
        if not self._matcher.consume_token(token) and token not in self._ends:
            raise self._fail(self._matcher.get_error())
        return token

    def sample_thought(self, sampler: Sampler, row: int) -> int:
        """Let `sampler` choose any token but those that end the answer."""
        self._mask.forbid(row, self._ends)
        return sampler.sample(row)

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        stopped: bool = self._matcher.is_stopped()
        return stopped


class Constraints:
    """Makes the matchers of one model. Grammars are compiled in a thread, and kept for the next request."""

    def __init__(self, vocabulary: Vocabulary, logits: Logits) -> None:
        self._vocabulary = vocabulary
        self._mask = Mask(logits, vocabulary.size)
        self._tokenizer: LLTokenizer | None = None
        self._limits = limits()
        self._trial = Trial()
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._ends: Sequence[int] = ()
        self._cache: OrderedDict[Key, LLMatcher] = OrderedDict()
        """Never advanced; their copies share what they learn about a grammar."""
        self._lock = Lock()

    def matcher(self, constraint: Constraint) -> Future[Matcher]:
        """Begin to make a matcher; its future raises `InvalidRequest` for a constraint that cannot be kept."""
        compiled = self._find(constraint)
        if compiled is None:
            return self._thread.submit(self._make, constraint)
        done: Future[Matcher] = Future()
        done.set_result(self._copy(compiled, constraint))
        return done

    def close(self) -> None:
        """End the process that tries grammars, and the thread."""
        self._trial.close()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _make(self, constraint: Constraint) -> Matcher:
        try:
            compiled = self._find(constraint)
            if compiled is None:
                compiled = self._compile(constraint)
                with self._lock:
                    self._cache[_key(constraint)] = compiled
                    if len(self._cache) > CACHED:
                        self._cache.popitem(last=False)
            return self._copy(compiled, constraint)
        except (RequestError, EngineFailed):
            raise
        except Exception as error:
            logger.exception("a constraint could not be prepared")
            raise EngineFailed(f"the constraint could not be prepared: {error}") from error

    def _find(self, constraint: Constraint) -> LLMatcher | None:
        key = _key(constraint)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
            return self._cache.get(key)

    def _copy(self, compiled: LLMatcher, constraint: Constraint) -> Matcher:
        def fail(reason: str) -> Exception:
            # Compiled anew for whoever comes next: what the copies have learnt may be what became too much.
            with self._lock:
                self._cache.pop(_key(constraint), None)
            return refusal(constraint, f"it could not be kept: {explain(reason)}; simplify it")

        return TokenMatcher(compiled.deep_copy(), self._mask, self._ends, fail)

    def _compile(self, constraint: Constraint) -> LLMatcher:
        grammar = translate(constraint)
        if self._tokenizer is None:
            self._tokenizer = self._read_tokens(constraint)
        try:
            lark = constraint.kind == "lark"
            fault = self._trial.run(spell_tokens(grammar, self._vocabulary.name) if lark else grammar)
        except OSError as error:
            raise EngineFailed(f"no process to try grammars in can be started: {error}") from error
        if not fault:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
            if not matcher.is_error():
                # The first mask is the slowest, and prepares the others.
                matcher.deep_copy().compute_bitmask()
            fault = matcher.get_error()
        if fault:
            raise refusal(constraint, explain(fault))
        return matcher

    def _read_tokens(self, constraint: Constraint) -> LLTokenizer:
        ends = self._ends = self._vocabulary.ends()
        if not ends:
            raise refusal(constraint, "the model has no token that ends an answer, so that none could be complete")
        tokens = [_NO_TEXT + text if named else text for text, named in self._vocabulary.grammar_tokens()]
        vocab, tokenize = self._vocabulary.pointers
        return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined, no-any-return]  # its stub lacks it
            tokens=tokens, vocab_ptr=vocab, tokenize_fptr=tokenize, eos_token=ends, slices=None,
        )


def _key(constraint: Constraint) -> Key:
    return constraint.kind, constraint.text

