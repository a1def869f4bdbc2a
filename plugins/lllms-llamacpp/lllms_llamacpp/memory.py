"""Estimates the memory of a model from the header of its GGUF file; nothing is loaded.

Weights and KV cache are what llama.cpp allocates. Its compute buffer is the largest that any part of the graph needs:
the tensors that are alive at the same time are counted for attention, feed-forward, recurrent layers and logits; the
holes that the allocator leaves between them are estimated from practice.

Each weight counts once. Those that llama.cpp repacks for the processor (Q4_0 and Q4_K on most) are private to each
instance, and their mapped pages, which nobody reads any more, count as free: the system can take them back.
"""

from collections.abc import Iterable, Sequence

from attrs import evolve, frozen

from lllms_core.gguf import GGUF, TENSOR_TYPES
from lllms_core.types import Memory
from lllms_llamacpp.drafts import draft_options, draft_parts
from lllms_llamacpp.network import Layer, Network, read_network
from lllms_llamacpp.options import Draft, Options
from lllms_llamacpp.overhead import overhead
from lllms_llamacpp.pooling import pooling
from lllms_llamacpp.repacking import kinds_here, repacked
from lllms_llamacpp.sizes import Sizes, flash_for_vectors, sizes

_FLOAT = 4
_STREAMS = 3
"""What enters and leaves layers is in main memory this many times."""
_STEPS = 4
"""Steps that llama.cpp has several GPUs work on at once."""
_CELLS = 256
"""The cells of a KV cache are a multiple of this."""
_BLOCKS = {name.lower(): (elements, width) for name, elements, width in TENSOR_TYPES.values()}
_NO_CACHE = frozenset({
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1",
})
"""Architectures that read whole texts and keep nothing of them."""
_NO_LOGITS = _NO_CACHE | {"llama-embed"}
"""Architectures that only embed."""
_ONE_MASK = frozenset({"phi3", "phimoe"})
"""Architectures whose files name a sliding window that llama.cpp does not use."""
_UNNAMED_WINDOW = frozenset({"gemma2", "llama4"})
"""Architectures that have a sliding window even if their file names none."""


def estimate(parts: Sequence[GGUF], options: Options) -> Memory:
    """Return the memory of a model in one or more files, the first of which has the metadata.

    The options are settled (`context.settle`). A draft model counts, too.
    """
    memory = estimate_alone(parts, options)
    if (draft := drafts_for(parts, options)) is None:
        return memory
    return with_draft(memory, estimate_alone(draft_parts(draft.draft), draft_options(options, draft)))


def drafts_for(parts: Sequence[GGUF], options: Options) -> Draft | None:
    """Return the draft model of a model that generates."""
    draft = options.speculation
    return draft if isinstance(draft, Draft) and pooling(parts[0], options) is None else None


def with_draft(memory: Memory, small: Memory) -> Memory:
    """Return the memory of a model and its draft model together."""
    devices = {
        name: memory.devices.get(name, 0) + small.devices.get(name, 0) for name in {**memory.devices, **small.devices}
    }
    return evolve(
        memory, weights=memory.weights + small.weights, kv=memory.kv + small.kv, copied=memory.copied + small.copied,
        compute=memory.compute + small.compute, overhead=memory.overhead + small.overhead,
        offloaded=memory.offloaded or small.offloaded, device=memory.device + small.device, devices=devices,
    )


def estimate_alone(parts: Sequence[GGUF], options: Options) -> Memory:
    """Return the memory of a model without its draft model, if all of it is in main memory."""
    network = read_network(parts)
    embeds, made, flash = _way(parts, network, options)
    compute = _compute(network, made, flash=flash, embeds=embeds)
    # The buffers of a model that embeds grow with the largest pass so far.
    shared = evolve(made, batch=made.shared, micro_batch=min(made.micro_batch, made.shared))
    tensors = [tensor for part in parts for tensor in part.tensors]
    copied, more = repacked(tensors, kinds_here())
    return Memory(
        weights=sum(tensor.size for tensor in tensors) + more,
        kv=sum(kv_by_layer(network, options, made)),
        compute=compute,
        longest=compute - _compute(network, shared, flash=flash, embeds=embeds),
        overhead=overhead(parts[0]),
        mapped=options.use_mmap,
        copied=copied,
    )


def _cells(made: Sizes) -> int:
    return -(-made.kv_size // _CELLS) * _CELLS


def _way(parts: Sequence[GGUF], network: Network, options: Options) -> tuple[bool, Sizes, bool]:
    """Return whether a model embeds, its sizes, and whether it uses flash attention."""
    embeds = pooling(parts[0], options) is not None
    made = sizes(options, can_trim=not network.recurrent, embeds=embeds)
    return embeds, made, flash_for_vectors(options, made) if embeds else options.flash_attention != "off"


@frozen
class Buffers:
    """The buffers of a model whose layers are on GPUs, in bytes; measured on Vulkan, and at most a sixth more."""

    host: int
    """In main memory: logits, masks, what enters and leaves the layers."""
    device: int
    """On each GPU."""
    inputs: int
    """What each GPU needs in addition while it helps with weights from main memory."""
    copies: int
    """What each GPU, and main memory, need in addition if several GPUs work on several steps at once."""


def buffers(parts: Sequence[GGUF], network: Network, options: Options) -> Buffers:
    """Return the buffers of a model whose layers are on GPUs."""
    embeds, made, flash = _way(parts, network, options)
    cells = _cells(made)
    tokens = min(cells, made.micro_batch)
    read = _read(network, made, embeds=embeds) * _FLOAT
    masks = _masks(network, cells, tokens, flash=flash)
    stream = network.width * tokens * _FLOAT
    compute = _compute(network, made, flash=flash, embeds=embeds)
    work = 0 if flash else scores_in_half(network.heads, cells, tokens) * _attends(network)
    # A GPU has a copy of the masks, but converts no scores.
    device = max(0, compute - read - work)
    host = min(compute, read + masks + _STREAMS * stream)
    if not options.kv_offload and not flash:
        # Attention is computed in main memory, where its scores are.
        device = max((_feed_forward(network, layer) for layer in network.layers), default=0) * tokens * _FLOAT
        host = compute
    return Buffers(host, device, _STREAMS * stream, (_STEPS - 1) * (masks + 2 * stream))


def cache_sizes(parts: Sequence[GGUF], network: Network, options: Options) -> list[int]:
    """Return the bytes of each layer's part of `Memory.kv`."""
    return kv_by_layer(network, options, _way(parts, network, options)[1])


def kv_by_layer(network: Network, options: Options, made: Sizes) -> list[int]:
    """Return the bytes that each layer keeps of requests: keys and values, or its recurrent state."""
    cells = _cells(made)
    found: list[int] = []
    for number, layer in enumerate(network.layers):
        size = _state(network) * made.sequences * _FLOAT if layer.recurrent else 0
        if number < network.caching and network.gguf.architecture not in _NO_CACHE:
            keys, values = _kv_widths(network, layer)
            size += _stored(keys, options.kv_type_k, cells) + _stored(values, options.kv_type_v, cells)
        found.append(size)
    return found


def _stored(width: int, kind: str, cells: int) -> int:
    elements, size = _BLOCKS[kind]
    return width // elements * size * cells


def _kv_widths(network: Network, layer: Layer) -> tuple[int, int]:
    """Return how many numbers a layer stores per token, as keys and as values."""
    if "attn_kv_a_mqa" in layer.tensors:
        if "attn_k_b" in layer.tensors:
            return layer.rows("attn_kv_a_mqa"), 0
        heads = network.heads
        return heads * network.number("attention.key_length"), heads * network.number("attention.value_length")
    if "attn_k" in layer.tensors:
        keys = layer.rows("attn_k")
        return keys, layer.rows("attn_v") or keys
    if "attn_qkv" in layer.tensors and not layer.recurrent:
        both = max(0, layer.rows("attn_qkv") - layer.columns("attn_output"))
        return both // 2, both // 2
    return 0, 0


def _state(network: Network) -> int:
    """Return how many numbers a recurrent layer keeps per sequence."""
    number, width = network.number, network.width
    if head := number("wkv.head_size"):
        return width * (number("token_shift_count", 2) + head)
    if kernel := number("shortconv.l_cache"):
        return width * (kernel - 1)
    past = max(0, number("ssm.conv_kernel") - 1)
    if head := number("kda.head_dim"):
        return network.heads * head * (head + 3 * past)
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    return past * (inner + 2 * number("ssm.group_count") * state) + state * inner


def _compute(network: Network, made: Sizes, *, flash: bool, embeds: bool) -> int:
    cells = _cells(made)
    tokens = min(cells, made.micro_batch)
    parts = [_layer(network, layer, made, tokens, 0 if flash else cells) for layer in _different(network.layers)]
    inside = max(parts, default=0) * tokens * _FLOAT + _masks(network, cells, tokens, flash=flash)
    # The logits are computed after the layers, and then copied to where they are read. A model that could generate
    # computes logits for every token that it embeds.
    vocabulary = 0 if network.gguf.architecture in _NO_LOGITS else network.vocabulary
    outputs = tokens if embeds else min(tokens, made.sequences)
    logits = outputs * (vocabulary + 4 * network.width) if vocabulary else 0
    work = 0 if flash else scores_in_half(network.heads, cells, tokens) * _attends(network)
    return max(inside, logits * _FLOAT) + _read(network, made, embeds=embeds) * _FLOAT + work


def scores_in_half(heads: int, cells: int, tokens: int) -> int:
    """Return the bytes of attention scores that are converted to multiply them with values in half precision.

    That is done without flash attention, in a buffer of the processor's own.
    """
    return heads * cells * tokens * 2


def _attends(network: Network) -> bool:
    """Whether the model has a KV cache that attention reads."""
    return network.gguf.architecture not in _NO_CACHE and any("attn_output" in one.tensors for one in network.layers)


def _read(network: Network, made: Sizes, *, embeds: bool) -> int:
    """Return how many numbers of output are kept until they are read.

    For a model that embeds, llama.cpp reserves a row of logits per token of a pass, even if it computes none.
    """
    if embeds:
        return made.batch * (network.vocabulary + network.width)
    return 0 if network.gguf.architecture in _NO_LOGITS else made.sequences * network.vocabulary


def _different(layers: Iterable[Layer]) -> Iterable[Layer]:
    """Return one layer of each shape."""
    return {frozenset((name, tensor.shape) for name, tensor in one.tensors.items()): one for one in layers}.values()


def _masks(network: Network, cells: int, tokens: int, *, flash: bool) -> int:
    """Return the size of the attention masks in bytes; models with sliding windows have a second one."""
    if not any("attn_output" in layer.tensors for layer in network.layers):
        return 0
    architecture = network.gguf.architecture
    if architecture in _NO_CACHE:
        cells = tokens
    window = network.number("attention.sliding_window") > 0 and architecture not in _ONE_MASK
    masks = 2 if window or architecture in _UNNAMED_WINDOW else 1
    return masks * cells * tokens * (2 if flash else _FLOAT)


def _layer(network: Network, layer: Layer, made: Sizes, tokens: int, scores: int) -> int:
    """Return how many numbers per token are alive at once in the part of a layer that needs most.

    `scores`: the number of cells for which each head keeps a score.
    """
    attention = 0
    if "attn_output" in layer.tensors:
        keys, values = _kv_widths(network, layer)
        # With latent keys, each head works on their full width.
        queries = layer.columns("attn_output") if values else max(layer.columns("attn_output"), network.heads * keys)
        attention = 2 * queries + keys + values + 5 * network.width // 2 + scores * network.heads
    state = _recurrent(network, layer, made, tokens) if layer.recurrent else 0
    return max(attention, _feed_forward(network, layer), state)


def _feed_forward(network: Network, layer: Layer) -> int:
    width = network.width
    entering, inner = layer.rows("ffn_up", "ffn_gate"), layer.columns("ffn_down")
    # Without a gate, the activation overwrites its input.
    dense = entering + (inner if entering > inner else 0)
    # Larger tensors do not fit into the holes that the attention left.
    dense += min(4 * width, max(2 * width, width + inner))
    experts = 0
    if "ffn_down_exps" in layer.tensors:
        used, inner = network.number("expert_used_count", 1), layer.columns("ffn_down_exps")
        experts = used * (layer.rows("ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps") + inner) + 4 * width
        if inner < width:
            experts += (used + 1) * width
    return max(dense, experts)


def _recurrent(network: Network, layer: Layer, made: Sizes, tokens: int) -> int:
    number = network.number
    inner = number("ssm.inner_size")
    convolved = inner + 2 * number("ssm.group_count") * number("ssm.state_size")
    states = made.sequences * number("ssm.state_size") * inner // tokens
    inputs = network.width * (2 if "attn_output" in layer.tensors else 1)
    return inputs + layer.rows("ssm_in", "ssm_x") + 2 * convolved + 2 * inner + states
