"""The contract between the core and engines: subclass `Engine`, and `SerialModel` or `BatchingModel`.

`examples/` has an engine on each of the two; `lllms_core.testing` tests them without a server.
"""

from lllms_core.engines.base import TEMPLATE_PARAMETERS, TOOL_PARAMETERS, Engine, Interrupt, Model, NoOptions, Progress
from lllms_core.engines.batching import BatchingModel, Speculation
from lllms_core.engines.capabilities import (
    Constrains,
    Detokenizes,
    Embeds,
    EmbedsTexts,
    Exports,
    Infills,
    Pairs,
    Preloads,
    Ranks,
    Remembers,
    Renders,
    Resumes,
    Scores,
    ScoresPrompts,
    Tokenizes,
)
from lllms_core.engines.drafter import Drafter, DraftWish
from lllms_core.engines.embedding import EmbeddingModel
from lllms_core.engines.samplers import Matcher, Sampler
from lllms_core.engines.serial import SerialModel
from lllms_core.engines.tokens import Feed, Interrupted, KVCacheFull

__all__ = [
    "TEMPLATE_PARAMETERS",
    "TOOL_PARAMETERS",
    "BatchingModel",
    "Constrains",
    "Detokenizes",
    "DraftWish",
    "Drafter",
    "EmbeddingModel",
    "Embeds",
    "EmbedsTexts",
    "Engine",
    "Exports",
    "Feed",
    "Infills",
    "Interrupt",
    "Interrupted",
    "KVCacheFull",
    "Matcher",
    "Model",
    "NoOptions",
    "Pairs",
    "Preloads",
    "Progress",
    "Ranks",
    "Remembers",
    "Renders",
    "Resumes",
    "Sampler",
    "Scores",
    "ScoresPrompts",
    "SerialModel",
    "Speculation",
    "Tokenizes",
]
