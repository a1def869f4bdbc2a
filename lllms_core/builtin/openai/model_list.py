"""The routes that list the models and what each can do."""

import asyncio
import time
from collections.abc import Sequence

from quart import Response

from lllms_core.apis import Abilities, ModelCard, ModelState, Server, state_of
from lllms_core.apis.replies import reply
from lllms_core.builtin.openai.openapi import PATHS
from lllms_core.errors import LllmsError
from lllms_core.parameters import verdicts


class ModelList:
    """The handlers of `/models` and `/models/{model}`; they load no model."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._created = int(time.time())

    async def list(self) -> Response:
        """List the models."""
        return reply({"object": "list", "data": await self._values(self._server.models())})

    async def one(self, name: str) -> Response:
        """Describe one model, by its name or an alias, with the verdict on each parameter by route."""
        card = self._server.model(name)
        table = {PATHS[route]: names for route, names in verdicts(card.parameters).items()}
        [value] = await self._values([card])
        return reply({**value, "description": card.description, "parameters": table})

    async def _values(self, cards: Sequence[ModelCard]) -> Sequence[dict[str, object]]:
        found = await asyncio.gather(*(self._abilities(card) for card in cards))
        instances, downloads = self._server.status().instances, self._server.downloads()
        return [
            model_value(card, abilities, state_of(card, abilities, instances, downloads), self._created)
            for card, abilities in zip(cards, found, strict=True)
        ]

    async def _abilities(self, card: ModelCard) -> Abilities | None:
        """Return a model's abilities; None if it is broken, as its state says; requests are refused with the reason."""
        try:
            return await self._server.abilities(card.name)
        except LllmsError:
            return None


def model_value(card: ModelCard, abilities: Abilities | None, state: ModelState, created: int) -> dict[str, object]:
    """Return a `model` in OpenAI's form, with other servers' fields that clients read; unknown values are null."""
    context_length = None if abilities is None else abilities.context_length
    tasks = None if abilities is None or abilities.tasks is None else sorted(abilities.tasks)
    return {
        "id": card.name,
        "object": "model",
        "created": created,
        "owned_by": card.plugin,
        "aliases": list(card.aliases),
        "context_length": context_length,
        "max_model_len": context_length,
        "tasks": tasks,
        "state": state,
    }
