"""The memory that llama.cpp takes beside weights, cache and buffers: its libraries, and a model's vocabulary.

The tables for grammars are not counted: some 500 bytes a token, once a request has one.
"""

from lllms_core.gguf import GGUF

LIBRARIES = 22 * 2**20
"""Bytes of the libraries and what they need, in each worker."""
_TOKEN = 175
"""Bytes of a token: its text in three places, its score, its place in two tables."""
_MERGE = 150
"""Bytes of a rule by which two tokens are merged: both texts, and its place in a table."""
_TREES = 400
"""Bytes of a token in vocabularies that are searched letter by letter."""


def overhead(gguf: GGUF) -> int:
    """Return the bytes of libraries and vocabulary for a model with this header."""
    tokens, merges = (gguf.metadata.length(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    kind = gguf.metadata.text("tokenizer.ggml.model")
    return LIBRARIES + tokens * (_TREES if kind in {"t5", "rwkv"} else _TOKEN) + merges * _MERGE
