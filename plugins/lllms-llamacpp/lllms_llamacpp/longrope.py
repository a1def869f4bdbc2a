"""Models with two sets of RoPE factors, for contexts up to the original length and for longer ones.

llama.cpp chooses the set by the size of the cache, which all requests share. But a request's positions are limited by
its own context, so here that decides.
"""

import llama_cpp.llama_cpp as llama

from lllms_core.gguf import GGUF

_KEY = "rope.scaling.original_context_length"
_BEYOND_ANY_CACHE = 2**31 - 1


def use_factors_for(
    context_length: int, gguf: GGUF, model: llama.llama_model_params, context: llama.llama_context_params,
) -> None:
    """Have a model loaded with the factors for requests of up to `context_length` tokens."""
    original = _original(gguf)
    if original is None or takes_long_factors(context_length, gguf) or not _has_two_sets(gguf):
        return  # llama.cpp takes the long factors, as the cache is never smaller than the context
    overrides = (llama.llama_model_kv_override * 2)()  # the second, without a key, ends the list
    overrides[0].tag = llama.LLAMA_KV_OVERRIDE_TYPE_INT
    overrides[0].key = f"{gguf.architecture}.{_KEY}".encode()
    overrides[0].value.val_i64 = _BEYOND_ANY_CACHE
    model.kv_overrides = overrides
    # Everything else that depends on the original length gets the true one.
    context.yarn_orig_ctx = original


def takes_long_factors(context_length: int, gguf: GGUF) -> bool:
    """Whether a model has two sets of factors, and requests of up to `context_length` tokens need the long one."""
    original = _original(gguf)
    return original is not None and context_length > original and _has_two_sets(gguf)


def _original(gguf: GGUF) -> int | None:
    return gguf.hyperparameter(_KEY) or gguf.hyperparameter("context_length")


def _has_two_sets(gguf: GGUF) -> bool:
    return any(tensor.name.endswith("rope_factors_long.weight") for tensor in gguf.tensors)
