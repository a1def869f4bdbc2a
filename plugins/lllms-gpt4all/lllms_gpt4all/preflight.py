"""Checks of a file before gpt4all sees it, because many faults would end the whole process; pure.

Faults that only make its load fail are left to gpt4all, which reports why.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, cast

from lllms_core.engines.foresight import LEAST_CONTEXT, context_memory, largest_that_fits
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, TENSOR_TYPES, Value
from lllms_core.machine import usable_memory
from lllms_core.types import Finding, Memory
from lllms_gpt4all.options import MAX_BATCH, Options

_LOOKAHEAD = 32
"""Tokens of room after the longest answer, for gpt4all's look-ahead: it drops old tokens if there is no room."""
_BLOCK = 32
"""gpt4all rounds the size of a context up to a multiple of this."""

LIBRARIES = 26 * 2**20
"""Bytes of the libraries and what they need, in each worker."""
TOKEN = 150
"""Bytes of a token of the vocabulary."""

GENERATING = frozenset({
    "llama", "falcon", "grok", "gpt2", "gptneox", "mpt", "baichuan", "starcoder", "refact", "bloom", "stablelm", "qwen",
    "qwen2", "qwen2moe", "phi2", "phi3", "codeshell", "orion", "internlm2", "minicpm", "gemma", "gemma2", "starcoder2",
    "xverse", "command-r", "dbrx", "olmo", "openelm", "arctic", "deepseek2", "chatglm", "bitnet", "jais",
})
EMBEDDING = frozenset({"bert", "nomic-bert"})
"""The architectures that gpt4all's llama.cpp of July 2024 runs; newer ones are missing."""

_POOLINGS = (1, 2)
_NEWEST_TENSOR_TYPE = 33
_NOT_MODELS = {"adapter": "a LoRA adapter, which gpt4all cannot use", "mmproj": "a projector for images"}
_TOKENIZERS = ("llama", "gpt2", "bert")
_MOST_LAYERS, _MOST_EXPERTS = 512, 160
_LONGEST = 2**24
"""No dimension of a model is larger."""
_STORED = {
    "general.alignment": "uint32",
    "general.file_type": "uint32",
    "tokenizer.ggml.add_space_prefix": "bool",
    "tokenizer.ggml.remove_extra_whitespaces": "bool",
    "tokenizer.ggml.tokens": "array of string",
    "tokenizer.ggml.scores": "array of float32",
    "tokenizer.ggml.token_type": "array of int32",
    "tokenizer.ggml.merges": "array of string",
    "tokenizer.ggml.precompiled_charsmap": "array of uint8",
}
"""The required types of some keys: their values are used without a check."""
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def check(gguf: GGUF, path: Path) -> None:
    """Raise `ModelLoadFailed`, with the reason, for a file that gpt4all cannot load or would not survive."""
    _Preflight(gguf, path).check()


def context_length(gguf: GGUF, options: Options, path: Path, given: int | None = None) -> int:
    """Return the tokens that one request may hold. Raises `ModelLoadFailed` if their KV cache exceeds the memory.

    `given` are the bytes that the model may take, for an automatic length (`ModelSpec.memory`).
    """
    trained = gguf.hyperparameter("context_length") or LEAST_CONTEXT
    length = _auto(gguf, trained, path, given) if options.context_length == "auto" else options.context_length
    if gguf.architecture in EMBEDDING:
        # There are no positions beyond the trained ones, and gpt4all truncates texts at the end of a block.
        length = min(length, trained) // _BLOCK * _BLOCK
        if not length:
            raise ModelLoadFailed(
                f"options.context_length: '{path}' is a model for embeddings, which gpt4all runs in blocks of {_BLOCK} "
                f"tokens; set at least that, and at most the {trained} that it was trained on",
            )
    memory = usable_memory()
    needed = context_size(length) * kv_bytes(gguf)
    if memory is not None and needed > memory:
        raise ModelLoadFailed(
            f"options.context_length is {length}: the KV cache of '{path}' would need {needed / 2**30:.1f} GiB, this "
            f"machine has {memory / 2**30:.1f} GiB; lower it",
        )
    return length


def _auto(gguf: GGUF, trained: int, path: Path, given: int | None) -> int:
    """Return the trained length, as far as memory allows."""
    least = min(trained, LEAST_CONTEXT)
    room = context_memory(estimate(gguf, path, least), given)

    def fits(length: int) -> bool:
        memory = estimate(gguf, path, length)
        return memory.kv + memory.compute <= room

    return max(least, largest_that_fits(trained, fits))


def estimate(gguf: GGUF, path: Path, length: int) -> Memory:
    """Estimate weights, which are mapped, and KV cache from the header; gpt4all's buffers by their usual size."""
    kv = kv_bytes(gguf) * context_size(length)
    tokens = gguf.metadata.length("tokenizer.ggml.tokens")
    overhead = LIBRARIES + TOKEN * tokens
    return Memory(path.stat().st_size, kv, compute_bytes(gguf, length), overhead=overhead, mapped=True)


def beyond_training(gguf: GGUF, options: Options) -> Iterator[Finding]:
    """Yield a warning if requests may be longer than the model's training texts."""
    trained, asked = gguf.hyperparameter("context_length"), options.context_length
    if trained and asked != "auto" and asked > trained and gguf.architecture not in EMBEDDING:
        yield Finding(
            f"options.context_length is {asked}, but the model was trained for {trained} tokens, and may write "
            "nonsense beyond them; lower it",
            fatal=False,
        )


def context_size(length: int) -> int:
    """Return the cells of KV cache for requests of `length` tokens: plus gpt4all's look-ahead, in whole blocks."""
    return -(-(length + _LOOKAHEAD) // _BLOCK) * _BLOCK


def compute_bytes(gguf: GGUF, length: int) -> int:
    """Return roughly the bytes of buffers for a pass over 128 tokens: largest layer in 32 bits, attention, logits."""
    number = gguf.hyperparameter
    heads, width = _largest(gguf, "attention.head_count") or 1, number("embedding_length") or 0
    row = heads * context_size(length) + 4 * width + 2 * (number("feed_forward_length") or 4 * width)
    return 4 * (MAX_BATCH * row + gguf.metadata.length("tokenizer.ggml.tokens") * MAX_BATCH)


def kv_bytes(gguf: GGUF) -> int:
    """Return the bytes of KV cache per token: keys and values of every layer, in 16 bits."""
    number = gguf.hyperparameter
    layers, embedding = number("block_count") or 0, number("embedding_length") or 0
    heads = _largest(gguf, "attention.head_count") or 1
    kv_heads = _largest(gguf, "attention.head_count_kv") or heads
    head = embedding // heads
    lengths = (number("attention.key_length") or head) + (number("attention.value_length") or head)
    return 2 * layers * kv_heads * lengths


class _Preflight:
    def __init__(self, gguf: GGUF, path: Path) -> None:
        self._gguf = gguf
        self._path = path

    def check(self) -> None:
        self._check_parts()
        if not os.access(self._path, os.R_OK):
            self._fail("may not be read")
        self._check_kind()
        for key, stored in _STORED.items():
            if self._gguf.metadata.kind(key) not in {stored, ""}:
                self._fail(f"has '{key}' stored as {self._gguf.metadata.kind(key)}; it must be {stored}")
        self._check_tensors()
        self._check_numbers()
        self._check_tokenizer()

    def _check_kind(self) -> None:
        architecture = self._gguf.architecture
        if not architecture:
            self._fail("names no architecture (general.architecture): it is not a model")
        kind = self._gguf.metadata.text("general.type")
        if kind in _NOT_MODELS:
            self._fail(f"is not a model but {_NOT_MODELS[kind]}")
        if architecture in EMBEDDING:
            self._check_embedding(architecture)
        elif architecture not in GENERATING:
            self._fail(
                f"has the architecture '{architecture}', which gpt4all's llama.cpp of July 2024 does not know; "
                'use engine = "llamacpp"',
            )

    def _check_embedding(self, architecture: str) -> None:
        pooling = self._gguf.hyperparameter("pooling_type")
        if pooling not in _POOLINGS or self._gguf.metadata.kind(f"{architecture}.pooling_type") != "uint32":
            self._fail(f"has {pooling} as '{architecture}.pooling_type'; gpt4all pools by 1 (mean) or 2 (CLS)")
        for name in ("bos_token_id", "eos_token_id"):
            if self._gguf.metadata.number(f"tokenizer.ggml.{name}") is None:
                self._fail(
                    f"lacks 'tokenizer.ggml.{name}': gpt4all frames texts with BOS and EOS, and would give wrong "
                    'vectors; use engine = "llamacpp"',
                )

    def _check_parts(self) -> None:
        number = self._gguf.metadata.number
        parts, part = number("split.count") or 1, number("split.no") or 0
        if parts > 1:
            self._fail(f'is part {part + 1} of {parts}, but gpt4all only loads whole files; use engine = "llamacpp"')

    def _check_tensors(self) -> None:
        for tensor in self._gguf.tensors:
            if tensor.type not in TENSOR_TYPES or tensor.type > _NEWEST_TENSOR_TYPE:
                name = TENSOR_TYPES[tensor.type][0] if tensor.type in TENSOR_TYPES else f"number {tensor.type}"
                self._fail(
                    f"has a tensor '{tensor.name}' of the type {name}, which gpt4all's llama.cpp of July 2024 does not "
                    'know; use another quantisation, or engine = "llamacpp"',
                )

    def _check_numbers(self) -> None:
        for name, least, most in (
            ("context_length", 1, 2**31 - 1),
            ("embedding_length", 1, _LONGEST),
            ("block_count", 1, _MOST_LAYERS),
        ):
            self._check_number(f"{self._gguf.architecture}.{name}", least, most, needed=True)
        for name, most in (("expert_count", _MOST_EXPERTS), ("expert_used_count", _MOST_EXPERTS)):
            self._check_number(f"{self._gguf.architecture}.{name}", 0, most, needed=False)
        number = self._gguf.hyperparameter
        if (number("expert_used_count") or 0) > (number("expert_count") or 0):
            self._fail("uses more experts than it has")
        for name, least in (("attention.head_count", 1), ("attention.head_count_kv", 1)):
            self._check_heads(f"{self._gguf.architecture}.{name}", least)
        for name in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
            epsilon = self._gguf.metadata.get(f"{self._gguf.architecture}.{name}")
            if isinstance(epsilon, float) and not epsilon > 0:
                self._fail(f"has {epsilon} as '{self._gguf.architecture}.{name}'; it must be above 0")
        heads = _largest(self._gguf, "attention.head_count") or 1
        if (_largest(self._gguf, "attention.head_count_kv") or 1) > heads:
            self._fail("has more heads for keys and values than for queries")

    def _check_heads(self, key: str, least: int) -> None:
        """Check one number for all layers, or one for each."""
        value = self._gguf.metadata.get(key)
        if not isinstance(value, list):
            self._check_number(key, least, _LONGEST, needed=False)
            return
        if len(value) < (self._gguf.hyperparameter("block_count") or 0):
            self._fail(f"has {len(value)} items in '{key}', fewer than layers")
        for item in value:
            self._check_range(key, item, least, _LONGEST)

    def _check_number(self, key: str, least: int, most: int, *, needed: bool) -> None:
        value = self._gguf.metadata.get(key)
        if value is None:
            if needed:
                self._fail(f"lacks '{key}'")
            return
        self._check_range(key, value, least, most)

    def _check_range(self, key: str, value: Value, least: int, most: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._fail(f"has {str(value)[:40]!r} as '{key}'; an integer from {least} to {most} is possible")

    def _check_tokenizer(self) -> None:
        metadata = self._gguf.metadata
        kind = metadata.text("tokenizer.ggml.model")
        if not kind:
            self._fail("has no tokenizer, so that it cannot read or write text")
        if kind not in _TOKENIZERS:
            self._fail(f"has a tokenizer '{kind[:40]}'; gpt4all knows {', '.join(_TOKENIZERS)}")
        count = metadata.length("tokenizer.ggml.tokens")
        if not count:
            self._fail("has a tokenizer without tokens")
        for name in ("scores", "token_type"):
            length = metadata.length(f"tokenizer.ggml.{name}")
            if length not in (0, count):
                self._fail(f"has {count} tokens, but {length} items in 'tokenizer.ggml.{name}'")
        # C reads a text up to its first NUL.
        tokens = [str(token).partition("\0")[0] for token in cast(list[str], metadata["tokenizer.ggml.tokens"])]
        if not all(tokens):
            self._fail(f"has an empty token, number {tokens.index('')}")
        if len(set(tokens)) < count:
            twice = next(token for token, often in Counter(tokens).items() if often > 1)
            self._fail(f"has the token {twice[:40]!r} twice")
        if kind == "llama" and (missing := _BYTE_TOKENS.difference(tokens)):
            self._fail(f"has a tokenizer without the byte token {min(missing)}: gpt4all aborts at a text that needs it")

    def _fail(self, reason: str) -> NoReturn:
        raise ModelLoadFailed(f"'{self._path}' {reason}")


def _largest(gguf: GGUF, name: str) -> int | None:
    """Return a number that may differ between layers: the largest."""
    value = gguf.metadata.get(f"{gguf.architecture}.{name}")
    items = value if isinstance(value, list) else [value]
    return max((item for item in items if isinstance(item, int)), default=None)
