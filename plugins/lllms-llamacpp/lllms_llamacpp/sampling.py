"""Token sampling: a chain of llama.cpp samplers per request, or the likeliest token straight from the logits."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from secrets import randbits

import llama_cpp.llama_cpp as llama
import numpy as np
from attrs import evolve

from lllms_core.errors import EngineFailed
from lllms_core.types import Sampling
from lllms_llamacpp.vocabulary import Vocabulary

REPEAT_WINDOW = 64
"""The number of recent tokens that `repeat_penalty` considers."""
MIROSTAT_TOKENS = 100
"""The number of likeliest tokens that the first version of Mirostat considers, as in its paper."""
_SEEDS = 0xFFFFFFFF
"""llama.cpp takes seeds below this value, which means "random" to it."""
_FORBIDDEN = -100.0
"""A token with this bias or less is forbidden, as OpenAI says, whatever its logit."""
_POSSIBLE = 1e-37
"""A token less likely than this fraction of the likeliest one is forbidden, or never drawn."""

NO_NUMBERS = "the model's logits are not numbers (NaN); its weights or their quantisation are at fault"

Row = np.ndarray[tuple[int], np.dtype[np.float32]]
"""The logits of all tokens of the vocabulary."""

_PLAIN = Sampling(temperature=0)
_ADAPTING = (
    "repeat_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier", "logit_bias", "ignore_eos",
)


class Logits:
    """The logits of the last decode, as arrays that share its memory."""

    def __init__(self, context: llama.llama_context_p, vocabulary: int, suppressed: Sequence[int] = ()) -> None:
        self._context = context
        self._type = ctypes.c_float * vocabulary
        self._suppressed = list(suppressed)
        self._rows: dict[int, Row] = {}

    def row(self, row: int) -> Row:
        """Return the logits in this row, valid until the next decode."""
        address = ctypes.addressof(llama.llama_get_logits_ith(self._context, row).contents)
        array = self._rows.get(address)
        if array is None:
            # There are only a few addresses: llama.cpp writes each decode into the same buffer.
            array = self._rows[address] = np.ctypeslib.as_array(self._type.from_address(address))
        return array

    def choices(self, row: int) -> Row:
        """Return the logits in this row for choosing a token; the suppressed ones are impossible from now on."""
        logits = self.row(row)
        if self._suppressed:
            logits[self._suppressed] = -np.inf
        return logits


def log_probabilities(logits: Row, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log-probability of a token, and the `top` likeliest possible tokens, the likeliest first."""
    most = logits.max()
    norm = float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))
    likeliest = np.argpartition(logits, -top)[-top:] if 0 < top < len(logits) else range(min(top, len(logits)))
    found = [(int(one), float(logits[one]) - norm) for one in likeliest if np.isfinite(logits[one])]
    return float(logits[token]) - norm, sorted(found, key=lambda one: (-one[1], one[0]))


class GreedySampler:
    """The likeliest token. No chain: building llama.cpp's candidate array costs ten times as much as the search."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    def sample(self, row: int) -> int:
        """Choose the likeliest token in this row of the last decode."""
        logits = self._logits.choices(row)
        token = int(logits.argmax())
        if isnan(logits[token]):  # if one of them is NaN, `argmax` finds it
            raise EngineFailed(NO_NUMBERS)
        return token

    def close(self) -> None:
        """Do nothing: no resources are held."""


class ChainSampler:
    """A request's samplers, in C. `context_length` limits how much of an answer the penalties can count."""

    def __init__(
        self, context: llama.llama_context_p, logits: Logits, sampling: Sampling, prompt: Sequence[int], *,
        vocabulary: Vocabulary, context_length: int,
    ) -> None:
        self._context = context
        self._logits = logits
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for sampler in _samplers(sampling, prompt, vocabulary, context_length):
            llama.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, row: int) -> int:
        """Choose a token from the logits in this row of the last decode, and remember it for the penalties."""
        if isnan(self._logits.choices(row).max()):  # NaN if any of them is
            raise EngineFailed(NO_NUMBERS)
        token: int = llama.llama_sampler_sample(self._chain, self._context, row)
        return token

    def close(self) -> None:
        """Free the chain, once."""
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None


def is_greedy(sampling: Sampling) -> bool:
    """Whether the next token is just the one with the largest logit."""
    return sampling.temperature == 0 and all(
        getattr(sampling, name) == getattr(_PLAIN, name) for name in _ADAPTING
    )


def _samplers(
    sampling: Sampling, prompt: Sequence[int], vocabulary: Vocabulary, context_length: int,
) -> Iterator[object]:
    """Yield the samplers, in the order of llama.cpp's own programs."""
    biases = dict(sampling.logit_bias)
    if sampling.ignore_eos:
        biases |= dict.fromkeys(vocabulary.ends(), _FORBIDDEN)
    if biases:
        yield _bias(biases, vocabulary.size)
    if sampling.repeat_penalty != 1:
        # This one also counts the prompt, unlike the other penalties: hence two samplers.
        repeat = llama.llama_sampler_init_penalties(vocabulary.size, REPEAT_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
        yield _told(repeat, prompt[-REPEAT_WINDOW:])
    if sampling.frequency_penalty or sampling.presence_penalty:
        penalties = sampling.frequency_penalty, sampling.presence_penalty
        yield llama.llama_sampler_init_penalties(vocabulary.size, context_length, 1.0, *penalties)
    if sampling.dry_multiplier and sampling.dry_penalty_last_n:
        window = context_length if sampling.dry_penalty_last_n < 0 else sampling.dry_penalty_last_n
        yield _told(_dry(sampling, vocabulary, min(window, context_length)), prompt)
    if sampling.temperature == 0:
        yield llama.llama_sampler_init_greedy()
        return
    if sampling.mirostat or sampling.typical_p < 1:
        # They take logarithms of probabilities, and a forbidden token has none.
        yield llama.llama_sampler_init_min_p(_POSSIBLE, 1)
    seed = (randbits(32) if sampling.seed is None else sampling.seed) % _SEEDS
    if sampling.mirostat:
        yield llama.llama_sampler_init_temp(sampling.temperature)
        aim = sampling.mirostat_tau, sampling.mirostat_eta
        if sampling.mirostat == 1:
            yield llama.llama_sampler_init_mirostat(vocabulary.size, seed, *aim, MIROSTAT_TOKENS)
        else:
            yield llama.llama_sampler_init_mirostat_v2(seed, *aim)
        return
    yield from _cuts(sampling, seed)
    yield llama.llama_sampler_init_temp(sampling.temperature)
    yield llama.llama_sampler_init_dist(seed)


def _cuts(sampling: Sampling, seed: int) -> Iterator[object]:
    if sampling.top_k:
        yield llama.llama_sampler_init_top_k(sampling.top_k)
    if sampling.typical_p < 1:
        yield llama.llama_sampler_init_typical(sampling.typical_p, 1)
    if sampling.top_p < 1:
        yield llama.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p:
        yield llama.llama_sampler_init_min_p(sampling.min_p, 1)
    if sampling.xtc_probability:
        yield llama.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, 1, seed)


def _bias(biases: Mapping[int, float], vocabulary: int) -> object:
    pairs = (llama.llama_logit_bias * len(biases))()
    for pair, (token, bias) in zip(pairs, biases.items(), strict=True):
        pair.token, pair.bias = token, float("-inf") if bias <= _FORBIDDEN else bias
    return llama.llama_sampler_init_logit_bias(vocabulary, len(biases), pairs)


def _dry(sampling: Sampling, vocabulary: Vocabulary, window: int) -> object:
    breakers = [text.encode(errors="replace") for text in sampling.dry_sequence_breakers]
    return vocabulary.dry_sampler(
        sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length, window, breakers,
    )


def _told(sampler: object, tokens: Sequence[int]) -> object:
    for token in tokens:
        llama.llama_sampler_accept(sampler, token)
    return sampler


def seeded(sampling: Sampling, seed: int | None) -> Sampling:
    """Return the sampling, with the seed of the options if the request has none."""
    return evolve(sampling, seed=seed) if sampling.seed is None and seed is not None else sampling
