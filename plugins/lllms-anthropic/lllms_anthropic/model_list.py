"""The models, in the shape of Anthropic's API."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from quart import Response, request

from lllms_core.apis import Abilities, ModelCard, Server
from lllms_core.apis.replies import reply
from lllms_core.errors import InvalidRequest, LllmsError
from lllms_core.parameters.wording import cut

MOST = 1000
"""The models of a page, unless a client asks for fewer."""


class ModelList:
    """The handlers of `/models` and `/models/{model}`; they load no model."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._created = datetime.fromtimestamp(int(time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    async def list(self) -> Response:
        """List the models: `limit` of them, after the one named `after_id`, or before the one named `before_id`."""
        cards, more = page(self._server.models(), request.args)
        data = await asyncio.gather(*(self._value(card) for card in cards))
        ends = (cards[0].name, cards[-1].name) if cards else (None, None)
        return reply({"data": data, "has_more": more, "first_id": ends[0], "last_id": ends[1]})

    async def one(self, name: str) -> Response:
        """Describe one model, by its name or an alias."""
        return reply(await self._value(self._server.model(name)))

    async def _value(self, card: ModelCard) -> dict[str, object]:
        try:
            abilities: Abilities | None = await self._server.abilities(card.name)
        except LllmsError:
            abilities = None  # requests are refused with the reason
        return {
            "type": "model", "id": card.name, "display_name": card.name, "created_at": self._created,
            "lifecycle": "active", "max_input_tokens": None if abilities is None else abilities.context_length,
            "max_tokens": card.max_tokens,
        }


def page(cards: Sequence[ModelCard], query: Mapping[str, str]) -> tuple[Sequence[ModelCard], bool]:
    """Return the models that a query asks for, and whether there are more in its direction. Raises `InvalidRequest`."""
    limit = _limit(query.get("limit"))
    before, after = query.get("before_id"), query.get("after_id")
    if before is not None and after is not None:
        raise InvalidRequest("'before_id' and 'after_id' exclude each other; give one of them", "before_id")
    if before is not None:
        found = cards[: _place(cards, "before_id", before)]
        return found[-limit:], len(found) > limit
    found = cards if after is None else cards[_place(cards, "after_id", after) + 1 :]
    return found[:limit], len(found) > limit


def _limit(text: str | None) -> int:
    if text is None:
        return MOST
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST):
        raise InvalidRequest(f"Invalid 'limit': expected 1 to {MOST}, but got '{cut(text)}'.", "limit", "invalid_value")
    return int(text)


def _place(cards: Sequence[ModelCard], param: str, name: str) -> int:
    for index, card in enumerate(cards):
        if card.name == name:
            return index
    raise InvalidRequest(f"Invalid '{param}': there is no model '{cut(name)}'.", param, "invalid_value")
