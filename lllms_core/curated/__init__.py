"""The catalogue of models to begin with, and which of them a word means: what users get before they have anything."""

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
