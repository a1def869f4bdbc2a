"""JSON from a model whose output is not constrained."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import lllms_llamacpp
import pytest
import pytest_asyncio
from lllms_gpt4all.structured import Checker, attempts

from lllms_core.config import parse_config
from lllms_core.errors import EngineFailed, InvalidRequest, UnsupportedParameter
from lllms_core.host import Host
from lllms_core.types import ChatRequest, Constraint, Message, Request, Sampling

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
ANN = "Give me a JSON object with name Ann and age 31."
PERSON = {
    "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"], "additionalProperties": False,
}


def schema(value: object) -> Constraint:
    return Constraint("json_schema", json.dumps(value))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": [1, {"b": 2}]}', '{"a": [1, {"b": 2}]}'),
        ('Here you are:\n```json\n{"a": 1}\n```\nAnything else? {', '{"a": 1}'),
        ('{"a": 1', None),
        ("[1, 2]", None),
        ('"a"', None),
        ("", None),
        ("no JSON at all", None),
        ('{"a": NaN}', None),
        ("{" * 100_000, None),
    ],
)
def test_an_object_is_found(text: str, found: str | None) -> None:
    """The first JSON value counts, whatever surrounds it, if it is complete, an object, and valid JSON."""
    assert Checker(Constraint("json_object")).find(text) == found


def test_a_schema_is_checked() -> None:
    """Only a value that fits the schema is found, also one that is no object."""
    person = Checker(schema(PERSON))
    assert person.find('Sure! {"name": "Ann", "age": 31}') == '{"name": "Ann", "age": 31}'
    assert person.find('{"name": "Ann", "age": "31"}') is None
    assert person.find('{"name": "Ann"}') is None
    assert Checker(schema({"type": "array", "items": {"type": "integer"}})).find(" [1, 2] ") == "[1, 2]"
    assert Checker(schema({"enum": ["yes", "no"]})).find(' "yes"') == '"yes"'


@pytest.mark.parametrize("bad", [{"type": "thing"}, {"properties": 1}, 5])
def test_a_faulty_schema_is_refused(bad: object) -> None:
    """An invalid JSON schema is refused with the name of its parameter."""
    with pytest.raises(InvalidRequest, match="not a JSON schema") as refusal:
        Checker(schema(bad))
    assert refusal.value.param == "response_format"


def test_all_restrictions_are_checked() -> None:
    """Keywords that no grammar supports, formats and `nullable` are checked like any others; annotations are not."""
    checker = Checker(schema({
        "type": "object", "properties": {"a": {"format": "date", "type": "string", "nullable": True}}, "title": "T",
        "not": {"required": ["b"]}, "contentEncoding": "base64", "format": "int32", "x-order": 1,
    }))
    assert checker.find('{"a": "2024-02-29"}') is not None
    assert checker.find('{"a": null}') is not None
    assert checker.find('{"a": "2024-02-30"}') is None
    assert checker.find('{"b": 1}') is None


@pytest.mark.parametrize(("bad", "word"), [
    ({"pattern": "(a"}, "not a 'regex'"), ({"pattern": "(a|aa)+$"}, "too long"), ({"$ref": "#"}, "too (deeply|long)"),
])
def test_what_cannot_be_checked_is_refused(bad: object, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema whose check never ends fails its request, not the model."""
    monkeypatch.setattr("lllms_gpt4all.structured._SECONDS", 0.2)
    with pytest.raises(InvalidRequest, match=word) as refusal:
        Checker(schema(bad)).find(json.dumps("a" * 60 + "b"))
    assert refusal.value.code == "invalid_json_schema"


def test_nothing_is_fetched() -> None:
    """A schema with a remote reference is refused, and nothing is fetched."""
    with pytest.raises(InvalidRequest, match="not in it"):
        Checker(schema({"$ref": "http://127.0.0.1:9/schema"})).find("{}")


def test_attempts_are_bounded_and_differ() -> None:
    """Without randomness there are two ways to ask; with it, each is repeated once with another seed."""
    checker = Checker(schema(PERSON))
    for temperature, count in ((0.0, 2), (1.0, 4)):
        sampling = Sampling(temperature=temperature, seed=3)
        request = ChatRequest("r", "m", (Message("user", ANN),), sampling=sampling, constraint=schema(PERSON))
        asked = [(one.messages, one.sampling.seed) for one in attempts(request, checker)]
        assert len(asked) == len({*map(str, asked)}) == count
        assert any(messages == request.messages for messages, _ in asked)
    ruled = ChatRequest("r", "m", (Message("system", "Be brief."), Message("user", ANN)), constraint=schema(PERSON))
    [told, *_] = attempts(ruled, checker)
    assert told.messages is not None
    assert [message.role for message in told.messages] == ["system", "user"]
    assert told.messages[0].content.startswith("Be brief.\n\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host() -> AsyncIterator[Host]:
    model = {"engine": "gpt4all", "file": str(TINY), "options": {"threads": 1}}
    async with Host(parse_config({"models": {"tiny": model}})) as host:
        yield host


def ask(host: Host, text: str, response_format: dict[str, object], **parameters: object) -> Request:
    given = {"temperature": 0, "response_format": response_format, **parameters}
    return host.request("tiny", messages=[Message("user", text)], parameters=given)


def named(value: object, **more: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value, **more}}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("form", [{"type": "json_object"}, named(PERSON), named(PERSON, strict=False)])
async def test_an_answer_is_json(host: Host, form: dict[str, object]) -> None:
    """The answer is the requested JSON and nothing else, and its usage is exact."""
    async with host.submit(ask(host, ANN, form)) as stream:
        deltas = [delta async for delta in stream]
    assert json.loads("".join(delta.text for delta in deltas)) == {"name": "Ann", "age": 31}
    finish = deltas[-1].finish
    assert finish is not None
    assert finish.reason == "stop"
    assert sum(delta.tokens for delta in deltas) == finish.usage.completion_tokens > 5


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_model_cannot_write_fails(host: Host) -> None:
    """After the last attempt the request fails, by name; the model keeps serving."""
    with pytest.raises(EngineFailed, match="'response_format' asks for in 2 attempts"):
        await host.submit(ask(host, "Say pong.", named({"type": "array"}))).gather()
    assert (await host.submit(ask(host, "Say pong.", {"type": "text"})).gather()).text == "pong"


@pytest.mark.asyncio(loop_scope="module")
async def test_restrictions_of_all_kinds_are_kept_or_fail(host: Host) -> None:
    """An answer is tried again until it fits restrictions that no grammar enforces; if none does, the request fails."""
    fits, never = ({**PERSON, "title": "P", "not": {"required": [name]}} for name in ("street", "age"))
    assert json.loads((await host.submit(ask(host, ANN, named(fits))).gather()).text) == {"name": "Ann", "age": 31}
    with pytest.raises(EngineFailed, match="in 2 attempts"):
        await host.submit(ask(host, ANN, named(never))).gather()


@pytest.mark.asyncio(loop_scope="module")
async def test_expression_that_cannot_be_read_costs_its_request(host: Host) -> None:
    """A faulty expression in a schema is the client's fault; the model keeps serving."""
    faulty = {**PERSON, "properties": {"name": {"pattern": "(a"}, "age": {}}}
    with pytest.raises(InvalidRequest, match="not a 'regex'"):
        await host.submit(ask(host, ANN, named(faulty))).gather()
    assert (await host.submit(ask(host, "Say pong.", {"type": "text"})).gather()).text == "pong"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_cancel_ends_the_attempts(host: Host) -> None:
    """A client that leaves while an endless answer is checked frees the slot."""
    async with host.submit(ask(host, "Count to 100.", {"type": "json_object"})) as stream:
        while not host.status().running:
            await stream.wait()
    assert (await host.submit(ask(host, "Say pong.", {"type": "text"})).gather()).text == "pong"


@pytest.mark.asyncio(loop_scope="module")
async def test_what_cannot_be_promised_is_refused(host: Host) -> None:
    """`strict`, which would guarantee the schema, is refused by name, and so are grammars."""
    with pytest.raises(UnsupportedParameter) as refusal:
        ask(host, ANN, named(PERSON, strict=True))
    assert refusal.value.param == "response_format.json_schema.strict"
    with pytest.raises(UnsupportedParameter) as refusal:
        host.request("tiny", messages=[Message("user", ANN)], parameters={"grammar": 'root ::= "a"'})
    assert refusal.value.param == "grammar"
