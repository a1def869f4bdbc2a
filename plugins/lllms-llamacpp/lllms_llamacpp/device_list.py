"""Prints the GPUs that llama.cpp would use, and their memory, as JSON; a process that `devices` starts."""

import ctypes
import json
from collections.abc import Iterator

GPU, INTEGRATED = 1, 2
"""ggml's kinds of devices; those that share the main memory are used only if there are no others."""


def list_devices(ggml: ctypes.CDLL) -> list[dict[str, str | int]]:
    """Return name, total and free memory of the GPUs that llama.cpp would use, in its order."""
    found = [*_all(ggml)]
    kind = GPU if any(kind == GPU for kind, _ in found) else INTEGRATED
    return [device for of, device in found if of == kind]


def _all(ggml: ctypes.CDLL) -> Iterator[tuple[int, dict[str, str | int]]]:
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], ctypes.c_void_p
    ggml.ggml_backend_dev_type.argtypes, ggml.ggml_backend_dev_type.restype = [ctypes.c_void_p], ctypes.c_int
    ggml.ggml_backend_dev_name.argtypes, ggml.ggml_backend_dev_name.restype = [ctypes.c_void_p], ctypes.c_char_p
    size = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    ggml.ggml_backend_dev_memory.restype = None
    for number in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(number)
        kind = ggml.ggml_backend_dev_type(device)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if kind in {GPU, INTEGRATED}:
            ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = ggml.ggml_backend_dev_name(device).decode(errors="replace")
        yield kind, {"name": name, "total": total.value, "free": free.value}


def main() -> None:
    """Print them, in the last line."""
    # Only this order loads all that the library depends on.
    import llama_cpp.llama_cpp as llama
    from llama_cpp._ggml import libggml

    llama.llama_backend_init()
    print(json.dumps(list_devices(libggml)), flush=True)  # noqa: T201  # this is its answer


if __name__ == "__main__":
    main()
