"""Byte-level BPE vocabularies, with the pre-tokenizers of several model families."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as llama
import numpy as np
from lllms_llamacpp.native import load_model
from lllms_llamacpp.vocabulary import Vocabulary

PRE_TOKENIZERS = ("llama-bpe", "gpt-4o", "deepseek-llm", "default")
"""The last two use the C++ library's regular expressions, which recurse for each character."""
MERGES = (
    "t h", "th e", "Ġ the", "a a", "aa aa", "aaaa aaaa", "Ġ a", "i n", "e r", "o n", "q u", "Ġ qu", "qu i", "o w",
    "Ċ Ċ", "Ġ Ġ", "ĠĠ ĠĠ", "1 2", "ä ½", "ð Ł",
)
WIDTH = 32
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def alphabet() -> list[str]:
    """A character for each byte, in GPT-2's spelling."""
    others = count(256)
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def vocabulary_of(path: Path, pre: str) -> Vocabulary:
    """Write a vocabulary to a file and load it; it is never freed."""
    params = llama.llama_model_default_params()
    params.vocab_only = True
    return Vocabulary(load_model(str(write_bpe(path, pre)), params, lambda _: None))


def write_bpe(path: Path, pre: str | None, more: Sequence[str] = ()) -> Path:
    """Write a single-layer model with such a vocabulary; without `pre`, in the form that older programs wrote."""
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [*alphabet(), *(merge.replace(" ", "") for merge in MERGES), *more, *CONTROL]
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - len(CONTROL)) + [gguf.TokenType.CONTROL] * len(CONTROL)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(MERGES))
    writer.add_eos_token_id(len(tokens) - 1)
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_feed_forward_length):
        add(WIDTH)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for name in ("attn_norm", "ffn_norm", *matrices):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones((WIDTH, WIDTH) if name in matrices else WIDTH, np.float32))
    writer.add_tensor("token_embd.weight", np.eye(len(tokens), WIDTH, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
