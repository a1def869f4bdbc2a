"""The parts of a model's header that determine its memory."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from lllms_core.gguf import GGUF, TensorInfo

_RECURRENT = ("ssm_", "time_mix_", "shortconv.")
"""Prefixes of the tensors of layers with a state."""


@frozen
class Layer:
    """The tensors of one layer, by their names without `blk.N.` and `.weight`."""

    tensors: Mapping[str, TensorInfo]

    def rows(self, *names: str) -> int:
        """Return how many numbers these matrices output; absent ones count 0."""
        return sum(self.tensors[name].shape[1] for name in names if name in self.tensors)

    def columns(self, name: str) -> int:
        """Return how many numbers a matrix takes as input."""
        return self.tensors[name].shape[0] if name in self.tensors else 0

    @property
    def recurrent(self) -> bool:
        """Whether it keeps a state of fixed size."""
        return any(name.startswith(_RECURRENT) for name in self.tensors)


@frozen
class Network:
    """The parts of a header that the estimates use."""

    gguf: GGUF
    layers: tuple[Layer, ...]
    caching: int
    """The number of layers, from the first, that have a KV cache of their own."""
    width: int
    vocabulary: int
    heads: int
    tied: int
    """Bytes of the embedding if it is also the output; 0 if there is a matrix for that."""

    def number(self, name: str, default: int = 0) -> int:
        """Return a hyperparameter."""
        value = self.gguf.hyperparameter(name)
        return default if value is None else value

    @property
    def recurrent(self) -> bool:
        """Whether any layer is."""
        return any(layer.recurrent for layer in self.layers)


def read_network(parts: Sequence[GGUF]) -> Network:
    """Return the parts of a model in one or more files, the first of which has the metadata."""
    gguf = parts[0]
    tensors = {tensor.name: tensor for part in parts for tensor in part.tensors}
    # Layers that predict further tokens come last, and are not loaded.
    count = (gguf.hyperparameter("block_count") or 0) - (gguf.hyperparameter("nextn_predict_layers") or 0)
    layers: dict[int, dict[str, TensorInfo]] = {}
    for name, tensor in tensors.items():
        block, _, rest = name.removeprefix("blk.").partition(".")
        if name.startswith("blk.") and block.isdecimal() and int(block) < count and len(tensor.shape) > 1:
            layers.setdefault(int(block), {})[rest.removesuffix(".weight")] = tensor
    embedding = tensors.get("token_embd.weight")
    return Network(
        gguf,
        tuple(Layer(layer) for _, layer in sorted(layers.items())),
        max(0, count - (gguf.hyperparameter("attention.shared_kv_layers") or 0)),
        gguf.hyperparameter("embedding_length") or 0,
        embedding.shape[1] if embedding is not None and len(embedding.shape) > 1 else 0,
        gguf.hyperparameter("attention.head_count") or 1,
        embedding.size if embedding is not None and "output.weight" not in tensors else 0,
    )
