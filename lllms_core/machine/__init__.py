"""The machine: the cores that this process may use, the share that others leave of them, its memory and its files."""

from lllms_core.machine.files import at_home, open_regular, read_regular
from lllms_core.machine.identity import file_identity
from lllms_core.machine.memory import (
    available_memory,
    cgroup_free,
    cgroup_memory,
    free_memory,
    lack_of_memory,
    usable_memory,
)
from lllms_core.machine.processors import (
    CpuWatch,
    available_cores,
    busy_ticks,
    cgroup_cores,
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
    "file_identity",
    "free_memory",
    "lack_of_memory",
    "open_regular",
    "read_regular",
    "usable_cpus",
    "usable_memory",
    "yield_quickly",
]
