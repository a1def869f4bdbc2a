"""The memory of a model on GPUs: how an estimate is spread over main memory and each of them; nothing is loaded.

The embedding of the tokens stays in main memory, as do masks and logits. The memory that a driver takes in each process
is not counted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve, frozen

from lllms_core.gguf import GGUF, TensorInfo
from lllms_core.types import Memory
from lllms_llamacpp.drafts import draft_options, draft_parts
from lllms_llamacpp.gpus import Gpu, chosen, main_device
from lllms_llamacpp.layout import Layout, Parts, Share, distribute, fit_layers
from lllms_llamacpp.memory import Buffers, buffers, cache_sizes, drafts_for, estimate_alone, with_draft
from lllms_llamacpp.network import Network, read_network
from lllms_llamacpp.options import CPU, Draft, Options
from lllms_llamacpp.repacking import kinds_here, repacked

_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")


def estimate_on(parts: Sequence[GGUF], options: Options, gpus: Sequence[Gpu] | None) -> Memory:
    """Return the memory of a model on these GPUs, and of its draft model, from settled options.

    `gpus` are None in a build without GPU support, where options about them have no effect. Raises `ModelLoadFailed`
    for options that name no GPU of these.
    """
    memory = _spread(parts, options, gpus)
    if (draft := drafts_for(parts, options)) is None:
        return memory
    return with_draft(memory, _spread(draft_parts(draft.draft), draft_options(options, draft), gpus))


def settle_layers(
    parts: Sequence[GGUF], options: Options, gpus: Sequence[Gpu], rooms: Mapping[str, int],
) -> Options:
    """Return the options with numbers for what is "auto" of the layers on GPUs with these `rooms`, in bytes.

    The others are settled already. Raises `ModelLoadFailed` for options that name no GPU of these.
    """
    devices = chosen(options, gpus)
    left = {one.name: rooms[one.name] for one in devices}
    if (draft := drafts_for(parts, options)) is not None:
        header, small = draft_parts(draft.draft), draft_options(options, draft)
        taken = _on_gpus(header, evolve(small, gpu_layers=-1), gpus)
        if draft.gpu_layers == "auto":
            fits = options.gpu_layers != 0 and bool(taken) and all(size <= left[name] for name, size in taken.items())
            draft = evolve(draft, gpu_layers=-1 if fits else 0)
            options = evolve(options, speculation=draft)
        taken = _on_gpus(header, draft_options(options, draft), gpus)
        left = {name: max(0, room - taken.get(name, 0)) for name, room in left.items()}
    if options.gpu_layers != "auto":
        return evolve(options, cpu_moe=experts_left(parts, options))
    if options.split_mode == "none" and devices:
        name = main_device(options, devices).name
        left = {name: left[name]}
    tensors = _Tensors.read(parts, options)
    shares = [Share(name, size) for name, size in zip(left, _padded(options, len(left)), strict=True)]
    experts = None if options.cpu_moe == "auto" else experts_left(parts, options)
    layout = fit_layers(
        tensors.parts(options), left, shares if options.tensor_split else (), experts=experts,
    )
    if len(layout.shares) > 1:
        options = evolve(options, tensor_split=tuple(one.size for one in layout.shares))
    everything = layout.layers > len(tensors.network.layers)
    return evolve(
        options, gpu_layers=-1 if everything else layout.layers, cpu_moe=layout.experts_left if layout.layers else 0,
    )


def experts_left(parts: Sequence[GGUF], options: Options) -> int:
    """Return how many layers, from the first, have their experts in main memory; 0 without experts."""
    if options.cpu_moe == "auto" or options.cpu_moe is False:
        return 0
    count = len(read_network(parts).layers)
    return count if options.cpu_moe is True else min(count, options.cpu_moe)


def without_gpus(parts: Sequence[GGUF], options: Options) -> Options:
    """Return the options with numbers for the layers, if there are no GPUs to use."""
    if isinstance(options.speculation, Draft) and options.speculation.gpu_layers == "auto":
        options = evolve(options, speculation=evolve(options.speculation, gpu_layers=0))
    layers = options.gpu_layers
    if layers == "auto":
        layers = -1 if uses_gpus(options) else 0
    return evolve(options, gpu_layers=layers, cpu_moe=experts_left(parts, options))


def layers_on_gpus(parts: Sequence[GGUF], options: Options) -> tuple[int, int, int]:
    """Return how many layers settled options put on GPUs, of how many, and how many have their experts elsewhere."""
    network = read_network(parts)
    return _used(options, network), len(network.layers) + 1, experts_left(parts, options) if has_experts(parts) else 0


def uses_gpus(options: Options) -> bool:
    """Whether a model with settled options uses GPUs, if there are any."""
    elsewhere = any(buffer != CPU for buffer in options.override_tensors.values())
    return options.devices != () and (options.gpu_layers != 0 or options.op_offload is True or elsewhere)


def looks_for_gpus(options: Options) -> bool:
    """Whether a load needs to know the GPUs; looking takes some memory of each."""
    draft = options.speculation
    drafts = isinstance(draft, Draft) and draft.gpu_layers not in ("auto", 0)
    return uses_gpus(options) or (drafts and options.devices != ())


def offloads(options: Options) -> bool:
    """Whether large steps bring weights in main memory to a GPU."""
    return options.gpu_layers != 0 if options.op_offload == "auto" else options.op_offload


def _spread(parts: Sequence[GGUF], options: Options, gpus: Sequence[Gpu] | None) -> Memory:
    """Return the estimate of one model on these GPUs."""
    memory = estimate_alone(parts, options)
    found = _on_gpus(parts, options, gpus)
    if not found:
        return memory
    tensors = _Tensors.read(parts, options)
    layers, left = _used(options, tensors.network), experts_left(parts, options)
    here = [one for one in tensors.all if tensors.in_main(one, layers, left)]
    # The output is on a GPU, even if it is a copy of the embedding.
    _, more = repacked(tensors.all, kinds_here())
    copied, again = repacked(here, kinds_here())
    moved = sum(one.size for one in tensors.all) - sum(one.size for one in here)
    kv = sum(tensors.kv[len(tensors.kv) + 1 - layers :]) if options.kv_offload and layers > 1 else 0
    # Without help, what has weights or a cache in main memory is computed there.
    away = options.kv_offload and layers > len(tensors.kv) and not left and not any(map(tensors.stays, here))
    host = tensors.buffers.host if away or offloads(options) else memory.compute
    if away and len(chosen(options, gpus or ())) > 1:
        host += tensors.parts(options).copies
    return evolve(
        memory, weights=memory.weights - more - moved + (again if layers == 0 else 0), kv=memory.kv - kv, compute=host,
        longest=min(memory.longest, host), copied=copied - (again if layers else 0), offloaded=True,
        device=sum(found.values()), devices=found,
    )


def _on_gpus(parts: Sequence[GGUF], options: Options, gpus: Sequence[Gpu] | None) -> dict[str, int]:
    """Return what a model takes of each GPU."""
    found = chosen(options, gpus) if gpus is not None and uses_gpus(options) else ()
    if not found:
        return {}
    tensors = _Tensors.read(parts, options)
    if options.split_mode == "none":
        shares = [Share(main_device(options, found).name, 1)]
    elif options.tensor_split:
        sizes = _padded(options, len(found))
        shares = [Share(one.name, size) for one, size in zip(found, sizes, strict=True)]
    else:
        shares = [Share(one.name, one.free) for one in found]
    layout = Layout(_used(options, tensors.network), experts_left(parts, options), tuple(shares))
    return distribute(tensors.parts(options), layout)


def _padded(options: Options, count: int) -> list[float]:
    """Return a share for each GPU; those without one get nothing."""
    return [*options.tensor_split, *[0.0] * count][:count]


def _used(options: Options, network: Network) -> int:
    """Return how many layers are on GPUs, the output among them; all, if nobody has chosen yet."""
    count = len(network.layers) + 1
    return count if options.gpu_layers == "auto" or options.gpu_layers < 0 else min(options.gpu_layers, count)


@frozen
class _Tensors:
    """The tensors of a model, and where the options put them."""

    all: tuple[TensorInfo, ...]
    network: Network
    overrides: tuple[tuple[re.Pattern[str], str], ...]
    kv: tuple[int, ...]
    buffers: Buffers

    @classmethod
    def read(cls, parts: Sequence[GGUF], options: Options) -> "_Tensors":
        """Read them from the headers."""
        network = read_network(parts)
        return cls(
            tuple(tensor for part in parts for tensor in part.tensors), network,
            tuple((re.compile(pattern), buffer) for pattern, buffer in options.override_tensors.items()),
            tuple(cache_sizes(parts, network, options)), buffers(parts, network, options),
        )

    def override(self, tensor: TensorInfo) -> str | None:
        """Return where an option puts this tensor."""
        return next((buffer for pattern, buffer in self.overrides if pattern.search(tensor.name)), None)

    def layer(self, tensor: TensorInfo) -> int:
        """Return the number of a tensor's layer, at most that of the output; -1 for the embedding."""
        output = len(self.network.layers)
        block, _, _ = tensor.name.removeprefix("blk.").partition(".")
        if tensor.name.startswith("blk.") and block.isdecimal():
            return min(output, int(block))
        return output if tensor.name.startswith("output") else -1

    def in_main(self, tensor: TensorInfo, used: int, experts: int) -> bool:
        """Whether a tensor is in main memory if `used` layers are on GPUs, but not the experts of the first ones."""
        if (where := self.override(tensor)) is not None:
            return where == CPU
        layer = self.layer(tensor)
        expert = bool(_EXPERTS.search(tensor.name))
        return layer < 0 or layer <= len(self.network.layers) - used or (expert and layer < experts)

    def stays(self, tensor: TensorInfo) -> bool:
        """Whether an option keeps a layer's tensor in main memory."""
        return self.override(tensor) == CPU and 0 <= self.layer(tensor) < len(self.network.layers)

    def parts(self, options: Options) -> Parts:
        """Return what GPUs may take."""
        count = len(self.network.layers) + 1
        weights, experts, largest, fixed = [0] * count, [0] * count, [0] * count, dict[str, int]()
        largest_fixed = 0
        for tensor in self.all:
            layer, where = self.layer(tensor), self.override(tensor)
            if where is not None and where != CPU:
                fixed[where] = fixed.get(where, 0) + tensor.size
            elif where is not None and 0 <= layer < count - 1:
                largest_fixed = max(largest_fixed, tensor.size)
            elif where is None and layer >= 0:
                (experts if _EXPERTS.search(tensor.name) else weights)[layer] += tensor.size
                largest[layer] = max(largest[layer], tensor.size)
        weights[-1] += self.network.tied
        by_rows = options.split_mode == "row"
        at_once = options.split_mode == "layer" and options.kv_offload and not options.override_tensors
        return Parts(
            tuple(weights), tuple(experts), (*(self.kv if options.kv_offload else [0] * (count - 1)), 0),
            tuple(largest), largest_fixed, self.buffers.device, self.buffers.inputs,
            self.buffers.copies if at_once else 0, fixed, offloads(options), by_rows,
        )


def no_match(parts: Sequence[GGUF], options: Options) -> Iterator[str]:
    """Yield the patterns of `override_tensors` that match no tensor."""
    for pattern in options.override_tensors:
        if not any(re.search(pattern, tensor.name) for part in parts for tensor in part.tensors):
            yield pattern


def has_experts(parts: Sequence[GGUF]) -> bool:
    """Whether the model is a mixture of experts."""
    return any(_EXPERTS.search(tensor.name) for part in parts for tensor in part.tensors)
