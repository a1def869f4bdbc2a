"""Human-readable numbers and text."""

from lllms_core.types import Memory
from lllms_core.values.sizes import human_size


def memory_text(memory: Memory) -> str:
    """Format an estimate in one line."""
    mapped = ""
    if memory.mapped:
        own = f", each has its own {human_size(memory.copied)} of them" if memory.copied else ""
        mapped = f" (mapped: instances share them{own})"
    longest = f" ({human_size(memory.longest)} of them once a text fills the context)" if memory.longest else ""
    overhead = f", libraries and vocabulary {human_size(memory.overhead)}" if memory.overhead else ""
    device = f", in the memory of GPUs {human_size(memory.device)}" if memory.device else ""
    return (f"{human_size(memory.total)}: weights {human_size(memory.weights)}{mapped}, "
            f"KV cache {human_size(memory.kv)}, buffers {human_size(memory.compute)}{longest}{overhead}{device}")


def count_text(count: int) -> str:
    """Format a number of parameters: 1.4M, 7.2B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def printable(text: str) -> str:
    """Escape control characters, so that a text of unknown origin cannot command the terminal."""
    return "".join(one if one.isprintable() or one == "\t" else ascii(one)[1:-1] for one in text)


def printable_lines(text: str) -> str:
    """Escape control characters in each line of a text, so that none can command the terminal."""
    return "\n".join(map(printable, text.splitlines()))
