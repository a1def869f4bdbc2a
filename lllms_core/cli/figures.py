"""Numbers as people read them."""

from lllms_core.types import Memory

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size_text(count: float) -> str:
    """Bytes with three digits: 1.25 GiB, 15.0 MiB, 812 B."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    digits = 0 if unit == 0 or count >= 100 else 1 if count >= 10 else 2
    return f"{count:.{digits}f} {_UNITS[unit]}"


def memory_text(memory: Memory) -> str:
    """An estimate in one line."""
    mapped = " (mapped: instances share them)" if memory.mapped else ""
    return (f"{size_text(memory.total)}: weights {size_text(memory.weights)}{mapped}, KV cache {size_text(memory.kv)}, "
            f"buffers {size_text(memory.compute)}")
