"""The machine: the cores that this process may use, their share that others leave it, its memory and its files."""

from lllms_core.machine.duties import duties
from lllms_core.machine.files import at_home, decode_text, open_regular, read_regular, read_text
from lllms_core.machine.first_process import Orphans
from lllms_core.machine.identity import file_identity
from lllms_core.machine.memory import available_memory, cgroup_free, cgroup_memory, free_memory, usable_memory
from lllms_core.machine.processes import die_with, private_bytes, private_memory
from lllms_core.machine.processors import (
    CpuWatch,
    available_cores,
    busy_ticks,
    cgroup_cores,
    processor_features,
    usable_cpus,
    yield_quickly,
)
from lllms_core.machine.service_manager import host_and_port, notify, notify_reload, passed_listener

__all__ = [
    "CpuWatch",
    "Orphans",
    "at_home",
    "available_cores",
    "available_memory",
    "busy_ticks",
    "cgroup_cores",
    "cgroup_free",
    "cgroup_memory",
    "decode_text",
    "die_with",
    "duties",
    "file_identity",
    "free_memory",
    "host_and_port",
    "notify",
    "notify_reload",
    "open_regular",
    "passed_listener",
    "private_bytes",
    "private_memory",
    "processor_features",
    "read_regular",
    "read_text",
    "usable_cpus",
    "usable_memory",
    "yield_quickly",
]
