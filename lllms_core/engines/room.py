"""Whether this machine has room for a model, and what would make it fit."""

from collections.abc import Iterable, Sequence

from lllms_core.machine import usable_memory
from lllms_core.types import Memory
from lllms_core.values.sizes import human_size


def lack_of_memory(needed: Memory, ways: Iterable[str] = ()) -> str | None:
    """Return a sentence about a model that does not fit into this machine's memory; None if it fits.

    `ways` are changes of options that make it fit (`Engine.smaller`). Nothing is known about a model that may use the
    memory of a GPU.
    """
    usable = usable_memory()
    if usable is None or needed.total <= usable or needed.offloaded:
        return None
    return (
        f"an instance takes about {human_size(needed.total)}, but the server may use {human_size(usable)} of memory "
        f"here; {way_out([*ways])}"
    )


def fits_here(needed: Memory) -> bool:
    """Whether a model fits into this machine's memory, as far as is known."""
    return lack_of_memory(needed) is None


def way_out(ways: Sequence[str]) -> str:
    """Return advice for a model that is too large, given the options, in words, each of which would make it fit."""
    if not ways:
        return "no smaller context makes it fit: choose a smaller model or quantisation"
    return f"it would fit with {', or with '.join(ways)}: set that"
