"""On what llama.cpp computes, and why not on a GPU, in words."""

import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lllms_core.types import Device
from lllms_core.values.sizes import human_size

WHEELS = "https://abetlen.github.io/llama-cpp-python/whl/"
"""Where llama-cpp-python's authors publish wheels, by kind of GPU."""
_LIBRARY = "llama-cpp-python"
NO_SUPPORT = "llama.cpp is built without GPU support"
_BACKEND = re.compile(r"ggml-([a-z]+)")
_SEEN = (
    ("/proc/driver/nvidia/version", "an NVIDIA GPU", "cu124"),
    ("/dev/kfd", "an AMD GPU", "rocm72"),
    ("/dev/dri/renderD128", "a GPU", "vulkan"),
)
"""Files of drivers, whose they are, and the kind of wheel for them; the first that is here counts."""


def has_gpu() -> bool:
    """Whether llama.cpp was built for a GPU; the library itself is not imported."""
    found = find_spec("llama_cpp")
    folders = [] if found is None else [Path(one) / "lib" for one in found.submodule_search_locations or ()]
    kinds = [_BACKEND.search(file.name) for folder in folders for file in folder.glob("*ggml-*")]
    return any(kind[1] not in {"base", "blas", "cpu", "rpc"} for kind in kinds if kind)


def told(devices: Sequence[Device] | None, layers: int | Literal["auto"] = -1, of: int = 0, experts: int = 0) -> str:
    """Say where models compute that have this many layers on GPUs, `of` so many if that is known.

    `devices` are None in a build without GPU support. `experts`: the layers whose experts are in main memory.
    """
    if devices is None:
        return f"CPU ({NO_SUPPORT})"
    if not devices:
        return "CPU (llama.cpp is built for GPUs, but finds none; check the driver)"
    names = ", ".join(f"{one.name} ({human_size(one.total)})" for one in devices)
    if layers == 0 and of:
        return f"CPU (no layer fits into the memory that is free on the GPU {names})"
    if layers == 0:
        return f"CPU (gpu_layers is 0; there is the GPU {names})"
    if layers == "auto":
        return f"GPU {names}, with as many layers as fit"
    text = f"GPU {names}"
    if 0 <= layers < of or (layers > 0 and not of):
        text += f" with {layers} {f'of {of} layers' if of else 'layers at most'}, and CPU"
    return f"{text}; experts of {experts} layers on the CPU" if experts else text


def way_out() -> str:
    """Return how to get a build for the GPU of this machine, or where that is written."""
    seen = ("a GPU", "metal") if sys.platform == "darwin" and platform.machine() == "arm64" else None
    seen = seen or next(((what, kind) for file, what, kind in _SEEN if Path(file).exists()), None)
    if seen is None:
        return "no GPU is seen here (lllms-llamacpp's README says how to use one)"
    return f"to use {seen[0]} that is seen here: {install_line(seen[1])}"


def install_line(kind: str) -> str:
    """Return the command that installs a build for a kind of GPU, within the bounds of this package."""
    return (
        f"pip install --force-reinstall --no-deps --only-binary llama-cpp-python --extra-index-url {WHEELS}{kind} "
        f'"{_requirement()}"'
    )


def _requirement() -> str:
    """Return what this package needs of llama-cpp-python, with the bounds in a fixed order."""
    try:
        needed = requires("lllms-llamacpp") or []
    except PackageNotFoundError:
        needed = []
    bounds = next((one.removeprefix(_LIBRARY) for one in needed if one.startswith(_LIBRARY)), "")
    return _LIBRARY + ",".join(sorted(bounds.replace(" ", "").split(",")))
