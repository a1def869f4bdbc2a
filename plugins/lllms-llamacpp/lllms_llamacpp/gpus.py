"""The GPUs that a model uses, of those that llama.cpp finds; pure."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from lllms_core.errors import ModelLoadFailed
from lllms_core.types import Device
from lllms_llamacpp.options import CPU, Options

WITHOUT_ROWS = ("Vulkan", "Metal", "MTL")
"""The beginnings of the names of GPUs that cannot have some rows of a matrix: llama.cpp refuses the load."""
LEAST_SPARE = 2**29
SPARE = 10
"""A fraction of a GPU's memory: one part in this many, but at least `LEAST_SPARE`, is left free if nobody has said how
much a model may take."""


@frozen
class Gpu:
    """A GPU that llama.cpp finds."""

    device: Device
    default: bool = True
    """Whether it is used if no option names GPUs: integrated ones are not beside others."""


def chosen(options: Options, gpus: Sequence[Gpu]) -> Sequence[Device]:
    """Return the GPUs for a model with these options, in order.

    Raises `ModelLoadFailed` if an option names one that does not exist, or has more shares than there are.
    """
    if options.devices is None:
        found = [one.device for one in gpus if one.default]
    else:
        found = [_find("devices", one, [gpu.device for gpu in gpus]) for one in options.devices]
    if len({one.name for one in found}) < len(found):
        raise ModelLoadFailed(f"options.devices names {_names(found)}; name each GPU once")
    for buffer in options.override_tensors.values():
        if buffer != CPU and buffer not in {one.name for one in found}:
            raise ModelLoadFailed(
                f"options.override_tensors: the model uses no GPU {buffer!r}; choose from CPU, {_names(found)}",
            )
    if found and len(options.tensor_split) > len(found):
        raise ModelLoadFailed(
            f"options.tensor_split has {len(options.tensor_split)} shares, but the model uses {_names(found)}; "
            "give each GPU one share",
        )
    if options.split_mode == "row" and (unable := [one for one in found if one.name.startswith(WITHOUT_ROWS)]):
        raise ModelLoadFailed(f'options.split_mode is "row", which {_names(unable)} cannot do; set it to "layer"')
    if found:
        main_device(options, found)
    return found


def main_device(options: Options, found: Sequence[Device]) -> Device:
    """Return the GPU that `main_gpu` names among those of a model. Raises `ModelLoadFailed` if it is none of them."""
    return found[0] if options.main_gpu is None else _find("main_gpu", options.main_gpu, found)


def rooms_on(gpus: Sequence[Gpu], given: Mapping[str, int] | None) -> dict[str, int]:
    """Return the bytes that a model may take of each GPU: what is `given`, else what is free but for a reserve."""
    given = given or {}
    return {one.device.name: given.get(one.device.name, _free(one.device)) for one in gpus}


def _free(device: Device) -> int:
    reserve = min(max(device.total // SPARE, LEAST_SPARE), device.total // 2)
    return max(0, device.free - reserve)


def _find(option: str, wanted: str | int, among: Sequence[Device]) -> Device:
    for place, one in enumerate(among):
        if wanted in (one.name, place):
            return one
    raise ModelLoadFailed(f"options.{option}: there is no GPU {wanted!r}; choose from {_names(among)}")


def _names(devices: Sequence[Device]) -> str:
    return ", ".join(f"{one.name} ({place})" for place, one in enumerate(devices)) or "no GPU: llama.cpp finds none"
