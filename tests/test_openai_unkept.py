"""Restrictions of schemas that no grammar enforces: refused if strict, else left out, checked, and reported."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
import pytest_asyncio
from serving_for_tests import serving

TINY = str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf")
MODELS: dict[str, Any] = {
    "tiny": {"engine": "llamacpp", "file": TINY, "options": {"threads": 1, "slots": 4}},
    "mock": {"engine": "mock"},
}
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "tell me a story"}], "seed": 3}

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serving({"server": {"port": 0}, "models": MODELS}) as url, httpx.AsyncClient(
        base_url=f"{url}/v1", timeout=60,
    ) as client:
        yield client


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": [*properties], "additionalProperties": False,
    }


def named(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **more}}


def forced(schema: Any, **more: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "look", "parameters": schema, **more}}
    return {"tools": [tool], "tool_choice": "required"}


WORD = closed(secretname={"const": "x"})
BROKEN = {**WORD, "not": {"required": ["secretname"]}}
KEPT = {**WORD, "not": {"required": ["other"]}}


async def chat(client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    answer = await client.post("/chat/completions", json={**ASK, **body})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(("body", "name"), [
    ({"response_format": named(BROKEN)}, "response_format#/not"),
    ({"response_format": named(BROKEN, strict=False), "n": 2}, "response_format#/not"),
    ({"json_schema": BROKEN}, "json_schema#/not"),
    ({"response_format": {"type": "json_object", "schema": BROKEN}}, "response_format#/not"),
    ({"format": BROKEN}, "format#/not"),
    ({"guided_json": json.dumps(BROKEN)}, "guided_json#/not"),
    ({"structured_outputs": {"json": BROKEN}}, "structured_outputs.json#/not"),
    (forced(BROKEN), "tools.look#/not"),
    ({"functions": [{"name": "look", "parameters": BROKEN}], "function_call": {"name": "look"}}, "tools.look#/not"),
    ({"response_format": named(closed(a={"const": "b", "minLenght": 3, "pattern": "(b)\\1"}))},
     "response_format#/properties/a/pattern"),
    ({"response_format": named(closed(a={"enum": [["b", "b"]], "uniqueItems": True}))},
     "response_format#/properties/a/uniqueItems"),
    ({"response_format": named({"$ref": "#/$defs/a,b", "$defs": {"a,b": {"const": 1, "oneOf": [{}, True]}}})},
     "response_format#/$defs/a%2Cb/oneOf"),
])
async def test_whole_answer_names_what_it_breaks(client: httpx.AsyncClient, body: dict[str, Any], name: str) -> None:
    """The rest of a schema is kept, the answer is checked, and a header names what it breaks, whatever its use."""
    answer = await chat(client, body)
    assert answer.headers["x-lllms-unkept"] == name
    assert answer.json()["choices"][0]["finish_reason"] in {"stop", "tool_calls", "function_call"}


@pytest.mark.parametrize("body", [
    {"response_format": named(KEPT)}, {"json_schema": KEPT}, forced(KEPT), {"response_format": named(WORD)},
    {"response_format": named(BROKEN), "max_tokens": 3}, {"response_format": {"type": "json_object"}}, {},
    {**forced(BROKEN), "tool_choice": "none"}, {"model": "mock", "tools": forced(BROKEN)["tools"]},
])
async def test_header_is_for_broken_restrictions(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """An answer that keeps to its schema has no header; neither has one that is cut off, or without a schema."""
    assert "x-lllms-unkept" not in (await chat(client, {"max_tokens": 40, **body})).headers


@pytest.mark.parametrize("body", [
    {"response_format": named(BROKEN, strict=True)}, {"response_format": named(KEPT, strict=True)},
    forced(BROKEN, strict=True), {**forced(BROKEN, strict=True), "tool_choice": "auto"},
    {"grammar": {"syntax": "lark", "definition": f"start: %json {json.dumps(BROKEN)}"}},
])
@pytest.mark.parametrize("stream", [False, True])
async def test_strict_schemas_are_refused(client: httpx.AsyncClient, body: dict[str, Any], *, stream: bool) -> None:
    """A strict schema, or one in a client's own grammar, is kept exactly or refused with the keyword's name."""
    answer = await client.post("/chat/completions", json={**ASK, **body, "stream": stream})
    assert answer.status_code == 400
    assert "'not' is not supported" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [
    {"response_format": named({"properties": {"a": 3}})}, {"json_schema": {"type": "thing"}},
    forced({"properties": {"a": {"anyOf": 3}}}), {"response_format": named({"const": 1, "enum": [2]})},
])
async def test_malformed_schemas_are_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """An invalid schema, or one that allows nothing at all, is refused even if it is not strict."""
    assert (await client.post("/chat/completions", json={**ASK, **body})).status_code == 400


@pytest.mark.parametrize(("schema", "name"), [(BROKEN, "response_format#/not"), (KEPT, "response_format#/not")])
async def test_stream_names_what_is_not_enforced(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, schema: Any, name: str,
) -> None:
    """A stream's header names what nothing enforces; what its answer breaks is in the log, without any of its text."""
    with caplog.at_level(logging.INFO, "lllms"):
        answer = await chat(client, {"response_format": named(schema), "stream": True})
    assert answer.headers["x-lllms-unkept"] == name
    assert answer.text.endswith("data: [DONE]\n\n")
    lines = [record.getMessage() for record in caplog.records if record.name == "lllms.answers"]
    assert len(lines) == (schema is BROKEN)
    assert all("tiny" in line and line.endswith(": not") and "secretname" not in line for line in lines)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_that_the_model_makes_by_itself_are_told_of(client: httpx.AsyncClient, *, stream: bool) -> None:
    """A call under `auto` keeps to the rest of its schema; what it breaks, or a stream might break, is named."""
    city = {**closed(city={"enum": ["rome"]}), "not": {"required": ["city"]}}
    asked = {
        "model": "tiny", "messages": [{"role": "user", "content": "What is the weather in Paris?"}], "temperature": 0,
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": city}}], "stream": stream,
    }
    answer = await chat(client, asked)
    assert stream or "rome" in answer.text
    assert answer.headers["x-lllms-unkept"] == "tools.get_weather#/not"


async def test_log_has_a_line_for_a_whole_answer(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names the keyword that an answer breaks; a keyword invented by the client is not quoted."""
    schema = closed(secretname={"const": "x", "pattern": "(b)\\1"})
    with caplog.at_level(logging.INFO, "lllms"):
        await chat(client, {"response_format": named({**schema, "secretword": 1})})
    [line] = [record.getMessage() for record in caplog.records if record.name == "lllms.answers"]
    assert line.endswith("to 1 restrictions of its schemas that nothing enforced: pattern")
    assert "secret" not in line


@pytest.mark.parametrize("stream", [False, True])
async def test_several_prompts_are_checked_each(client: httpx.AsyncClient, *, stream: bool) -> None:
    """The answers to several prompts of `/completions` are checked and reported together."""
    body = {"model": "tiny", "prompt": ["Once", "Then"], "max_tokens": 60, "json_schema": BROKEN, "stream": stream}
    answer = await client.post("/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-lllms-unkept"] == "json_schema#/not"


async def test_expression_that_never_ends_is_given_up(client: httpx.AsyncClient) -> None:
    """The check of a regular expression has a time limit, and others are answered meanwhile."""
    schema = {"const": "a" * 60 + "!", "pattern": "^(a|aa)+\\1?$"}

    async def answered() -> httpx.Response:
        return await client.get("/models")

    started = time.monotonic()
    answer, *others = await asyncio.gather(
        chat(client, {"response_format": named(schema)}), *(answered() for _ in range(5)),
    )
    assert answer.headers["x-lllms-unkept"] == "response_format#/pattern;unchecked"
    assert all(one.status_code == 200 for one in others)
    assert time.monotonic() - started < 20


async def test_header_is_bounded(client: httpx.AsyncClient) -> None:
    """A header names as many restrictions as fit, and counts the others."""
    schema = closed(**{f"property{number}": {"const": 1, "not": {}} for number in range(60)})
    answer = await chat(client, {"response_format": named(schema), "stream": True, "max_tokens": 1})
    header = answer.headers["x-lllms-unkept"]
    assert len(header) < 1100
    shown, _, rest = header.rpartition(", ")
    assert rest == f"{60 - len(shown.split(', '))} more"
    assert shown.startswith("response_format#/properties/property0/not, response_format#/properties/property1/not")


DEEP: Any = {"type": "string"}
for _ in range(400):
    DEEP = {"anyOf": [DEEP]}


@pytest.mark.parametrize(("route", "body"), [
    ("chat", {"response_format": named(DEEP)}), ("chat", {"response_format": named(DEEP, strict=True)}),
    ("chat", {"json_schema": DEEP}), ("chat", {"guided_json": DEEP}), ("chat", {"format": DEEP}),
    ("chat", {"structured_outputs": {"json": json.dumps(DEEP)}}),
    ("chat", forced(DEEP)), ("chat", {**forced(DEEP), "tool_choice": "auto"}),
    ("chat", {"functions": [{"name": "look", "parameters": DEEP}]}), ("text", {"json_schema": DEEP}),
    ("chat", {"grammar": {"syntax": "lark", "definition": f"start: %json {json.dumps(DEEP)}"}}),
    ("text", {"grammar": {"syntax": "lark", "definition": f"start: %json {json.dumps(DEEP)}"}}),
])
@pytest.mark.parametrize("model", ["tiny", "mock"])
async def test_schema_of_400_levels_is_a_400(
    client: httpx.AsyncClient, model: str, route: str, body: dict[str, Any],
) -> None:
    """A schema that is nested far too deep is refused, in any form and with any engine."""
    path, asked = ("/chat/completions", ASK) if route == "chat" else ("/completions", {"prompt": "a"})
    answer = await client.post(path, json={**asked, **body, "model": model})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in {"nested_too_deeply", "unsupported_parameter"}


async def test_sets_of_words_have_no_repetitions(client: httpx.AsyncClient) -> None:
    """`uniqueItems` for a few words is kept, even if strict: pydantic's `set[Literal[...]]` comes back as a set."""
    words = {"$ref": "#/$defs/Colour"}
    schema = {
        **closed(colours={"type": "array", "items": words, "uniqueItems": True, "minItems": 4}),
        "$defs": {"Colour": {"enum": ["red", "green", "blue", "grey"], "title": "Colour", "type": "string"}},
    }
    for seed in range(5):
        answer = await chat(client, {
            "response_format": named(schema, strict=True), "seed": seed, "temperature": 1.5, "max_tokens": 200,
        })
        colours = json.loads(answer.json()["choices"][0]["message"]["content"])["colours"]
        assert sorted(colours) == ["blue", "green", "grey", "red"]
