"""The catalogue: well-known models to begin with, and the search for those that a word means."""

from lllms_core.curated.curated_model import CuratedModel, curated_models
from lllms_core.curated.matching import is_named, known_model, ranked
from lllms_core.curated.space import Space, needed

__all__ = [
    "CuratedModel",
    "Space",
    "curated_models",
    "is_named",
    "known_model",
    "needed",
    "ranked",
]
