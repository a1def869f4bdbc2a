"""`POST /embeddings`, and `POST /rerank` in the shape that Jina gave it."""

import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence

from attrs import frozen
from quart import Blueprint, Response

from lllms_core.apis import Server
from lllms_core.apis.bodies import read_body, read_object, refuse_others, take, take_text, work
from lllms_core.apis.replies import reply_json, reply_large
from lllms_core.apis.writing import dumps
from lllms_core.builtin.openai.prompts import MOST, Prompt, read_prompts
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.bounds import LEVELS
from lllms_core.parameters.kinds import INT32, Flag, Integer
from lllms_core.parameters.wording import empty, missing, unknown, wrong_type, wrong_value
from lllms_core.queries import Embeddings

NUMBER_SIZE = 20
"""Bytes of a number as text; writing many takes time."""


def add_routes(routes: Blueprint, server: Server, prefixes: Sequence[str]) -> None:
    """Add the two routes below each prefix."""

    async def embed() -> Response:
        return await embeddings(server, await read_body())

    async def rank() -> Response:
        return await rerank(server, await read_body())

    for prefix in prefixes:
        routes.add_url_rule(f"{prefix}/embeddings", "embeddings", embed, methods=["POST"])
        routes.add_url_rule(f"{prefix}/rerank", "rerank", rank, methods=["POST"])


async def embeddings(server: Server, body: bytes) -> Response:
    """Answer with a vector for each input. Raises `LllmsError`."""
    wanted = await work(len(body), lambda: read_embedding(server, body))
    answer = await server.embed(wanted.model, wanted.inputs, dimensions=wanted.dimensions)
    size = NUMBER_SIZE * sum(map(len, answer.vectors))
    return reply_json(await work(size, lambda: _write(wanted, answer)), wanted.unused)


@frozen
class Embedding:
    """A client's request for vectors."""

    model: str
    inputs: tuple[Prompt, ...]
    dimensions: int | None
    as_text: bool
    """Whether in base64."""
    unused: tuple[str, ...]
    """The names of parameters that nothing acts on."""


def read_embedding(server: Server, body: bytes) -> Embedding:
    """Read the body of `POST /embeddings`. Raises `LllmsError`."""
    values = read_object(body, server.json_levels)
    inputs = read_inputs(take(values, "input"))
    card = server.model(take_text(values, "model"))
    given = server.check("embeddings", card.name, values)
    as_text = given.values.get("encoding_format") == "base64"
    return Embedding(card.name, inputs, given.values.get("dimensions"), as_text, given.unused)


def _write(wanted: Embedding, answer: Embeddings) -> bytes:
    pieces = []
    for index, vector in enumerate(answer.vectors):  # one by one: nothing else runs while numbers become text
        shown: object = in_base64(vector) if wanted.as_text else list(vector)
        pieces.append(dumps({"object": "embedding", "index": index, "embedding": shown}))
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    rest = dumps({"object": "list", "model": wanted.model, "usage": usage})
    return rest[:-1] + b',"data":[' + b",".join(pieces) + b"]}"


def read_inputs(value: object) -> tuple[Prompt, ...]:
    """Read `input`: a text, several, the tokens of one, or those of several. Raises `InvalidRequest`."""
    inputs = read_prompts("input", value)
    if "" in inputs:
        name = "input" if value == "" else f"input[{inputs.index('')}]"
        raise InvalidRequest(f"Invalid '{name}': input cannot be an empty string.", name, "string_below_min_length")
    return inputs


def in_base64(vector: Sequence[float]) -> str:
    """Return the numbers as little-endian floats of four bytes, in base64: what OpenAI's clients ask for."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()


@frozen
class Ranking:
    """A client's request for a ranking."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int
    return_documents: bool


async def rerank(server: Server, body: bytes) -> Response:
    """Answer with the documents, the best first. Raises `LllmsError`."""
    wanted = await work(len(body), lambda: read_ranking(body, server.json_levels))
    card = server.model(wanted.model)
    answer = await server.rerank(card.name, wanted.query, wanted.documents)
    order = sorted(range(len(answer.scores)), key=lambda index: -answer.scores[index])
    results = []
    for index in order[: wanted.top_n]:
        result: dict[str, object] = {"index": index, "relevance_score": answer.scores[index]}
        if wanted.return_documents:
            result["document"] = {"text": wanted.documents[index]}
        results.append(result)
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    value = {"object": "list", "model": card.name, "usage": usage, "results": results}
    return await reply_large(len(body), lambda: value)


def read_ranking(body: bytes, levels: int = LEVELS) -> Ranking:
    """Read the body of `POST /rerank`, nested `levels` deep at most. Raises `InvalidRequest`."""
    values = read_object(body, levels)
    query, model = take_text(values, "query"), take_text(values, "model")
    documents = _read_documents(take(values, "documents"))
    top_n = Integer(1, INT32).check("top_n", values.pop("top_n", len(documents)))
    shown = Flag().check("return_documents", values.pop("return_documents", True))
    refuse_others(values)
    return Ranking(model, query, documents, top_n, shown)


def _read_documents(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise wrong_type("documents", "an array of strings or objects", value)
    if not value:
        raise empty("documents")
    if len(value) > MOST:
        limit, got = f"an array with maximum length {MOST}", f"an array with length {len(value)}"
        raise wrong_value("documents", "array too long", limit, got, "array_above_max_length")
    return tuple(_read_document(one, f"documents[{index}]") for index, one in enumerate(value))


def _read_document(value: object, path: str) -> str:
    if isinstance(value, dict):
        for name in value.keys() - {"text"}:
            raise unknown(f"{path}.{name}")
        if "text" not in value:
            raise missing(f"{path}.text")
        path, value = f"{path}.text", value["text"]
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    return value
