"""The models, as LM Studio lists them."""

import asyncio
from collections.abc import Sequence

from quart import Blueprint, Response

from lllms_core.apis import Abilities, ModelCard, Server
from lllms_core.apis.replies import reply
from lllms_core.errors import LllmsError
from lllms_core.status import InstanceStatus


def make_blueprint(server: Server) -> Blueprint:
    """Return the routes over `server`; they load no model."""
    routes = Blueprint("lm-studio", __name__, url_prefix="/api/v0")

    async def value(card: ModelCard) -> dict[str, object]:
        try:
            abilities: Abilities | None = await server.abilities(card.name)
        except LllmsError:
            abilities = None  # requests are refused with the reason
        return model_value(card, abilities, server.status().instances)

    @routes.get("/models")
    async def models() -> Response:
        return reply({"object": "list", "data": await asyncio.gather(*(value(card) for card in server.models()))})

    @routes.get("/models/<path:name>")
    async def model(name: str) -> Response:
        return reply(await value(server.model(name)))

    return routes


def model_value(
    card: ModelCard, abilities: Abilities | None, instances: Sequence[InstanceStatus],
) -> dict[str, object]:
    """Return a model; what is unknown is null. `abilities`: None if it can never be loaded."""
    details = {} if abilities is None else abilities.details
    tasks = frozenset() if abilities is None or abilities.tasks is None else abilities.tasks
    sees = abilities is not None and abilities.sees_images
    ready = [one.info for one in instances if one.model == card.name and one.state == "ready" and one.info is not None]
    longest = None if abilities is None else abilities.context_length
    value: dict[str, object] = {
        "id": card.name,
        "object": "model",
        "type": "embeddings" if "embed" in tasks else "vlm" if sees else "llm",
        "publisher": card.plugin,
        "arch": details.get("architecture", card.engine),
        "compatibility_type": "gguf" if "architecture" in details else card.engine,
        "quantization": details.get("quantisation"),
        "state": "loaded" if ready else "not-loaded",
        "max_context_length": details.get("context_trained", longest),
        "capabilities": ["tool_use"] if abilities is not None and abilities.calls_tools else [],
    }
    return {**value, "loaded_context_length": ready[0].context_length} if ready else value
