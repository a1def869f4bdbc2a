"""Answers constrained by a grammar: llguidance computes the allowed tokens, and the logits of all others are masked."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from attrs import define, field
from llguidance import LLMatcher, LLTokenizer

from lllms_core.engines import Matcher, Sampler
from lllms_core.errors import EngineFailed, RequestError
from lllms_core.types import Constraint
from lllms_llamacpp.grammars import check_length, explain, named_tokens, refusal, refused
from lllms_llamacpp.lanes import PATIENCE, QUICK_PATIENCE, QUICK_SECONDS, SECONDS, Lane
from lllms_llamacpp.sampling import Logits
from lllms_llamacpp.trial import NICENESS, Stopped, TooExpensive, Trial, limits
from lllms_llamacpp.vocabulary import Vocabulary

logger = logging.getLogger("lllms.llamacpp")

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHED = 64
"""The number of compiled grammars that a model keeps."""
Key = tuple[str, str]
"""Kind and text of a constraint."""
T = TypeVar("T")
_NO_TEXT = b"\xff"
"""Marks the names of tokens that are not text."""


class Mask:
    """A bit mask of the allowed tokens, and its application to the logits; one for all requests of a model."""

    def __init__(self, logits: Logits, vocabulary_size: int) -> None:
        self._logits = logits
        bits = np.zeros((vocabulary_size + 31) // 32, dtype=np.uint32)
        self.address: int = bits.ctypes.data
        self.bytes: int = bits.nbytes
        self._bits: NDArray[np.uint8] = bits.view(np.uint8)
        # The biases of eight tokens by their byte of the mask: a lookup is much faster than unpacking bits.
        allowed = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._biases = np.where(allowed, np.float32(0), np.float32(-np.inf))
        self._bias = np.zeros((self._bits.size, 8), dtype=np.float32)

    def apply(self, row: int, also: int | None = None) -> None:
        """Set the logits of all tokens but the allowed ones, and `also`, in this row to minus infinity."""
        logits = self._logits.row(row)
        if also is not None:
            self._bits[also // 8] |= 1 << also % 8
        # "clip", because the default mode makes one more copy of the output.
        np.take(self._biases, self._bits, axis=0, out=self._bias, mode="clip")
        logits += self._bias.reshape(-1)[: logits.size]

    @property
    def single(self) -> bool:
        """Whether only one token is allowed."""
        return int(np.count_nonzero(self._bits)) == 1 and int(self._bits.max()).bit_count() == 1

    def level(self, row: int) -> None:
        """Overwrite the logits in this row: all tokens are equally likely."""
        self._logits.row(row)[:] = 0

    def forbid(self, row: int, tokens: Sequence[int]) -> None:
        """Set the logits of these tokens to minus infinity."""
        self._logits.row(row)[tokens] = -np.inf


class TokenMatcher:
    """Constrains one answer to a grammar."""

    def __init__(
        self, matcher: LLMatcher, tokenizer: LLTokenizer, mask: Mask, ends: Sequence[int],
        fail: Callable[[str], Exception],
    ) -> None:
        """Take over `matcher`, which no other object may use; `fail` turns its complaints into errors to raise."""
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._mask = mask
        self._ends = ends
        self._fail = fail

    def sample(self, sampler: Sampler, row: int, opening: int | None = None) -> int:
        """Let `sampler` choose among the allowed tokens and `opening`."""
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

    def sample_forced(self, sampler: Sampler, row: int) -> int | None:
        """Let `sampler` choose the only token that is allowed, from logits that no longer matter; None if several are.

        The sampler is asked all the same, so that penalties and random numbers are those of an answer without this.
        """
        if self._matcher.is_stopped() or not self._matcher.compute_ff_tokens():
            return None
        self._matcher.unsafe_compute_mask_ptr(self._mask.address, self._mask.bytes)
        if self._matcher.is_error() or not self._mask.single:
            return None  # an error is reported once the next token is chosen
        self._mask.level(row)
        return self.sample(sampler, row)

    def sample_thought(self, sampler: Sampler, row: int) -> int:
        """Let `sampler` choose any token except those that end the answer."""
        self._mask.forbid(row, self._ends)
        return sampler.sample(row)

    def sample_except(self, sampler: Sampler, row: int, tokens: Sequence[int]) -> int:
        """Let `sampler` choose any token except these."""
        self._mask.forbid(row, tokens)
        return sampler.sample(row)

    def begin(self, written: bytes) -> bool:
        """Restart after a text; return False if the grammar does not allow that text."""
        self._matcher.reset()
        if not written:
            return True
        tokens = self._tokenizer.tokenize_bytes(written)
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return False
        taken: bool = self._matcher.consume_tokens(tokens)
        return taken

    @property
    def complete(self) -> bool:
        """Whether no token may follow."""
        stopped: bool = self._matcher.is_stopped()
        return stopped


@define(eq=False)
class _Job:
    """One grammar that is being compiled, for all requests that wait for it."""

    constraint: Constraint
    waiting: list[Future[Matcher]] = field(factory=list)
    trial: Trial | None = None
    """The trial to stop when no request waits any more."""

    @property
    def abandoned(self) -> bool:
        return all(future.cancelled() for future in self.waiting)


class Constraints:
    """Creates the matchers of one model. Grammars are compiled in threads, and kept for later requests."""

    def __init__(self, vocabulary: Vocabulary, logits: Logits) -> None:
        self._vocabulary = vocabulary
        self._mask = Mask(logits, vocabulary.size)
        self._limits = limits()
        self._quick = Lane("grammars", Trial(QUICK_SECONDS, QUICK_PATIENCE))
        self._thorough = Lane("large grammars", Trial(SECONDS, PATIENCE, NICENESS))
        self._cache: OrderedDict[Key, LLMatcher] = OrderedDict()
        """Never advanced; their copies share the states that they compute for a grammar."""
        self._refused: OrderedDict[Key, str] = OrderedDict()
        """The reasons for refusals that took long to find."""
        self._jobs: dict[Key, _Job] = {}
        self._lock = RLock()  # a cancelled future calls back at once

    def matcher(self, constraint: Constraint) -> Future[Matcher]:
        """Start to create a matcher; its future raises `InvalidRequest` for a constraint that cannot be enforced.

        Cancel the future when the matcher is no longer needed.
        """
        future: Future[Matcher] = Future()
        key = _key(constraint)
        with self._lock:
            compiled, reason = _use(self._cache, key), _use(self._refused, key)
            if compiled is None and reason is None:
                job = self._jobs.get(key)
                if job is None:
                    job = self._jobs[key] = _Job(constraint)
                    self._quick.put(partial(self._work, job, self._quick))
                job.waiting.append(future)
                future.add_done_callback(partial(self._left, job))
                return future
        if compiled is None:
            future.set_exception(refusal(constraint, str(reason)))
        else:
            future.set_result(self._copy(compiled, constraint))
        return future

    def close(self) -> None:
        """End the threads, and the processes that try grammars."""
        for lane in (self._quick, self._thorough):
            lane.close()
        for lane in (self._quick, self._thorough):
            lane.join()

    def _left(self, job: _Job, future: Future[Matcher]) -> None:
        """Give up a grammar when the last request that waits for it has left."""
        with self._lock:
            if future.cancelled() and job.abandoned:
                self._forget(job)
                if job.trial is not None:
                    job.trial.stop()

    def _forget(self, job: _Job) -> None:
        if self._jobs.get(_key(job.constraint)) is job:
            del self._jobs[_key(job.constraint)]

    def _work(self, job: _Job, lane: Lane) -> None:
        """Compile a grammar, in a thread; a slow one is postponed, so that it delays no other."""
        with self._lock:
            if job.abandoned:
                return
            # A quick trial is nearly over, and the others need its process.
            job.trial = None if lane is self._quick else lane.trial
        result: LLMatcher | Exception
        try:
            result = self._compile(job, lane.trial)
        except TooExpensive as error:
            if error.slow and lane is self._quick:
                self._thorough.put(partial(self._work, job, self._thorough))
                return
            reason = f"it takes more than {SECONDS:g} seconds, or too much memory, to compile; simplify it"
            with self._lock:
                _keep(self._refused, _key(job.constraint), reason)
            result = refusal(job.constraint, reason)
        except Stopped:
            result = EngineFailed("the model is being closed")
        except (RequestError, EngineFailed) as error:
            result = error
        except BaseException as error:  # a panic in llguidance is not an Exception, and the thread must survive
            logger.exception("a constraint could not be prepared")
            result = EngineFailed(f"the constraint could not be prepared: {error}")
        with self._lock:
            job.trial = None
            self._forget(job)
            if isinstance(result, LLMatcher):
                _keep(self._cache, _key(job.constraint), result)
        for future in job.waiting:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(self._copy(result, job.constraint))

    def _copy(self, compiled: LLMatcher, constraint: Constraint) -> Matcher:
        def fail(reason: str) -> Exception:
            # Compile it anew for the next request: the states shared by the copies may be what became too much.
            with self._lock:
                self._cache.pop(_key(constraint), None)
            return refusal(constraint, f"it could not be enforced: {explain(reason)}; simplify it")

        return TokenMatcher(compiled.deep_copy(), self._tokenizer, self._mask, self._ends, fail)

    def _compile(self, job: _Job, trial: Trial) -> LLMatcher:
        constraint = job.constraint
        check_length(constraint)
        tokenizer = self._tokenizer
        if not self._ends:
            raise refusal(constraint, "the model has no token that ends an answer, so that none could be complete")
        named = named_tokens(constraint.text) if constraint.kind == "lark" else ()
        names = {token: self._vocabulary.name(token) for token in named}
        try:
            found = trial.run(
                constraint, names, spaces=self._vocabulary.marks_spaces, abandoned=lambda: job.abandoned,
            )
        except OSError as error:
            raise EngineFailed(f"could not start a process to try grammars: {error}") from error
        if "refusal" in found:
            raise refused(constraint, found["refusal"])
        fault = found["fault"]
        if not fault:
            matcher = LLMatcher(tokenizer, found["grammar"], log_level=0, limits=self._limits)
            if not matcher.is_error():
                # The first mask takes longest, and prepares the others.
                matcher.deep_copy().compute_bitmask()
            fault = matcher.get_error()
        if fault:
            raise refusal(constraint, explain(fault))
        return matcher

    @cached_property
    def _ends(self) -> Sequence[int]:
        return self._vocabulary.ends()

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        tokens = [_NO_TEXT + text if named else text for text, named in self._vocabulary.grammar_tokens()]
        vocab, tokenize = self._vocabulary.pointers
        plain: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # its stub lacks it
            tokens=tokens, vocab_ptr=vocab, tokenize_fptr=tokenize, eos_token=self._ends, slices=[],
        )
        # In two calls, because each one blocks the steps: for 0.2 seconds with the largest vocabularies.
        return plain.with_slices(LLTokenizer.general_slices())


def _key(constraint: Constraint) -> Key:
    return constraint.kind, constraint.text


def _use(kept: OrderedDict[Key, T], key: Key) -> T | None:
    """Return the value of a key, if any, and mark it as the most recently used."""
    if key in kept:
        kept.move_to_end(key)
    return kept.get(key)


def _keep(kept: OrderedDict[Key, T], key: Key, value: T) -> None:
    """Keep a value; if there are too many, evict the least recently used."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > CACHED:
        kept.popitem(last=False)
