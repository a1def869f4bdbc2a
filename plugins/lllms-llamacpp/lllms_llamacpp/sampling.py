"""Choosing tokens: a chain of llama.cpp samplers for each request."""

from collections.abc import Sequence
from secrets import randbits

import llama_cpp.llama_cpp as llama

from lllms_core.types import Sampling

_REPEAT_WINDOW = 64
"""How many recent tokens `repeat_penalty` looks at."""
_SEEDS = 0xFFFFFFFF
"""llama.cpp takes seeds below this one, which means "random" to it."""


class ChainSampler:
    """A request's samplers, in C. `context_length` bounds how much of an answer the penalties can count."""

    def __init__(
        self, context: llama.llama_context_p, sampling: Sampling, prompt: Sequence[int], *, vocabulary: int,
        context_length: int,
    ) -> None:
        self._context = context
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if sampling.repeat_penalty != 1:
            # This one also counts the prompt, as the other penalties do not: hence two samplers.
            repeat = llama.llama_sampler_init_penalties(vocabulary, _REPEAT_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
            for token in prompt[-_REPEAT_WINDOW:]:
                llama.llama_sampler_accept(repeat, token)
            self._add(repeat)
        if sampling.frequency_penalty or sampling.presence_penalty:
            penalties = sampling.frequency_penalty, sampling.presence_penalty
            self._add(llama.llama_sampler_init_penalties(vocabulary, context_length, 1.0, *penalties))
        if sampling.temperature == 0:
            self._add(llama.llama_sampler_init_greedy())
            return
        if sampling.top_k:
            self._add(llama.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(llama.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p:
            self._add(llama.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(llama.llama_sampler_init_temp(sampling.temperature))
        seed = randbits(32) if sampling.seed is None else sampling.seed
        self._add(llama.llama_sampler_init_dist(seed % _SEEDS))

    def sample(self, row: int) -> int:
        """Choose a token from the logits in this row of the last decode, and remember it for the penalties."""
        token: int = llama.llama_sampler_sample(self._chain, self._context, row)
        return token

    def close(self) -> None:
        """Free the chain, once."""
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None

    def _add(self, sampler: object) -> None:
        llama.llama_sampler_chain_add(self._chain, sampler)
