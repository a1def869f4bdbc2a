"""The base for engines that evaluate many sequences in one forward pass."""

from lllms_core.engines.batching.model import BatchingModel

__all__ = ["BatchingModel"]
