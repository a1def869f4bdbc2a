"""`POST /embeddings`, and `POST /rerank` in the shape that Jina gave it."""

import asyncio
import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import cast

from attrs import frozen
from quart import Blueprint, Response

from lllms_core.builtin.openai.answers import dumps
from lllms_core.builtin.openai.body import read_body, read_object, take, take_text
from lllms_core.builtin.openai.prompts import MOST, Prompt, read_prompts
from lllms_core.errors import InvalidRequest
from lllms_core.host import Host
from lllms_core.parameters.kinds import INT32, Flag, Integer
from lllms_core.parameters.wording import empty, missing, unknown, wrong_type, wrong_value
from lllms_core.requests import check_parameters

AT_ONCE = 64
"""So many vectors are written before others get their turn: numbers as text take their time."""


def add_routes(routes: Blueprint, host: Host, prefixes: Sequence[str]) -> None:
    """Add the two routes below each prefix."""

    async def embed() -> Response:
        return await embeddings(host, await read_body())

    async def rank() -> Response:
        return await rerank(host, await read_body())

    for prefix in prefixes:
        routes.add_url_rule(f"{prefix}/embeddings", "embeddings", embed, methods=["POST"])
        routes.add_url_rule(f"{prefix}/rerank", "rerank", rank, methods=["POST"])


async def embeddings(host: Host, body: bytes) -> Response:
    """Answer with a vector for each input. Raises `LllmsError`."""
    values = read_object(body)
    inputs = read_inputs(take(values, "input"))
    entry = host.model(take_text(values, "model"))
    given = check_parameters("embeddings", entry, values)
    answer = await host.embed(entry.name, inputs, dimensions=cast("int | None", given.get("dimensions")))
    as_text = given.get("encoding_format") == "base64"
    pieces = []
    for index, vector in enumerate(answer.vectors):
        shown: object = in_base64(vector) if as_text else list(vector)
        pieces.append(dumps({"object": "embedding", "index": index, "embedding": shown}))
        if index % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    rest = dumps({"object": "list", "model": entry.name, "usage": usage})
    return Response(rest[:-1] + b',"data":[' + b",".join(pieces) + b"]}", content_type="application/json")


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
    """A ranking as a client asks for it."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int
    return_documents: bool


async def rerank(host: Host, body: bytes) -> Response:
    """Answer with the documents, the best first. Raises `LllmsError`."""
    wanted = read_ranking(body)
    entry = host.model(wanted.model)
    answer = await host.rerank(entry.name, wanted.query, wanted.documents)
    order = sorted(range(len(answer.scores)), key=lambda index: -answer.scores[index])
    results = []
    for index in order[: wanted.top_n]:
        result: dict[str, object] = {"index": index, "relevance_score": answer.scores[index]}
        if wanted.return_documents:
            result["document"] = {"text": wanted.documents[index]}
        results.append(result)
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    value = {"object": "list", "model": entry.name, "usage": usage, "results": results}
    return Response(dumps(value), content_type="application/json")


def read_ranking(body: bytes) -> Ranking:
    """Read the body of `POST /rerank`. Raises `InvalidRequest`."""
    values = read_object(body)
    query, model = take_text(values, "query"), take_text(values, "model")
    documents = _read_documents(take(values, "documents"))
    top_n = Integer(1, INT32).check("top_n", values.pop("top_n", len(documents)))
    shown = Flag().check("return_documents", values.pop("return_documents", True))
    for name in values:
        raise unknown(name)
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
