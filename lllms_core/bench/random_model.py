"""Llama models with random weights and realistic shapes: a model for speed tests that needs no download.

Their text means nothing. An answer ends only at `max_tokens`, and every token is the text of a word: end tokens and
single bytes are made so unlikely that they are never chosen.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from attrs import frozen

from lllms_core.bench.extras import need_gguf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SYLLABLES = tuple(consonant + vowel for consonant in "bdfghjklmnprstvwz" for vowel in "aeiou")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

_FIRST_WORD = 256 + 2 * len(SYLLABLES)
"""The first token of a vocabulary that is a word with a space before it."""
_CERTAINTY = 8.0
"""How far the logit of the next word of a chain is above all others."""
VERSION = 1
"""Incremented when the output of `write` changes, so that older cached files are not used."""


@frozen
class Shape:
    """The sizes of a llama model."""

    layers: int
    dim: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int = 8192
    chained: bool = False
    """Whether each word is followed by a certain other one (`followers`): the text has a script, so that drafts of it
    can be right or wrong, while the work of each token is that of any model of this shape."""


SHAPES = {
    "tiny": Shape(layers=2, dim=64, heads=2, kv_heads=1, feed_forward=128, vocabulary=1024),
    "25m": Shape(layers=8, dim=384, heads=6, kv_heads=2, feed_forward=1024, vocabulary=16384),
    "long": Shape(layers=2, dim=128, heads=2, kv_heads=1, feed_forward=256, vocabulary=16384, context=65536),
    "135m": Shape(layers=30, dim=576, heads=9, kv_heads=3, feed_forward=1536, vocabulary=49152),
    "135m-chained": Shape(layers=30, dim=576, heads=9, kv_heads=3, feed_forward=1536, vocabulary=49152, chained=True),
    "1b": Shape(layers=16, dim=2048, heads=32, kv_heads=8, feed_forward=8192, vocabulary=128_256),
    "135m-152k": Shape(layers=30, dim=576, heads=9, kv_heads=3, feed_forward=1536, vocabulary=151936),
}
"""Keyed by the number of parameters, without the output matrix, or by what they are for."""


def cached(preset: str) -> Path:
    """Return the file of a preset of `SHAPES`, written on the first call and kept in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lllms" / "bench"
    file = cache / f"random-{preset}-v{VERSION}.gguf"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            whole = Path(unfinished) / file.name
            write(whole, SHAPES[preset])
            whole.replace(file)
    return file


def write(file: Path, shape: Shape, seed: int = 0) -> None:
    """Write a Q8_0 GGUF of this shape; the same seed writes the same file. Needs the `bench` extra."""
    gguf = need_gguf()
    writer = gguf.GGUFWriter(file, "llama")
    tokens, merges = vocabulary(shape.vocabulary)
    kinds = gguf.TokenType
    words = shape.vocabulary - len(CONTROL)
    writer.add_name("Random llama")
    writer.add_description("Random weights with the shapes of a real model, for speed tests; its text has no meaning.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.dim // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.NORMAL] * words + [kinds.CONTROL] * len(CONTROL))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(words)
    writer.add_eos_token_id(shape.vocabulary - 1)
    writer.add_add_bos_token(False)  # noqa: FBT003  # gguf's own signature
    writer.add_chat_template(CHATML)
    for name, tensor in _tensors(shape, seed):
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Return `size` byte-level BPE tokens and their merges: 256 bytes, made-up words like " bada", control tokens."""
    tokens = list(_printable_bytes())
    merges: list[str] = []
    known = set(tokens)
    pairs = itertools.chain(
        ((syllable[0], syllable[1]) for syllable in SYLLABLES),
        (("Ġ", syllable) for syllable in SYLLABLES),
        ((f"Ġ{first}", second) for first, second in itertools.product(SYLLABLES, SYLLABLES)),
        ((f"Ġ{a}{b}", c) for a, b, c in itertools.product(SYLLABLES, SYLLABLES, SYLLABLES)),
    )
    for left, right in pairs:
        if len(tokens) == size - len(CONTROL):
            break
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    return [*tokens, *CONTROL], merges


def followers(vocabulary: int) -> list[int]:
    """Return the tokens of words in a ring, in which each is followed by the next, for a chained model."""
    words = list(range(_FIRST_WORD, vocabulary - len(CONTROL)))
    Random(0).shuffle(words)  # noqa: S311  # no secrets here
    return words


def _printable_bytes() -> Iterator[str]:
    """Yield GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = itertools.count(256)
    for byte in range(256):
        yield chr(byte if byte in printable else next(stand_ins))


def _tensors(shape: Shape, seed: int) -> "Iterator[tuple[str, NDArray[np.float32]]]":
    import numpy as np

    random = np.random.default_rng(seed)
    dim, kv_dim = shape.dim, shape.dim // shape.heads * shape.kv_heads
    # Every embedding carries the direction `u`, which no block changes. The rows of unwanted tokens in the output
    # matrix point the other way, so that their logits are always far below all others.
    u = random.standard_normal(dim, dtype=np.float32)
    u /= np.linalg.norm(u)

    def matrix(rows: int, columns: int, scale: float) -> "NDArray[np.float32]":
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)

    ones = np.ones(dim, dtype=np.float32)
    embedding = matrix(shape.vocabulary, dim, 1.0) + u * np.float32(dim**0.5)
    yield "token_embd.weight", embedding
    yield "output_norm.weight", ones
    output = matrix(shape.vocabulary, dim, 3.0 / dim**0.5)
    output -= np.outer(output @ u, u)
    output[:256] = output[-len(CONTROL) :] = -40 * u
    if shape.chained:
        ring = followers(shape.vocabulary)
        # The embedding of a word points to the row of the next one, and stays what it is on its way through the layers.
        directions = embedding[ring] - np.float32(dim**0.5) * u
        output[[*ring[1:], ring[0]]] += directions * np.float32(_CERTAINTY / dim**0.5)
    yield "output.weight", output
    for layer in range(shape.layers):
        into_stream = {"attn_output": (dim, dim), "ffn_down": (dim, shape.feed_forward)}
        others = {
            "attn_q": (dim, dim), "attn_k": (kv_dim, dim), "attn_v": (kv_dim, dim),
            "ffn_gate": (shape.feed_forward, dim), "ffn_up": (shape.feed_forward, dim),
        }
        for name, (rows, columns) in {**others, **into_stream}.items():
            weights = matrix(rows, columns, 0.5 / columns**0.5)
            if name in into_stream:
                weights -= np.outer(u, u @ weights)
                weights *= np.float32(0.05 if shape.chained else 1)
            yield f"blk.{layer}.{name}.weight", weights
        yield f"blk.{layer}.attn_norm.weight", ones
        yield f"blk.{layer}.ffn_norm.weight", ones
