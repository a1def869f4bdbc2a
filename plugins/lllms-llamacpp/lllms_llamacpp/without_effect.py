"""Options for GPUs that have no effect, on this build, these GPUs, or this model."""

from collections.abc import Callable, Iterator, Sequence

from attrs import fields

from lllms_core.gguf import GGUF
from lllms_core.types import Finding
from lllms_llamacpp import hardware
from lllms_llamacpp.device_memory import has_experts, no_match
from lllms_llamacpp.gpus import Gpu, chosen
from lllms_llamacpp.hardware import NO_SUPPORT, way_out
from lllms_llamacpp.options import Options

_FOR_GPUS = (
    "devices", "split_mode", "tensor_split", "main_gpu", "kv_offload", "op_offload", "cpu_moe", "override_tensors",
)


def without_effect(
    parts: Sequence[GGUF], options: Options, gpus: Callable[[], Sequence[Gpu]] | None = None,
) -> Iterator[Finding]:
    """Yield a warning for each option without effect; `gpus` looks for the GPUs, if need be."""
    for text in _texts(parts, options, gpus):
        yield Finding(text, fatal=False)


def _texts(
    parts: Sequence[GGUF], options: Options, gpus: Callable[[], Sequence[Gpu]] | None,
) -> Iterator[str]:
    mixture = has_experts(parts)
    if not hardware.has_gpu():
        yield from _without_support(options, mixture=mixture)
    elif options.main_gpu is not None and options.split_mode == "layer":
        yield (
            f'main_gpu is {options.main_gpu!r}, which has no effect with split_mode "layer"; set split_mode to "none" '
            "for this GPU alone, or name it in devices"
        )
    if options.cpu_moe not in (False, "auto") and not mixture:
        given = str(options.cpu_moe).lower()
        yield f"cpu_moe is {given}, which has no effect: the model is no mixture of experts; leave it out"
    for pattern in no_match(parts, options):
        yield f"override_tensors: no tensor of the model has a name that {pattern!r} matches; correct or remove it"
    if gpus is not None and hardware.has_gpu() and options.tensor_split:
        names = [one.name for one in chosen(options, gpus())]
        if len(names) == 1:
            yield f"tensor_split has no effect: the model uses one GPU, {names[0]}; leave it out"


def _without_support(options: Options, *, mixture: bool) -> Iterator[str]:
    if options.gpu_layers not in ("auto", -1, 0):
        yield f"gpu_layers is {options.gpu_layers}, but {NO_SUPPORT}, so that all layers are on the CPU; {way_out()}"
    plain = {one.name: one.default for one in fields(Options)} | {"override_tensors": {}, "devices": ()}
    found = [
        name for name in _FOR_GPUS
        if (value := getattr(options, name)) is not None and value != plain[name]
        and (name != "cpu_moe" or (mixture and value is not False))
    ]
    if found:
        yield f"{', '.join(found)} {'have' if len(found) > 1 else 'has'} no effect: {NO_SUPPORT}; {way_out()}"
