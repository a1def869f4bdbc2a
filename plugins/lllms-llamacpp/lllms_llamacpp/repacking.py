"""Which weights llama.cpp lays out anew for the processor, so that each instance has its own copy of them."""

import platform
from collections.abc import Collection, Iterable
from functools import cache

from lllms_core.gguf import TENSOR_TYPES, TensorInfo
from lllms_core.machine import processor_features

ROWS = 8
"""Rows are interleaved by so many; a matrix with a rest is left as it is."""
_ON_X86 = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
_ON_X86_WIDE = _ON_X86 | {"Q2_K"}
_ON_ARM = frozenset({"Q1_0", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"})
_EMBEDDING = "token_embd.weight"
_LOOKED_UP = frozenset({_EMBEDDING, "token_types.weight", "position_embd.weight", "per_layer_token_embd.weight"})
"""Matrices of which rows are taken, rather than multiplied with."""


def repacked_kinds(machine: str, features: Collection[str] | None) -> frozenset[str]:
    """Return the types of tensors that are repacked on a processor; those of a recent one if nothing is known of it."""
    if machine.lower() in {"x86_64", "amd64"}:
        if features is not None and "avx2" not in features:
            return frozenset()
        return _ON_X86_WIDE if features is None or "avx512bw" in features else _ON_X86
    if machine.lower() in {"arm64", "aarch64"}:
        return _ON_ARM if features is None or "asimddp" in features else frozenset()
    return frozenset()


@cache
def kinds_here() -> frozenset[str]:
    """Return the types of tensors that are repacked on this machine."""
    return repacked_kinds(platform.machine(), processor_features())


def repacked(tensors: Iterable[TensorInfo], kinds: Collection[str]) -> tuple[int, int]:
    """Return the bytes of the weights that are repacked, and how many of these bytes the file does not contain.

    A model without a matrix for its output uses that of its embedding: the original for this, a copy for that.
    """
    found = {tensor.name: tensor for tensor in tensors}
    fit = [one for one in found.values() if _fits(one, kinds)]
    copies = sum(one.size for one in fit if one.name not in _LOOKED_UP)
    embedding = found.get(_EMBEDDING)
    more = embedding.size if embedding in fit and embedding is not None and "output.weight" not in found else 0
    return copies + more, more


def _fits(tensor: TensorInfo, kinds: Collection[str]) -> bool:
    kind, *_ = TENSOR_TYPES.get(tensor.type, ("",))
    return kind in kinds and len(tensor.shape) > 1 and tensor.shape[1] % ROWS == 0
