"""Finds LoRA adapters that do not fit a model, by the headers of both files."""

from collections.abc import Iterator, Mapping

from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, read_gguf
from lllms_core.types import Finding
from lllms_llamacpp.options import Lora, Options

_A, _B = ".lora_a", ".lora_b"
_EMBEDDING = "token_embd.weight"
"""llama.cpp reads this matrix by rows, so the matrices of its adapter have other shapes."""
_OUTPUT = "output.weight"
"""In models without this matrix, the same one is read both ways."""
Shape = tuple[int, ...]
"""Innermost dimension first, as in files."""


def unfit_adapters(gguf: GGUF, options: Options) -> Iterator[Finding]:
    """Yield a fault for each adapter that llama.cpp would not apply to the model."""
    # A split model's tensors are spread over all its files.
    split = (gguf.metadata.number("split.count") or 1) > 1
    shapes = {} if split else {tensor.name: tensor.shape for tensor in gguf.tensors}
    for lora in options.lora:
        try:
            _check(lora, read_gguf(lora.path), gguf.architecture, shapes)
        except ModelLoadFailed as error:
            yield Finding(f"options.lora: {error.message}")


def _check(lora: Lora, adapter: GGUF, architecture: str, shapes: Mapping[str, Shape]) -> None:
    """Raise `ModelLoadFailed` for an adapter that does not fit; without `shapes`, only its header is checked."""
    metadata = adapter.metadata
    kinds = metadata.text("general.type"), metadata.text("adapter.type")
    if kinds != ("adapter", "lora"):
        raise ModelLoadFailed(f"'{lora.path}' is not a LoRA adapter in GGUF format")
    if adapter.architecture != architecture:
        raise ModelLoadFailed(
            f"'{lora.path}' was made for the architecture '{adapter.architecture}', but the model's is "
            f"'{architecture}'; name the model that it was trained on, or leave it out",
        )
    matrices = {tensor.name: tensor.shape for tensor in adapter.tensors}
    for base in {name.removesuffix(_A) for name in matrices if name.endswith(_A)} if shapes else ():
        if base not in shapes:
            raise _unfit(lora, f"it changes '{base}', which the model lacks")
        if base == _EMBEDDING and _OUTPUT not in shapes:
            raise ModelLoadFailed(
                f"'{lora.path}' changes '{base}', which is also the model's output: llama.cpp aborts at that; merge "
                "the adapter into the model",
            )
        first, second = matrices[base + _A], matrices.get(base + _B)
        if second is None or not _fits(first, second, shapes[base], embeds=base == _EMBEDDING):
            raise _unfit(lora, f"its change to '{base}' has another shape")


def _fits(first: Shape, second: Shape, shape: Shape, *, embeds: bool) -> bool:
    """Whether llama.cpp can add the product of both matrices to the base matrix of this shape."""
    if any(len(one) != 2 for one in (first, second, shape)):
        return True  # a matrix for each expert, say; llama.cpp decides
    return (second[1], first[1]) == shape if embeds else (first[0], second[1]) == shape and first[1] == second[0]


def _unfit(lora: Lora, reason: str) -> ModelLoadFailed:
    return ModelLoadFailed(f"'{lora.path}' does not fit the model: {reason}; name the model that it was trained on")
