"""The facts worth showing about a model file."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lllms_core.gguf.header import GGUF, TENSOR_TYPES, TensorInfo
from lllms_core.gguf.header_reader import read_parts
from lllms_core.gguf.parts import part_paths

Scalar = str | int | float
"""A value that is no array; a bool is an int."""
TEMPLATE = "tokenizer.chat_template"
"""The key of the chat template."""
MARKS = ("tokenizer.ggml.bos_token", "tokenizer.ggml.eos_token")
"""With `_id`, the keys of these tokens; without, those of their texts among `scalars`."""


def describe(gguf: GGUF, path: Path) -> dict[str, str | int | float]:
    """Return the facts worth showing about a model file, over all parts of a split model; `gguf`: its header.

    Raises `GGUFError` for a part that is missing.
    """
    parts = [gguf]
    paths = [path]
    if (gguf.metadata.number("split.count") or 1) > 1 and not gguf.metadata.number("split.no"):
        parts, paths = [*read_parts(path)], part_paths(path)
    tensors = [tensor for part in parts for tensor in part.tensors]
    unknown = sorted({tensor.type for tensor in tensors} - TENSOR_TYPES.keys())
    facts: dict[str, str | int | float | None] = {
        "name": gguf.metadata.text("general.name") or None,
        "architecture": gguf.architecture,
        "parameters": sum(part.parameters for part in parts),
        "quantisation": _quantisation(tensors),
        "unknown_tensor_types": ", ".join(map(str, unknown)) or None,
        "size": sum(one.stat().st_size for one in paths),
        "parts": len(parts) if len(parts) > 1 else None,
        "context_trained": gguf.hyperparameter("context_length"),
        "embedding_length": gguf.hyperparameter("embedding_length"),
        "layers": gguf.hyperparameter("block_count"),
        "vocabulary": gguf.metadata.length("tokenizer.ggml.tokens") or None,
        "license": gguf.metadata.text("general.license") or None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def scalars(gguf: GGUF) -> dict[str, Scalar]:
    """Return the values of a header, without arrays such as the vocabulary; those may be very long.

    Beside the ids of the tokens around a prompt stand their texts (`MARKS`).
    """
    keys = (key for key in gguf.metadata if not gguf.metadata.kind(key).startswith("array"))
    values = {key: value for key in keys if isinstance(value := gguf.metadata[key], str | int | float)}
    ids = {mark: gguf.metadata.number(f"{mark}_id") for mark in MARKS}
    texts = {mark: gguf.metadata.item("tokenizer.ggml.tokens", at) for mark, at in ids.items() if at is not None}
    return values | {mark: text for mark, text in texts.items() if text is not None}


def _quantisation(tensors: Iterable[TensorInfo]) -> str | None:
    """Return the type of most of the weights; an unknown one's number."""
    weights: Counter[int] = Counter()
    for tensor in tensors:
        weights[tensor.type] += tensor.elements
    if not weights:
        return None
    [(most, _)] = weights.most_common(1)
    return TENSOR_TYPES[most][0] if most in TENSOR_TYPES else f"type {most}, unknown here"
