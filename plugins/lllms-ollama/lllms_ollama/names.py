"""The names by which Ollama's clients call models; pure, but for the look-up."""

import re
from collections.abc import Iterator
from contextlib import suppress

from lllms_core.apis import ModelCard, Server
from lllms_core.errors import InvalidRequest, ModelUnknown
from lllms_core.parameters.wording import cut

LATEST = ":latest"
_HUB = re.compile(
    r"(?:https?://)?(?:www\.)?(?:(?:hf\.co|huggingface\.co)/|hf:)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:[\w.-]+)?",
    re.ASCII | re.IGNORECASE,
)


def find_model(server: Server, name: str) -> ModelCard:
    """Return the model that a client calls so: a name without a tag means `:latest`, and vice versa.

    Aliases that are patterns come last. Raises `ModelUnknown` or `ModelLoadFailed`.
    """
    return find_named(server, name) or server.model(name)


def find_named(server: Server, name: str) -> ModelCard | None:
    """Return the model with this name or alias, in any spelling; None if at most a pattern fits."""
    for spelling in _spellings(name):
        with suppress(ModelUnknown):
            card = server.model(spelling)
            if spelling in {card.name, *card.aliases}:
                return card
    return None


def listed_name(card: ModelCard) -> str:
    """Return a model's name with its tag, as clients expect it in a list."""
    return card.name if ":" in card.name else card.name + LATEST


def pulled_name(name: str) -> str:
    """Return the name under which a pulled model is served: the client's own, without scheme and `:latest`."""
    return re.sub(r"^https?://(?:www\.)?", "", name).removesuffix(LATEST)


def is_repository(name: str) -> bool:
    """Whether a name to pull is one of the hub's repositories."""
    return _HUB.fullmatch(name) is not None


def hub_source(name: str) -> str:
    """Return the source that a name to pull means: `hf.co/USER/REPO:QUANT`, with or without the host.

    Raises `InvalidRequest` for any other name.
    """
    match = _HUB.fullmatch(name)
    if match is None:
        raise InvalidRequest(
            f"'{cut(name)}' is neither in the catalogue (lllms models --catalog) nor a repository of the Hugging Face "
            "Hub, where models are pulled from: write hf.co/USER/REPO:QUANT, with a repository of GGUF files, like "
            "hf.co/org/model-GGUF:Q4_K_M", "model", "invalid_value",
        )
    return f"hf:{match[1]}{match[2] or ''}"


def _spellings(name: str) -> Iterator[str]:
    yield name
    yield name.removesuffix(LATEST) if name.endswith(LATEST) else name + LATEST
    match = _HUB.fullmatch(name)
    if match is not None:
        tag = "" if match[2] is None or match[2].lower() == LATEST else match[2]
        for host in ("hf.co/", "huggingface.co/", "hf:", ""):
            yield f"{host}{match[1]}{tag}"
