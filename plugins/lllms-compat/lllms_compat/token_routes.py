"""The routes for tokens and prompts, in the shapes of llama-server."""

from typing import cast

from quart import Response

from lllms_compat.model_choice import take_model
from lllms_core.apis import ModelCard, Server
from lllms_core.apis.bodies import LARGE, read_body, read_object, take, work
from lllms_core.apis.messages import read_messages
from lllms_core.apis.replies import reply_large
from lllms_core.parameters.kinds import INT32, Flag, Integer, Text
from lllms_core.parameters.wording import wrong_type
from lllms_core.queries import Prepared, RenderRequest

TOKEN_SIZE = 20
"""Bytes of a token and its piece in an answer."""
OF_TEMPLATES = frozenset({"tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"})
"""The parameters of a chat that change its prompt."""


class TokenViews:
    """The handlers of `/tokenize`, `/detokenize` and `/apply-template`; each loads its model."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def tokenize(self) -> Response:
        """Return the tokens of `content`, on request with their pieces."""
        _, card, values = await self._read()
        content = Text().check("content", values.pop("content", ""))
        special = Flag().check("add_special", values.pop("add_special", False))
        pieces = Flag().check("with_pieces", values.pop("with_pieces", False))
        if Flag().check("parse_special", values.get("parse_special", True)):
            values.pop("parse_special", None)  # as always here; false has no effect, and is named
        tokens = await self._server.tokenize(card.name, content, add_special=special)

        def shown() -> object:
            if not pieces:
                return {"tokens": tokens.ids}
            both = zip(tokens.ids, tokens.pieces, strict=True)
            return {"tokens": [{"id": token, "piece": piece_value(piece)} for token, piece in both]}

        return await reply_large(TOKEN_SIZE * len(tokens.ids), shown, list(values))

    async def detokenize(self) -> Response:
        """Return the text of `tokens`."""
        _, card, values = await self._read()
        tokens = take(values, "tokens")
        if not isinstance(tokens, list):
            raise wrong_type("tokens", "an array of integers", tokens)
        kind = Integer(0, INT32)
        for index, one in enumerate(tokens):
            kind.check(f"tokens[{index}]", one)
        text = await self._server.detokenize(card.name, cast("list[int]", tokens))
        return await reply_large(len(text), lambda: {"content": text}, list(values))

    async def apply_template(self) -> Response:
        """Return the prompt of a chat."""
        size, card, values = await self._read()
        query = await work(size, lambda: self._query(card, values, size))
        prompt = await self._server.ask(query, str)
        return await reply_large(len(prompt), lambda: {"prompt": prompt}, list(values))

    async def _read(self) -> tuple[int, ModelCard, dict[str, object]]:
        """Return the size of the body, the model, and the other members."""
        body = await read_body(any_type=True)
        values = await work(len(body), lambda: read_object(body, self._server.json_levels))
        return len(body), take_model(self._server, values), values

    def _query(self, card: ModelCard, values: dict[str, object], size: int) -> RenderRequest | Prepared:
        messages = read_messages(take(values, "messages"))
        parameters = {name: values.pop(name) for name in OF_TEMPLATES & values.keys()}
        chat = self._server.request(card.name, messages=messages, parameters=parameters)
        query = RenderRequest(chat.id, chat.model, chat, chat.timeout)
        return self._server.prepare(query) if size > LARGE else query


def piece_value(piece: bytes) -> object:
    """Return the text of a token, or its bytes if it is a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return [*piece]
