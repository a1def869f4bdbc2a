"""Human-readable numbers and text."""

import os
from typing import TYPE_CHECKING, TextIO

from lllms_core.types import Memory
from lllms_core.values.sizes import human_size

if TYPE_CHECKING:
    from lllms_core.catalog import CatalogEntry
    from lllms_core.config import Config
    from lllms_core.pool.learnt import Learnt


def memory_text(memory: Memory) -> str:
    """Format an estimate in one line."""
    mapped = ""
    if memory.mapped:
        own = f", each has its own {human_size(memory.copied)} of them" if memory.copied else ""
        mapped = f" (mapped: instances share them{own})"
    longest = f" ({human_size(memory.longest)} of them once a text fills the context)" if memory.longest else ""
    overhead = f", libraries and vocabulary {human_size(memory.overhead)}" if memory.overhead else ""
    each = ", ".join(f"{name} {human_size(size)}" for name, size in memory.devices.items())
    device = f", in the memory of GPUs {human_size(memory.device)}{f' ({each})' if each else ''}"
    device = device if memory.device else ""
    return (f"{human_size(memory.total)}: weights {human_size(memory.weights)}{mapped}, "
            f"KV cache {human_size(memory.kv)}, buffers {human_size(memory.compute)}{longest}{overhead}{device}")


def learnt_of(entry: "CatalogEntry", config: "Config", told: int | None = None) -> "Learnt":
    """Return what servers have learnt of a model as it is configured now; `told`: of instances of that size only."""
    from lllms_core.pool.learnt import LearntStore, key_of

    store = LearntStore.of(config.server)
    if told is None:
        return store.latest(entry.engine.name, entry.fingerprint)
    return store.get(key_of(entry.engine.name, entry.fingerprint, told))


def learnt_text(learnt: "Learnt") -> str:
    """Format what was learnt of a model in one line; empty if that is nothing."""
    if not learnt.private:
        return ""
    load = "" if learnt.load_seconds is None else f"; a load takes {learnt.load_seconds:.1f} s"
    return (
        f"measured here: a worker takes up to {human_size(learnt.private)} of its own, "
        f"mapped weights not included{load}"
    )


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


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which a line can be drawn again."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def notice(text: str, colour: str) -> None:
    """Print a text on stdout in a colour, if that is a terminal with colours; nothing in it is a command."""
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(printable_lines(text), colour), soft_wrap=True)
