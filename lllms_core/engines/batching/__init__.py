"""The base for engines that evaluate many sequences in one forward pass."""

from lllms_core.engines.batching.model import BatchingModel
from lllms_core.engines.batching.speculation import Speculation

__all__ = ["BatchingModel", "Speculation"]
