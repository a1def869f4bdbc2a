"""The routes of the native API."""

from collections.abc import Callable
from typing import cast

from quart import Blueprint, Response

from lllms_core.builtin.openai.answers import dumps
from lllms_core.builtin.openai.body import LARGE, read_body, read_object, take, take_text, work
from lllms_core.builtin.openai.errors import answer_error
from lllms_core.builtin.openai.messages import read_messages
from lllms_core.builtin.openai.openapi import OF_TEMPLATES
from lllms_core.host import Host
from lllms_core.parameters.kinds import INT32, Flag, Integer
from lllms_core.parameters.wording import unknown, wrong_type
from lllms_core.queries import Prepared, RenderRequest

PREFIX = "/api/v1"

TOKEN_SIZE = 20
"""Bytes of a token and its piece in an answer."""


def make_blueprint(host: Host) -> Blueprint:
    """Return the routes over `host`."""
    routes = Blueprint("native", __name__, url_prefix=PREFIX)
    routes.register_error_handler(Exception, answer_error)
    levels = host.config.server.max_json_depth

    @routes.post("/tokenize")
    async def tokenize() -> Response:
        body = await read_body()
        model, text, special = await work(len(body), lambda: _read_text(body, levels))
        tokens = await host.tokenize(model, text, add_special=special)

        def shown() -> object:
            # A token can be a part of a character.
            return {"tokens": tokens.ids, "pieces": [piece.decode(errors="replace") for piece in tokens.pieces]}

        return await _answer(TOKEN_SIZE * len(tokens.ids), shown)

    @routes.post("/detokenize")
    async def detokenize() -> Response:
        body = await read_body()
        model, tokens = await work(len(body), lambda: _read_tokens(body, levels))
        text = await host.detokenize(model, tokens)
        return await _answer(len(text), lambda: {"text": text})

    @routes.post("/apply-template")
    async def apply_template() -> Response:
        body = await read_body()
        prompt = await host.ask(await work(len(body), lambda: _read_chat(host, body)), str)
        return await _answer(len(prompt), lambda: {"prompt": prompt})

    return routes


def _read_text(body: bytes, levels: int) -> tuple[str, str, bool]:
    values = read_object(body, levels)
    model, text = take_text(values, "model"), take_text(values, "text")
    special = Flag().check("add_special", values.pop("add_special", False))
    _refuse_others(values)
    return model, text, special


def _read_tokens(body: bytes, levels: int) -> tuple[str, tuple[int, ...]]:
    values = read_object(body, levels)
    model, tokens = take_text(values, "model"), take(values, "tokens")
    if not isinstance(tokens, list):
        raise wrong_type("tokens", "an array of integers", tokens)
    kind = Integer(0, INT32)
    for index, one in enumerate(tokens):
        kind.check(f"tokens[{index}]", one)
    _refuse_others(values)
    return model, tuple(cast("list[int]", tokens))


def _read_chat(host: Host, body: bytes) -> RenderRequest | Prepared:
    values = read_object(body, host.config.server.max_json_depth)
    model, messages = take_text(values, "model"), read_messages(take(values, "messages"))
    parameters = {name: values.pop(name) for name in OF_TEMPLATES & values.keys()}
    _refuse_others(values)
    chat = host.request(model, messages=messages, parameters=parameters)
    query = RenderRequest(chat.id, chat.model, chat, chat.timeout)
    return host.prepare(query) if len(body) > LARGE else query


def _refuse_others(values: dict[str, object]) -> None:
    for name in values:
        raise unknown(name)


async def _answer(size: int, value: Callable[[], object]) -> Response:
    return Response(await work(size, lambda: dumps(value())), content_type="application/json")
