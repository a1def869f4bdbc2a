"""A model of the catalogue, and the file that lists them."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from attrs import frozen

from lllms_core.values.sizes import human_size
from lllms_core.values.structure import Bytes, Range, structure

FILE = Path(__file__).with_name("models.toml")


@frozen
class CuratedModel:
    """A model that everybody may fetch, and the facts to choose it by."""

    name: str
    source: str
    """Where it is fetched from, in the form that `lllms pull` and `serve --model` take."""
    size: Annotated[int, Bytes()]
    """Bytes of its files, rounded: the hub tells the true size."""
    context_length: Annotated[int, Range(1)]
    """Tokens that it was trained for."""
    parameters: Annotated[int, Range(1)]
    licence: str
    good_at: str
    task: Literal["chat", "embed"] = "chat"
    names: tuple[str, ...] = ()
    """Other spellings of exactly this model."""
    words: tuple[str, ...] = ()
    """Other words that find it."""

    @property
    def repository(self) -> str:
        """Its source without scheme and quantisation: `org/repo`."""
        return self.source.split(":")[1]

    @property
    def summary(self) -> str:
        """The facts on which users decide, in one line."""
        return f"{self.name}, about {human_size(self.size)}, {self.licence}"


@frozen
class _Listing:
    models: tuple[CuratedModel, ...]


@cache
def curated_models() -> tuple[CuratedModel, ...]:
    """Return the models of the catalogue, as listed."""
    return structure(tomllib.loads(FILE.read_text(encoding="utf-8")), _Listing).models
