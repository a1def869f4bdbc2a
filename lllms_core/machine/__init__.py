"""The machine: the cores that this process may use, their share that others leave it, its memory and its files."""

from lllms_core.machine.files import at_home, decode_text, open_regular, read_regular, read_text
from lllms_core.machine.identity import file_identity
from lllms_core.machine.memory import available_memory, cgroup_free, cgroup_memory, free_memory, usable_memory
from lllms_core.machine.processes import private_bytes, private_memory
from lllms_core.machine.processors import (
    CpuWatch,
    available_cores,
    busy_ticks,
    cgroup_cores,
    processor_features,
    usable_cpus,
    yield_quickly,
)

__all__ = [
    "CpuWatch",
    "at_home",
    "available_cores",
    "available_memory",
    "busy_ticks",
    "cgroup_cores",
    "cgroup_free",
    "cgroup_memory",
    "decode_text",
    "file_identity",
    "free_memory",
    "open_regular",
    "private_bytes",
    "private_memory",
    "processor_features",
    "read_regular",
    "read_text",
    "usable_cpus",
    "usable_memory",
    "yield_quickly",
]
