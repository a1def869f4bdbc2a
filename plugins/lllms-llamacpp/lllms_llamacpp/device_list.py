"""Prints the GPUs that llama.cpp would use, and their memory, as JSON; a process that `devices` starts."""

import ctypes
import json
from collections.abc import Iterator

GPU, INTEGRATED = 1, 2
"""ggml's kinds of devices; of those that share the main memory, the first is used if there are no others."""

Told = dict[str, str | int]


def list_devices(ggml: ctypes.CDLL) -> list[Told]:
    """Return name, total and free memory of the GPUs, in ggml's order, and whether llama.cpp uses them by default."""
    size = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    ggml.ggml_backend_dev_memory.restype = None
    gpus = [*_all(ggml)]
    integrated = next((name for kind, _, name in gpus if kind == INTEGRATED), None)
    only = integrated if all(kind != GPU for kind, _, _ in gpus) else None
    found: list[Told] = []
    for kind, device, name in gpus:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        default = kind == GPU or name == only
        found.append({"name": name, "total": total.value, "free": free.value, "default": default})
    return found


def handles(ggml: ctypes.CDLL) -> dict[str, int]:
    """Return ggml's pointers to the GPUs, by their names; no memory of a GPU is taken for that."""
    return {name: handle for _, handle, name in _all(ggml)}


def _all(ggml: ctypes.CDLL) -> Iterator[tuple[int, int, str]]:
    """Yield kind, pointer and name of each GPU."""
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], ctypes.c_void_p
    ggml.ggml_backend_dev_type.argtypes, ggml.ggml_backend_dev_type.restype = [ctypes.c_void_p], ctypes.c_int
    ggml.ggml_backend_dev_name.argtypes, ggml.ggml_backend_dev_name.restype = [ctypes.c_void_p], ctypes.c_char_p
    for number in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(number)
        kind = ggml.ggml_backend_dev_type(device)
        if kind in {GPU, INTEGRATED}:
            yield kind, device, ggml.ggml_backend_dev_name(device).decode(errors="replace")


def main() -> None:
    """Print them, in the last line."""
    # Only this order loads all that the library depends on.
    import llama_cpp.llama_cpp as llama
    from llama_cpp._ggml import libggml

    llama.llama_backend_init()
    print(json.dumps(list_devices(libggml)), flush=True)  # noqa: T201  # this is its answer


if __name__ == "__main__":
    main()
