"""Which models of the catalogue a word means, and in what order they are offered; pure.

Words and names are compared token by token, so that `llama3.2`, `Llama-3.2` and `llama 3.2` are the same.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from enum import IntEnum
from functools import cache

from lllms_core.curated.curated_model import CuratedModel, curated_models
from lllms_core.curated.space import Space

Tokens = tuple[str, ...]

_TOKEN = re.compile(r"\d+(?:\.\d+)*[bmk]?(?![^\W\d_])|\d+(?:\.\d+)*|[^\W\d_]+")
_QUANT = re.compile(r"(?<![a-z0-9])i?q\d(?:_[a-z0-9]+)+(?![a-z0-9])")
_NOISE = frozenset({"latest", "instruct", "it", "chat", "gguf", "hf", "model", "models"})
"""Words in names that tell no models of the catalogue apart."""
_SIZES = {"tiny": (0, 1e9), "small": (0, 3e9), "medium": (3e9, 9e9), "large": (9e9, float("inf"))}
"""Words for sizes: bytes from and to."""
_SIMILAR = 0.75
"""From this share of common letters on, a word is a misspelling."""
_LONGEST = 100
"""Comparing longer words takes time, and they mean nothing."""


class Match(IntEnum):
    """How well a word fits a model; the lowest is the best."""

    EXACT = 0
    """It is a name of this model."""
    ALL = 1
    """The model has all its tokens."""
    FAMILY = 2
    """Its letters fit, its numbers do not: `llama2`."""
    SIMILAR = 3
    """It is probably a misspelling."""


def ranked(word: str, models: Iterable[CuratedModel], space: Space) -> list[CuratedModel]:
    """Return the models that a word may mean: the best matches first, of these what fits, the largest first.

    Those that do not fit follow, the smallest first.
    """
    matches = [(match, model) for model in models if (match := match_of(word, model)) is not None]
    return [model for _, model in sorted(matches, key=lambda one: (*one[0], *fitting_order(one[1], space)))]


def known_model(word: str) -> CuratedModel | None:
    """Return the model of the catalogue that has this name, in any spelling."""
    model = _by_name().get(tokens(word)) if len(word) <= _LONGEST else None
    return model if model is not None and _has_quant(word, model) else None


@cache
def _by_name() -> Mapping[Tokens, CuratedModel]:
    return {tokens(name): model for model in curated_models() for name in (model.name, *model.names)}


def is_named(word: str, *names: str) -> bool:
    """Whether names, taken together, have all tokens of a word."""
    there = {token for name in names for token in tokens(name)}
    wanted = tokens(word[:_LONGEST])
    return bool(wanted) and all(any(_fits(one, token) for token in there) for one in wanted)


def fitting_order(model: CuratedModel, space: Space) -> tuple[bool, int, str]:
    """Return the key that sorts what fits before what does not; larger models give better answers."""
    fits = space.holds(model.size)
    return not fits, -model.size if fits else model.size, model.name


def match_of(word: str, model: CuratedModel) -> tuple[Match, int] | None:
    """Return how well a word fits a model, and how many of its tokens the model lacks; None if it does not fit."""
    wanted = tokens(word) if len(word) <= _LONGEST else ()
    if not wanted:
        return None
    names = [tokens(name) for name in (model.name, *model.names)]
    if wanted in names and _has_quant(word, model):
        return Match.EXACT, 0
    if all(one in _SIZES for one in wanted):  # "small" is no name, although some models have it in theirs
        return (Match.ALL, 0) if all(_has_size(model, one) for one in wanted) else None
    there = {token for name in (*names, tokens(model.repository), *map(tokens, model.words)) for token in name}
    missing = [one for one in wanted if not any(_fits(one, token) for token in there)]
    missing = [one for one in missing if one not in _SIZES or not _has_size(model, one)]
    if not missing:
        return Match.ALL, 0
    if all(one[0].isdigit() for one in missing) and len(missing) < len(wanted):
        return Match.FAMILY, len(missing)
    letters = "".join(one for one in wanted if not one[0].isdigit())
    families = {"".join(one for one in name if not one[0].isdigit()) for name in names}
    return (Match.SIMILAR, len(missing)) if any(_similar(letters, family) for family in families) else None


def tokens(text: str) -> Tokens:
    """Return the words and numbers of a name, without those that tell nothing: `Llama-3.2-3B` is llama, 3.2, 3b."""
    plain = _QUANT.sub(" ", text.casefold())
    return tuple(token for token in _TOKEN.findall(plain) if token not in _NOISE)


def _has_quant(word: str, model: CuratedModel) -> bool:
    """Whether a word names no quantisation, or the one that the model is fetched in."""
    return all(quant in model.source.casefold() for quant in _QUANT.findall(word.casefold()))


def _fits(wanted: str, token: str) -> bool:
    """Whether a token of a model is the wanted one, or begins with it: `3` is in `3.2` and `3b`, not in `30b`."""
    if wanted == token:
        return True
    if wanted[0].isdigit():
        return token.startswith(f"{wanted}.") or token in {f"{wanted}b", f"{wanted}m"}
    return len(wanted) > 1 and token.startswith(wanted)


def _has_size(model: CuratedModel, word: str) -> bool:
    least, most = _SIZES[word]
    return least <= model.size < most


def _similar(word: str, family: str) -> bool:
    return bool(word) and SequenceMatcher(None, word, family).ratio() >= _SIMILAR
