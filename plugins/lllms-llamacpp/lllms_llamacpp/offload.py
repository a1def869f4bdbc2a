"""Hands the options for GPUs to llama.cpp; imports the native library.

llama.cpp keeps pointers to the lists for as long as a model lives. Each list is made once, and never freed.
"""

import ctypes
from collections.abc import Sequence
from functools import cache

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml

from lllms_llamacpp import hardware
from lllms_llamacpp.device_list import handles, list_devices
from lllms_llamacpp.device_memory import offloads, uses_gpus
from lllms_llamacpp.devices import read_gpu
from lllms_llamacpp.gpus import Gpu, chosen, main_device
from lllms_llamacpp.options import CPU, Options

_SPLIT_MODES = {
    "none": llama.LLAMA_SPLIT_MODE_NONE, "layer": llama.LLAMA_SPLIT_MODE_LAYER, "row": llama.LLAMA_SPLIT_MODE_ROW,
}


class Override(ctypes.Structure):
    """llama.cpp's `llama_model_tensor_buft_override`."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer", ctypes.c_void_p))


def own_gpus() -> Sequence[Gpu]:
    """Return the GPUs that this process, a worker, sees itself; none in a build without GPU support."""
    return tuple(map(read_gpu, list_devices(libggml))) if hardware.has_gpu() else ()


def place(
    model: llama.llama_model_params, context: llama.llama_context_params, options: Options,
    gpus: Sequence[Gpu] | None = None, ggml: ctypes.CDLL = libggml,
) -> None:
    """Set the parameters of a model and its context that say where they are, from settled options.

    `gpus` are those that ggml has. Without any, options about them are left out. Raises `ModelLoadFailed` for options
    that name no GPU of these.
    """
    uses = uses_gpus(options)
    if gpus is None:
        gpus = own_gpus() if uses else ()
    model.n_gpu_layers = -1 if options.gpu_layers == "auto" else options.gpu_layers
    model.split_mode = _SPLIT_MODES[options.split_mode]
    context.offload_kqv, context.op_offload = options.kv_offload, offloads(options)
    found = chosen(options, gpus) if gpus and uses else ()
    names = tuple(one.name for one in found)
    if not uses and (gpus or hardware.has_gpu()):
        # Otherwise llama.cpp would take memory of each GPU, without a use for it.
        model.devices = _devices((), ggml)
    elif found and (options.devices is not None or options.tensor_split or options.main_gpu is not None):
        model.devices = _devices(names, ggml)
        model.main_gpu = names.index(main_device(options, found).name)
    if options.tensor_split:
        model.tensor_split = _tensor_split(tuple(options.tensor_split))
    if overrides := _overrides(options, names):
        model.tensor_buft_overrides = _buffers(overrides, ggml)


def _overrides(options: Options, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return patterns of tensors' names, and the buffers for these tensors."""
    found = [(pattern, where) for pattern, where in options.override_tensors.items() if where == CPU or where in names]
    if options.cpu_moe != "auto" and options.cpu_moe:
        layers = "|".join(map(str, range(options.cpu_moe)))
        found.append((rf"blk\.({layers})\.ffn_(up|down|gate|gate_up)_(ch|)exps", CPU))
    return tuple(found)


@cache
def _devices(names: tuple[str, ...], ggml: ctypes.CDLL) -> int:
    """Return the address of a list of ggml's devices, which ends with a null."""
    known = handles(ggml) if names else {}
    return _kept((ctypes.c_void_p * (len(names) + 1))(*(known[name] for name in names)))


@cache
def _tensor_split(shares: tuple[float, ...]) -> "ctypes.Array[ctypes.c_float]":
    """Return a list with a share for each GPU that llama.cpp can use at most."""
    return (ctypes.c_float * max(len(shares), int(llama.llama_max_devices())))(*shares)


@cache
def _buffers(overrides: tuple[tuple[str, str], ...], ggml: ctypes.CDLL) -> int:
    """Return the address of a list of overrides, which ends with an empty one."""
    ggml.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    of_device = ggml.ggml_backend_dev_buffer_type
    of_device.argtypes, of_device.restype = [ctypes.c_void_p], ctypes.c_void_p
    known = handles(ggml)
    entries = [
        Override(pattern.encode(), ggml.ggml_backend_cpu_buffer_type() if where == CPU else of_device(known[where]))
        for pattern, where in overrides
    ]
    return _kept((Override * (len(entries) + 1))(*entries))


_List = ctypes.Array[Override] | ctypes.Array[ctypes.c_void_p]
_arrays: list[_List] = []


def _kept(array: _List) -> int:
    _arrays.append(array)
    return ctypes.addressof(array)
