"""`/api/embed` and the older `/api/embeddings`."""

import time

from attrs import frozen
from quart import Response

from lllms_core.apis import ModelCard, Server
from lllms_core.apis.bodies import read_request
from lllms_core.apis.replies import reply, reply_large
from lllms_core.errors import ContextOverflow
from lllms_core.parameters.kinds import INT32, Integer
from lllms_core.parameters.wording import wrong_type
from lllms_core.queries import Embeddings
from lllms_ollama.lines import nanoseconds
from lllms_ollama.members import take_flag, take_idle_time, take_name, take_string
from lllms_ollama.names import find_model

NUMBER_SIZE = 20
"""Bytes of a number as text; writing many takes time."""
MOST = 2048
"""Inputs of one request."""


@frozen
class Wanted:
    """A client's request for vectors."""

    name: str
    card: ModelCard
    inputs: tuple[str, ...]
    """None of them: only load the model."""
    dimensions: int | None
    truncate: bool
    """Whether inputs that are too long for the model are cut."""
    unused: tuple[str, ...]


async def embed(server: Server) -> Response:
    """Answer `POST /api/embed`: a vector for each input."""
    wanted = await read_request(server, lambda values: read_embed(server, values), any_type=True)
    begun = time.monotonic()
    found = await _vectors(server, wanted)
    value = {
        "model": wanted.name,
        "embeddings": [list(one) for one in found.vectors],
        "total_duration": nanoseconds(time.monotonic() - begun),
        "load_duration": nanoseconds(found.timings.load),
        "prompt_eval_count": found.tokens,
    }
    return await reply_large(_size(found), lambda: value, wanted.unused)


async def embed_one(server: Server) -> Response:
    """Answer `POST /api/embeddings`: the vector of one prompt."""
    wanted = await read_request(server, lambda values: read_embed_one(server, values), any_type=True)
    found = await _vectors(server, wanted)
    return reply({"embedding": list(found.vectors[0]) if found.vectors else []}, wanted.unused)


def read_embed(server: Server, values: dict[str, object]) -> Wanted:
    """Read the members of `POST /api/embed`. Raises `LllmsError`."""
    given = values.pop("input", "")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list):
        raise wrong_type("input", "a string or an array of strings", given)
    Integer(0, MOST).check("input's length", len(inputs))
    for index, one in enumerate(inputs):
        if not isinstance(one, str):
            raise wrong_type(f"input[{index}]", "a string", one)
    dimensions = values.pop("dimensions", 0)
    size = Integer(0, INT32).check("dimensions", dimensions) or None
    return _wanted(server, values, () if given == "" else tuple(inputs), size)


def read_embed_one(server: Server, values: dict[str, object]) -> Wanted:
    """Read the members of `POST /api/embeddings`. Raises `LllmsError`."""
    prompt = take_string(values, "prompt")
    return _wanted(server, values, (prompt,) if prompt else (), None)


def _wanted(server: Server, values: dict[str, object], inputs: tuple[str, ...], dimensions: int | None) -> Wanted:
    name = take_name(values)
    card = find_model(server, name)
    truncate = take_flag(values, "truncate", default=True)
    options = values.pop("options", {})
    if not isinstance(options, dict):
        raise wrong_type("options", "an object", options)
    unused = [f"options.{option}" for option, value in options.items() if value is not None]  # none changes a vector
    if take_idle_time(values) is not None:
        unused.append("keep_alive")
    return Wanted(name, card, inputs, dimensions, truncate, tuple(unused))


async def _vectors(server: Server, wanted: Wanted) -> Embeddings:
    model = wanted.card.name
    if not wanted.inputs:
        await server.load(model)
        return Embeddings((), 0)
    try:
        return await server.embed(model, wanted.inputs, dimensions=wanted.dimensions)
    except ContextOverflow:
        limit = (await server.abilities(model)).context_length
        if not wanted.truncate or limit is None:
            raise
    inputs = [await _cut(server, model, text, limit) for text in wanted.inputs]
    return await server.embed(model, inputs, dimensions=wanted.dimensions)


async def _cut(server: Server, model: str, text: str, limit: int) -> str:
    """Return the beginning of a text that has at most `limit` tokens."""
    while len(text) > 1:
        count = len((await server.tokenize(model, text, add_special=True)).ids)
        if count <= limit:
            return text
        text = text[: max(1, min(len(text) * limit // count, len(text) - 1))]
    return text


def _size(found: Embeddings) -> int:
    return NUMBER_SIZE * sum(map(len, found.vectors))
