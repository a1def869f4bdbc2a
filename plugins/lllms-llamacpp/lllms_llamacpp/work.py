"""The work of a decode: how much longer tokens take in a long context than at the beginning of one."""

from math import inf

import llama_cpp.llama_cpp as llama

from lllms_core.gguf import GGUF

_TOGETHER = 64
"""From so many tokens on, llama.cpp attends for several at once."""
_SLOWER, _SLOWER_APART = 1.5, 5.0
"""Attention takes so many times as long as multiplications by weights of as many operations. Fewer tokens than
`_TOGETHER`, but more than one, are multiplied together, and attend one by one. Measured on processors, with models of
135 million and a billion parameters: 1.1 and 1.9 for one token, 3.7 and 8.7 for 24, 1.7 for a prompt of the smaller."""


def reach(model: llama.llama_model_p, gguf: GGUF) -> float:
    """Return the number of cells whose attention takes as many operations as the rest of a token's evaluation.

    Infinite for models with sliding windows or states, which read few cells however long their context is.
    """
    heads, width = gguf.hyperparameter("attention.head_count"), gguf.hyperparameter("embedding_length")
    layers, limited = gguf.hyperparameter("block_count"), llama.llama_model_n_swa(model)
    if not heads or not width or not layers or limited or _has_states(model):
        return inf
    values = heads * (gguf.hyperparameter("attention.value_length") or width // heads)
    used = (gguf.hyperparameter("expert_used_count") or 1) / (gguf.hyperparameter("expert_count") or 1)
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    weights = max(0, llama.llama_model_n_params(model) - vocabulary * width) * used
    # A multiplication for each weight, and for each cell one with every key's and every value's number.
    return max(1.0, float(weights) / (2 * layers * values))


def work(tokens: int, attended: float, reach: float) -> float:
    """Return what a decode of `tokens` tokens costs, in tokens at the beginning of a context.

    `attended` is the number of cells before each token, summed up over the tokens.
    """
    return tokens + attended / reach * (_SLOWER_APART if 1 < tokens < _TOGETHER else _SLOWER)


def _has_states(model: llama.llama_model_p) -> bool:
    return bool(llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))
