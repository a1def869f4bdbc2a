"""The machine: the cores that this process may use, the share that others leave of them, and its files."""

from lllms_core.machine.files import at_home, open_regular, read_regular
from lllms_core.machine.identity import file_identity
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
    "busy_ticks",
    "cgroup_cores",
    "file_identity",
    "open_regular",
    "read_regular",
    "usable_cpus",
    "yield_quickly",
]
