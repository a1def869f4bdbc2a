"""Whether this machine has room for a model."""

from lllms_core.machine import usable_memory
from lllms_core.types import Memory
from lllms_core.values.sizes import human_size


def lack_of_memory(needed: Memory) -> str | None:
    """Return a sentence about a model that does not fit into this machine's memory; None if it fits.

    Nothing is known about one that may use the memory of a GPU.
    """
    usable = usable_memory()
    if usable is None or needed.total <= usable or needed.offloaded:
        return None
    return (
        f"an instance takes about {human_size(needed.total)}, but the server may use {human_size(usable)} of memory "
        "here; choose a smaller model or quantisation, or lower options.context_length or slots"
    )
