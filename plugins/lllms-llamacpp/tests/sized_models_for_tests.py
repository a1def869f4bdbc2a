"""Writes models of realistic shapes quickly: random weights, and a byte-level BPE vocabulary of made-up words."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import gguf
import numpy as np
from attrs import frozen
from bpe_for_tests import CONTROL, alphabet
from gguf import GGMLQuantizationType

_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvwz" for vowel in "aeiou"]


@frozen
class Shape:
    """The sizes of a llama."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    words: int
    context: int = 32_768
    tied: bool = False
    """Whether one matrix is both the embedding and the output."""


TINY = Shape(4, 256, 4, 2, 704, 928)
SHAPES = {
    "25M": Shape(8, 384, 6, 2, 1024, 16_384),
    "100M": Shape(12, 768, 12, 4, 2048, 32_000),  # its rows can be quantised in blocks of 256
    "135M": Shape(30, 576, 9, 3, 1536, 49_152),
    "500M": Shape(24, 896, 14, 2, 4864, 151_936),
}


def write_sized(path: Path, shape: Shape, kind: str = "Q8_0", spm: bool = False) -> Path:
    """Write a model with these sizes, its matrices quantised as `kind`; `spm`: a vocabulary with scores, no merges."""
    writer = gguf.GGUFWriter(path, "llama")
    _write_vocabulary(writer, shape.words, spm=spm)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    keys = shape.width // shape.heads * shape.kv_heads
    matrices = {
        "attn_q": (shape.width, shape.width), "attn_k": (keys, shape.width), "attn_v": (keys, shape.width),
        "attn_output": (shape.width, shape.width), "ffn_gate": (shape.inner, shape.width),
        "ffn_up": (shape.inner, shape.width), "ffn_down": (shape.width, shape.inner),
    }
    _write_matrix(writer, "token_embd.weight", (shape.words, shape.width), kind)
    if not shape.tied:
        _write_matrix(writer, "output.weight", (shape.words, shape.width), kind)
    writer.add_tensor("output_norm.weight", np.ones(shape.width, np.float32))
    for layer in range(shape.layers):
        for name, size in matrices.items():
            _write_matrix(writer, f"blk.{layer}.{name}.weight", size, kind)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(shape.width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_matrix(writer: gguf.GGUFWriter, name: str, shape: tuple[int, int], kind: str) -> None:
    """Write a matrix whose rows repeat, as only their number matters here; of zeros if gguf cannot quantise it."""
    rows, columns = shape
    few = np.random.default_rng(0).standard_normal((16, columns), dtype=np.float32) / np.sqrt(columns)
    if kind in {"Q4_0", "Q8_0"}:
        stored = gguf.quants.quantize(few, GGMLQuantizationType[kind])
    else:
        elements, width = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        stored = np.zeros((16, columns // elements * width), np.uint8)
    whole = np.tile(stored, (-(-rows // len(stored)), 1))[:rows]
    writer.add_tensor(name, whole, raw_dtype=GGMLQuantizationType[kind])


def _write_vocabulary(writer: gguf.GGUFWriter, words: int, *, spm: bool) -> None:
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] if spm else alphabet()
    known, merges = set(tokens), []
    for before, after in _joints("▁" if spm else "Ġ"):
        if len(tokens) == words - len(CONTROL):
            break
        if before + after not in known:
            known.add(before + after)
            tokens.append(before + after)
            merges.append(f"{before} {after}")
    tokens += CONTROL
    kinds = [gguf.TokenType.BYTE if spm else gguf.TokenType.NORMAL] * 256
    kinds += [gguf.TokenType.NORMAL] * (words - 256 - len(CONTROL)) + [gguf.TokenType.CONTROL] * len(CONTROL)
    writer.add_tokenizer_model("llama" if spm else "gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if spm:
        writer.add_token_scores([-float(number) for number in range(words)])
    else:
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_merges(merges)
    writer.add_eos_token_id(words - 1)


def _joints(space: str) -> Iterator[tuple[str, str]]:
    """Yield the halves of syllables, and of words of one to three of them."""
    for syllable in _SYLLABLES:
        yield syllable[0], syllable[1]
    for syllable in _SYLLABLES:
        yield space, syllable
    for first, second in product(_SYLLABLES, repeat=2):
        yield space + first, second
    for first, second, third in product(_SYLLABLES, repeat=3):
        yield space + first + second, third
