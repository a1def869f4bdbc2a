"""Whether a file fits this machine, by its size alone: before it is fetched, nothing else is known; pure."""

from attrs import frozen

LEAST_BESIDE, BESIDE = 400_000_000, 8
"""What an instance takes beside its weights (libraries, buffers, a KV cache for some thousand tokens): one part in the
second many of them, but at least the first many bytes."""


@frozen
class Space:
    """The memory for models on a machine."""

    main: int | None
    """Bytes for all instances, as the pool computes them; None if the system does not tell."""
    devices: int = 0
    """Bytes for them on all GPUs together, over which layers can be spread."""

    @property
    def most(self) -> int | None:
        """The larger of the two, in bytes; None if unknown."""
        return None if self.main is None else max(self.main, self.devices)

    def holds(self, size: int) -> bool:
        """Whether a model whose files have this many bytes fits, as far as is known."""
        return self.most is None or needed(size) <= self.most


def needed(size: int) -> int:
    """Return about how many bytes of memory a model takes whose files have this many."""
    return size + max(LEAST_BESIDE, size // BESIDE)
