"""The contract between the core and engines: subclass `Engine`, and `SerialModel` or `BatchingModel`."""

from lllms_core.engines.base import TEMPLATE_PARAMETERS, TOOL_PARAMETERS, Engine, Interrupt, Model, NoOptions, Progress
from lllms_core.engines.batching import BatchingModel
from lllms_core.engines.embedding import EmbeddingModel
from lllms_core.engines.serial import SerialModel
from lllms_core.engines.tokens import Feed, Interrupted, KVCacheFull, Matcher, Sampler

__all__ = [
    "TEMPLATE_PARAMETERS",
    "TOOL_PARAMETERS",
    "BatchingModel",
    "EmbeddingModel",
    "Engine",
    "Feed",
    "Interrupt",
    "Interrupted",
    "KVCacheFull",
    "Matcher",
    "Model",
    "NoOptions",
    "Progress",
    "Sampler",
    "SerialModel",
]
