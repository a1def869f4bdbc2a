"""Models as Ollama lists and describes them."""

import asyncio
import hashlib
import time
from collections.abc import Mapping

from attrs import fields, frozen

from lllms_core.apis import Abilities, ModelCard, Server
from lllms_core.apis.writing import dumps
from lllms_core.errors import LllmsError
from lllms_core.gguf import TEMPLATE
from lllms_core.parameters import Generation
from lllms_core.status import InstanceStatus
from lllms_core.types import Sampling
from lllms_ollama.lines import moment
from lllms_ollama.names import listed_name

BEGUN = time.time()
LONGEST = 2000
"""Bytes of a text in a model's metadata that `/api/show` shows."""
FOREVER = 290 * 365.25 * 86400
"""Seconds until a model that is never unloaded expires, as Ollama tells it."""


@frozen
class Described:
    """A model, and what is known of it; no abilities if its file can never be loaded."""

    card: ModelCard
    abilities: Abilities | None

    def detail(self, name: str) -> str | int | float | None:
        """Return a detail; None if it is unknown."""
        return None if self.abilities is None else self.abilities.details.get(name)

    @property
    def size(self) -> int:
        """The bytes of its files; 0 if it has none here."""
        size = self.detail("size")
        return size if isinstance(size, int) else 0


async def describe_model(server: Server, card: ModelCard) -> Described:
    """Return what is known of a model; this loads nothing."""
    try:
        return Described(card, await server.abilities(card.name))
    except LllmsError:
        return Described(card, None)


async def list_models(server: Server) -> list[dict[str, object]]:
    """Return every model that can be served."""
    found = await asyncio.gather(*(describe_model(server, card) for card in server.models()))
    return [listed(one) for one in found]


def listed(model: Described) -> dict[str, object]:
    """Return a model for a list."""
    return {
        **named(model), "modified_at": moment(modified(model.card)), "capabilities": capabilities(model),
    }


def named(model: Described) -> dict[str, object]:
    """Return what lists of models and of loaded models have in common."""
    name = listed_name(model.card)
    return {"name": name, "model": name, "size": model.size, "digest": digest(model.card), "details": details(model)}


def digest(card: ModelCard) -> str:
    """Return 64 hexadecimal digits that change with the model's files, options and engine; no hash of a file."""
    return hashlib.sha256(f"{card.name} {card.fingerprint}".encode()).hexdigest()


def modified(card: ModelCard) -> float:
    """Return when the model's files were changed; without files, when the server began."""
    return BEGUN if card.modified is None else card.modified


def details(model: Described) -> dict[str, object]:
    """Return the model's kind and size."""
    family = model.detail("architecture") or model.card.engine
    parameters, quantisation = model.detail("parameters"), model.detail("quantisation")
    return {
        "parent_model": "", "format": "gguf" if model.detail("architecture") else "", "family": family,
        "families": [family], "parameter_size": parameter_size(parameters) if isinstance(parameters, int) else "",
        "quantization_level": quantisation or "",
    }


def parameter_size(count: int) -> str:
    """Return a number of parameters as Ollama writes it: `8.0B`, `137M`."""
    if count >= 1e9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.2f}K"


def capabilities(model: Described) -> list[str]:
    """Return what a model can do, in Ollama's words; thinking is known once the model was loaded."""
    able = model.abilities
    if able is None:
        return []
    tasks = frozenset({"chat", "text"}) if able.tasks is None else able.tasks
    words = {
        "completion": bool(tasks & {"chat", "text"}), "embedding": "embed" in tasks,
        "tools": able.calls_tools, "thinking": bool(able.thinks), "vision": able.sees_images,
    }
    return [word for word, can in words.items() if can]


async def show_model(server: Server, card: ModelCard) -> dict[str, object]:
    """Return everything about one model."""
    model = await describe_model(server, card)
    header = dict(await server.metadata(card.name))
    template = header.pop(TEMPLATE, "")
    license_text = header.get("general.license")
    return {
        "modelfile": modelfile(model),
        "parameters": parameters_text(card.defaults),
        "template": template,
        **({"license": license_text} if isinstance(license_text, str) else {}),
        "details": details(model),
        "model_info": model_info(model, header),
        "capabilities": capabilities(model),
        "modified_at": moment(modified(card)),
    }


def modelfile(model: Described) -> str:
    """Return a text in the form of Ollama's build files, which says where the model comes from."""
    lines = [f"PARAMETER {one}" for one in parameters_text(model.card.defaults).splitlines()]
    return "\n".join([f"# served by lllms, engine {model.card.engine}", f"FROM {listed_name(model.card)}", *lines, ""])


def parameters_text(defaults: Generation) -> str:
    """Return the defaults that differ from the built-in ones, one per line: `temperature 0.7`."""
    usual = Generation()
    found: list[tuple[str, object]] = [
        (one.name, getattr(defaults.sampling, one.name)) for one in fields(Sampling)
        if getattr(defaults.sampling, one.name) != getattr(usual.sampling, one.name)
    ]
    if defaults.max_tokens is not None:
        found.append(("num_predict", defaults.max_tokens))
    found += [("stop", one) for one in defaults.stop]
    return "\n".join(f"{name} {dumps(value).decode()}" for name, value in found)


def model_info(model: Described, header: Mapping[str, object]) -> dict[str, object]:
    """Return the facts in the header of the model's file, and the context that a request has here.

    Without such a file, what the engine tells.
    """
    shown = {key: value for key, value in header.items() if not isinstance(value, str) or len(value) <= LONGEST}
    family = str(header.get("general.architecture") or model.detail("architecture") or model.card.engine)
    told: dict[str, object] = {"general.architecture": family}
    for key, name in (
        ("general.parameter_count", "parameters"), (f"{family}.context_length", "context_trained"),
        (f"{family}.embedding_length", "embedding_length"), (f"{family}.block_count", "layers"),
    ):
        value = model.detail(name)
        if value is not None:
            told[key] = value
    served = None if model.abilities is None else model.abilities.context_length
    if served is not None:
        # Clients plan by this key, so it is the length that a request may have.
        told[f"{family}.context_length"] = served
    return {**shown, **told}


async def list_loaded(server: Server) -> list[dict[str, object]]:
    """Return the models with a loaded instance, each once."""
    instances = {one.model: one for one in reversed(server.status().instances) if one.state == "ready"}
    cards = {card.name: card for card in server.models() if card.name in instances}
    found = await asyncio.gather(*(describe_model(server, card) for card in cards.values()))
    return [loaded(model, instances[model.card.name], time.time()) for model in found]


def loaded(model: Described, instance: InstanceStatus, now: float) -> dict[str, object]:
    """Return a loaded model."""
    size = instance.memory or model.size
    left = FOREVER if instance.ttl is None else max(0.0, instance.ttl - instance.idle_seconds)
    context = None if instance.info is None else instance.info.context_length
    return {
        **named(model), "size": size, "size_vram": 0, "expires_at": moment(now + left), "context_length": context or 0,
    }
