"""The routes of the native API."""

from typing import cast

from quart import Blueprint, Response

from lllms_core.builtin.openai.answers import dumps
from lllms_core.builtin.openai.body import read_body, read_object, take, take_text
from lllms_core.builtin.openai.errors import answer_error
from lllms_core.builtin.openai.messages import read_messages
from lllms_core.builtin.openai.openapi import OF_TEMPLATES
from lllms_core.host import Host
from lllms_core.parameters.kinds import INT32, Flag, Integer
from lllms_core.parameters.wording import unknown, wrong_type

PREFIX = "/api/v1"


def make_blueprint(host: Host) -> Blueprint:
    """Return the routes over `host`."""
    routes = Blueprint("native", __name__, url_prefix=PREFIX)
    routes.register_error_handler(Exception, answer_error)

    @routes.post("/tokenize")
    async def tokenize() -> Response:
        values = read_object(await read_body())
        model, text = take_text(values, "model"), take_text(values, "text")
        special = Flag().check("add_special", values.pop("add_special", False))
        _refuse_others(values)
        tokens = await host.tokenize(model, text, add_special=special)
        # A token can be a part of a character.
        return _answer({"tokens": tokens.ids, "pieces": [piece.decode(errors="replace") for piece in tokens.pieces]})

    @routes.post("/detokenize")
    async def detokenize() -> Response:
        values = read_object(await read_body())
        model, tokens = take_text(values, "model"), _read_tokens(take(values, "tokens"))
        _refuse_others(values)
        return _answer({"text": await host.detokenize(model, tokens)})

    @routes.post("/apply-template")
    async def apply_template() -> Response:
        values = read_object(await read_body())
        model, messages = take_text(values, "model"), read_messages(take(values, "messages"))
        parameters = {name: values.pop(name) for name in OF_TEMPLATES & values.keys()}
        _refuse_others(values)
        return _answer({"prompt": await host.render(host.request(model, messages=messages, parameters=parameters))})

    return routes


def _read_tokens(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise wrong_type("tokens", "an array of integers", value)
    kind = Integer(0, INT32)
    for index, one in enumerate(value):
        kind.check(f"tokens[{index}]", one)
    return tuple(cast("list[int]", value))


def _refuse_others(values: dict[str, object]) -> None:
    for name in values:
        raise unknown(name)


def _answer(value: object) -> Response:
    return Response(dumps(value), content_type="application/json")
