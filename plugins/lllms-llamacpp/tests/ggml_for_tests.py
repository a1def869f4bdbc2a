"""A stand-in for ggml's list of devices, as C functions, and what llama.cpp is given."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
from lllms_llamacpp.offload import Override

CPU_BUFFER = 1000
"""The handle of the buffers in main memory; that of a device's is its own and this."""


class FakeLibrary:
    """ggml with these devices, by name and kind; their handles are 1, 2, ..."""

    def __init__(self, *found: tuple[str, int]) -> None:
        @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t))
        def memory(device: int, free: Any, total: Any) -> None:
            free[0], total[0] = device, 2**40 + device

        names = [name.encode() for name, _ in found]
        self.ggml_backend_dev_memory = memory
        self.ggml_backend_dev_count = ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: len(found))
        self.ggml_backend_dev_get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(lambda number: number + 1)
        self.ggml_backend_dev_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda one: found[one - 1][1])
        self.ggml_backend_dev_name = Function(lambda one: names[one - 1])
        self.ggml_backend_dev_buffer_type = Function(lambda one: CPU_BUFFER + one)
        self.ggml_backend_cpu_buffer_type = Function(lambda: CPU_BUFFER)


class Function:
    """A function that takes C's declarations."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: int) -> Any:
        return self._function(*arguments)


def devices_of(params: llama.llama_model_params) -> list[int] | None:
    """The handles in a model's list of devices; None if llama.cpp chooses."""
    if not params.devices:
        return None
    listed = ctypes.cast(params.devices, ctypes.POINTER(ctypes.c_void_p))
    return until_null(lambda place: listed[place])


def overrides_of(params: llama.llama_model_params) -> list[tuple[str, int]]:
    """The patterns of a model's overrides, and the handles of their buffers."""
    if not params.tensor_buft_overrides:
        return []
    listed = ctypes.cast(params.tensor_buft_overrides, ctypes.POINTER(Override))
    patterns = until_null(lambda place: listed[place].pattern)
    return [(pattern.decode(), listed[place].buffer) for place, pattern in enumerate(patterns)]


def shares_of(params: llama.llama_model_params) -> Sequence[float]:
    """The shares that a model gives to all devices that llama.cpp can use at most."""
    count = int(llama.llama_max_devices()) if params.tensor_split else 0
    return [params.tensor_split[place] for place in range(count)]


def until_null(read: Callable[[int], Any]) -> list[Any]:
    """Read a list that ends with a null."""
    found: list[Any] = []
    while (value := read(len(found))) is not None:
        found.append(value)
    return found
