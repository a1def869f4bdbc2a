"""The routes of the native API."""

from typing import cast

from attrs import asdict
from quart import Blueprint, Response

from lllms_core.apis import Server
from lllms_core.apis.bodies import LARGE, read_body, read_object, read_optional, refuse_others, take, take_text, work
from lllms_core.apis.messages import read_messages
from lllms_core.apis.own_machine import refuse_other_operators
from lllms_core.apis.replies import reply, reply_large
from lllms_core.builtin.native.openapi import OF_TEMPLATES
from lllms_core.errors import ConfigError, InvalidRequest
from lllms_core.parameters.kinds import INT32, Flag, Integer
from lllms_core.parameters.wording import wrong_type
from lllms_core.queries import Prepared, RenderRequest

PREFIX = "/api/v1"

TOKEN_SIZE = 20
"""Bytes of a token and its piece in an answer."""


def make_blueprint(server: Server) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("native", __name__, url_prefix=PREFIX)

    @routes.post("/tokenize")
    async def tokenize() -> Response:
        body = await read_body()
        model, text, special = await work(len(body), lambda: _read_text(body, server.json_levels))
        tokens = await server.tokenize(model, text, add_special=special)

        def shown() -> object:
            # A token can be a part of a character.
            return {"tokens": tokens.ids, "pieces": [piece.decode(errors="replace") for piece in tokens.pieces]}

        return await reply_large(TOKEN_SIZE * len(tokens.ids), shown)

    @routes.post("/detokenize")
    async def detokenize() -> Response:
        body = await read_body()
        model, tokens = await work(len(body), lambda: _read_tokens(body, server.json_levels))
        text = await server.detokenize(model, tokens)
        return await reply_large(len(text), lambda: {"text": text})

    @routes.post("/apply-template")
    async def apply_template() -> Response:
        body = await read_body()
        prompt = await server.ask(await work(len(body), lambda: _read_chat(server, body)), str)
        return await reply_large(len(prompt), lambda: {"prompt": prompt})

    @routes.post("/reload")
    async def reload() -> Response:
        refuse_other_operators("loading the configuration again")
        await read_optional(server, lambda _: None, None)
        try:
            changed = await server.reload()
        except ConfigError as error:
            raise InvalidRequest(error.message, None, "invalid_configuration") from error
        return reply({**asdict(changed), "text": "; ".join(changed.lines) or "nothing has changed"})

    @routes.get("/config")
    async def show_config() -> Response:
        refuse_other_operators("the configuration")
        return reply({"object": "list", "data": [asdict(one) for one in server.settings()]})

    return routes


def _read_text(body: bytes, levels: int) -> tuple[str, str, bool]:
    values = read_object(body, levels)
    model, text = take_text(values, "model"), take_text(values, "text")
    special = Flag().check("add_special", values.pop("add_special", False))
    refuse_others(values)
    return model, text, special


def _read_tokens(body: bytes, levels: int) -> tuple[str, tuple[int, ...]]:
    values = read_object(body, levels)
    model, tokens = take_text(values, "model"), take(values, "tokens")
    if not isinstance(tokens, list):
        raise wrong_type("tokens", "an array of integers", tokens)
    kind = Integer(0, INT32)
    for index, one in enumerate(tokens):
        kind.check(f"tokens[{index}]", one)
    refuse_others(values)
    return model, tuple(cast("list[int]", tokens))


def _read_chat(server: Server, body: bytes) -> RenderRequest | Prepared:
    values = read_object(body, server.json_levels)
    model, messages = take_text(values, "model"), read_messages(take(values, "messages"))
    parameters = {name: values.pop(name) for name in OF_TEMPLATES & values.keys()}
    refuse_others(values)
    chat = server.request(model, messages=messages, parameters=parameters)
    query = RenderRequest(chat.id, chat.model, chat, chat.timeout)
    return server.prepare(query) if len(body) > LARGE else query
