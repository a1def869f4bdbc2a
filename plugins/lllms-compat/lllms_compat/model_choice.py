"""The model of a request that names none, as clients of a server with a single model do; pure."""

from collections.abc import Collection, Mapping, Sequence

from lllms_core.apis import ModelCard, Server
from lllms_core.errors import InvalidRequest, ModelUnknown
from lllms_core.parameters.wording import wrong_type

INFILL, DEFAULT = "infill", "default"
"""Names, or aliases, of the model for requests that name none: to fill gaps, and for anything else."""
GAPS = "suffix"
"""The parameter that an engine honours if its models may fill gaps."""
SHOWN = 20
"""Models that an error names."""


def take_model(server: Server, members: dict[str, object], *, fills: bool = False) -> ModelCard:
    """Return the model that the members of a body name (`model` is removed), or the one to choose without a name.

    `fills`: it should fill a gap. Raises `ModelUnknown`, and `InvalidRequest` if there is more than one choice.
    """
    name = members.pop("model", "")
    if not isinstance(name, str):
        raise wrong_type("model", "a string", name)
    return find_model(server, name, fills=fills)


def find_model(server: Server, name: str = "", *, fills: bool = False) -> ModelCard:
    """Return the model of this name, or the one to choose without a name."""
    if name:
        return server.model(name)
    for usual in (INFILL, DEFAULT) if fills else (DEFAULT,):
        try:
            return server.model(usual)
        except ModelUnknown:
            continue
    loaded = {one.model for one in server.status().instances if one.state != "closing"}
    return choose(server.models(), loaded, fills=fills)


def choose(cards: Sequence[ModelCard], loaded: Collection[str], *, fills: bool) -> ModelCard:
    """Return the only model, else the only one that may fill gaps if the request needs that, else the only loaded one.

    Raises `InvalidRequest` that names the models if none of that decides.
    """
    rounds: Mapping[str, Sequence[ModelCard]] = {
        "all": cards,
        "able": [card for card in cards if GAPS in card.parameters] if fills else (),
    }
    rounds = {**rounds, "loaded": [card for card in rounds["able"] or cards if card.name in loaded]}
    for found in rounds.values():
        if len(found) == 1:
            return found[0]
    names = [card.name for card in (rounds["able"] or cards)]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    alias = INFILL if fills else DEFAULT
    text = "the request names no model, and there is none; configure one"
    if names:
        text = (
            f"the request names no model, and there are {len(names)}: {shown}; name one as 'model', or give one of "
            f'them the alias "{alias}" (aliases = ["{alias}"] in its configuration)'
        )
    raise InvalidRequest(text, "model", "missing_required_parameter")
