"""A model as APIs show it: what is configured, and what it can do."""

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import field, frozen

from lllms_core.parameters import Generation
from lllms_core.status import DownloadStatus, InstanceStatus
from lllms_core.types import MediaKind, Task

ModelState = Literal["loaded", "loading", "unloaded", "fetching", "absent", "broken"]
"""`unloaded`: a request loads it; `absent`: a request fetches its files first; `broken`: it can never be loaded."""


@frozen
class ModelCard:
    """The facts about a model that need no look at its file; `Server.abilities` returns the rest."""

    name: str
    aliases: tuple[str, ...]
    engine: str
    plugin: str
    """The plugin that provides the engine."""
    description: str
    fingerprint: str
    """Changes with the engine's version, the files and the options; an answer's own is `Stream.fingerprint`."""
    parameters: frozenset[str]
    """The names of the parameters that its engine acts on."""
    media: frozenset[MediaKind]
    """The kinds of content besides text that its engine takes."""
    max_tokens: int | None
    """The limit on answers to requests that set none; None: as many tokens as fit the context."""
    max_instances: int
    here: bool
    """Whether all its files are on this disk."""
    download_id: str | None
    """The id of the downloads of its files; None if they are never fetched."""
    file_name: str = ""
    """The name of the file of its weights, without folders; "" if it has none."""
    modified: float | None = None
    """When its files were last changed, in seconds since 1970; None if it has none."""
    defaults: Generation = field(factory=Generation)
    """The parameters of answers to requests that set none."""


@frozen
class Abilities:
    """The abilities of a model, from its last load, or from its file as far as possible; None if unknown."""

    tasks: frozenset[Task] | None
    context_length: int | None
    """The number of tokens that one request may hold; before a load, the model's own limit may be lower."""
    thinks: bool | None
    """Whether it writes thoughts before its answers."""
    calls_tools: bool
    sees_images: bool
    details: Mapping[str, str | int | float]
    """Other facts worth showing (architecture, parameters, quantisation ...)."""


def state_of(
    card: ModelCard, abilities: Abilities | None, instances: Iterable[InstanceStatus],
    downloads: Iterable[DownloadStatus],
) -> ModelState:
    """Return the state of a model on a server with these instances and downloads; `abilities`: None if it is broken."""
    states = {one.state for one in instances if one.model == card.name}
    if "ready" in states:
        return "loaded"
    if "loading" in states:
        return "loading"
    if card.here:
        return "broken" if abilities is None else "unloaded"
    fetched = any(one.id == card.download_id and one.state != "failed" for one in downloads)
    return "fetching" if fetched else "absent"
