"""Structured output from the real server, requested by the real client."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import langchain_openai
import lllms_llamacpp
import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel, Field
from serving_for_tests import serving

TINY = str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf")
MODELS: dict[str, Any] = {
    "tiny": {"engine": "llamacpp", "file": TINY, "options": {"threads": 1, "slots": 4}},
    "mock": {"engine": "mock"},
}


class Pet(BaseModel, extra="forbid"):  # extra fields of a small model might never end
    name: str = Field(max_length=10)
    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)


class Owner(BaseModel, extra="forbid"):
    name: str = Field(max_length=10)
    pets: list[Pet] = Field(max_length=2)
    street: str | None = Field(max_length=10)


ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "tell me a story"}], "seed": 3}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "pet", "schema": Pet.model_json_schema(), "strict": True}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    async with serving({"server": {"port": 0}, "models": MODELS}) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def test_parse_returns_the_pydantic_model(client: openai.AsyncOpenAI) -> None:
    """`client.chat.completions.parse` returns an instance of the given model, nested ones included."""
    for seed in range(3):
        answer = await client.chat.completions.parse(**{**ASKED, "seed": seed}, response_format=Owner)
        [choice] = answer.choices
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Owner)
        assert choice.message.parsed == Owner.model_validate_json(choice.message.content or "")


async def test_parse_in_a_thread_of_its_own(url: str) -> None:
    """The synchronous client parses, too."""
    def parse() -> Pet | None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return client.chat.completions.parse(**ASKED, response_format=Pet).choices[0].message.parsed

    assert isinstance(await asyncio.to_thread(parse), Pet)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")  # LangChain warns of its own values
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
async def test_langchain_shapes_its_answers(url: str, method: Any) -> None:
    """LangChain's structured output works with each of its methods, also for several questions at once and streamed."""
    chat = langchain_openai.ChatOpenAI(
        model="tiny", base_url=f"{url}/v1", api_key="none", temperature=0, max_retries=0, seed=3,
    )
    if method == "json_mode":  # which leaves it to the prompt what the object is
        question = "What is the capital of Japan? Answer in JSON."
        assert await chat.with_structured_output(method=method).ainvoke(question) == {"answer": "Tokyo"}
        return
    shaped = chat.with_structured_output(Pet, method=method)
    assert all(isinstance(pet, Pet) for pet in await shaped.abatch(["tell me of a pet", "tell me a story"]))
    *_, last = [part async for part in shaped.astream("tell me of a pet")]
    assert isinstance(last, Pet)


async def test_stream_equals_the_answer(client: openai.AsyncOpenAI) -> None:
    """The `stream` helper parses the joined answer, which equals the one without streaming."""
    whole = await client.chat.completions.create(**ASKED, response_format=FORMAT)
    async with client.chat.completions.stream(**ASKED, response_format=Pet) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert isinstance(final.choices[0].message.parsed, Pet)
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


async def test_every_choice_is_valid(client: openai.AsyncOpenAI) -> None:
    """Each of several answers keeps to the schema, and they differ."""
    answer = await client.chat.completions.create(**ASKED, response_format=FORMAT, n=4, temperature=1.5)
    texts = [choice.message.content or "" for choice in answer.choices]
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 4
    assert len({Pet.model_validate_json(text).name for text in texts}) > 1


async def test_logprobs_come_along(client: openai.AsyncOpenAI) -> None:
    """Constrained answers have log-probabilities, all of which are numbers in JSON."""
    answer = await client.chat.completions.create(**ASKED, response_format=FORMAT, logprobs=True, top_logprobs=20)
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert "".join(one.token for one in choice.logprobs.content or []) == choice.message.content
    json.dumps(answer.model_dump(), allow_nan=False)


async def test_cut_answer_says_length(client: openai.AsyncOpenAI) -> None:
    """An answer cut off before it is complete ends with `length`, which the client's parser reports."""
    answer = await client.chat.completions.create(**ASKED, response_format=FORMAT, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        await client.chat.completions.parse(**ASKED, response_format=Pet, max_tokens=3)


async def test_json_object(client: openai.AsyncOpenAI) -> None:
    """`json_object` gives a JSON object, or the beginning of one."""
    answer = await client.chat.completions.create(**ASKED, response_format={"type": "json_object"}, max_tokens=100)
    choice = answer.choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content or ""), dict)


@pytest.mark.parametrize(("extension", "expected"), [
    ({"json_schema": {"enum": ["red", "green"]}}, '"(red|green)"'),
    ({"grammar": 'root ::= "red" | "green"'}, "red|green"),
    ({"grammar": {"syntax": "lark", "definition": 'start: "a" | "b"'}}, "a|b"),
    ({"grammar": {"syntax": "regex", "definition": "[x-z]{3}"}}, "[x-z]{3}"),
])
async def test_extensions_constrain_chats_and_texts(
    client: openai.AsyncOpenAI, extension: dict[str, Any], expected: str,
) -> None:
    """`json_schema` and `grammar` constrain the answers of `/chat/completions` and `/completions`."""
    chat = await client.chat.completions.create(**ASKED, extra_body=extension)
    text = await client.completions.create(model="tiny", prompt="Once", extra_body=extension)
    for answer in (chat.choices[0].message.content or "", text.choices[0].text):
        assert re.fullmatch(expected, answer)


@pytest.mark.parametrize(("model", "body", "param", "code"), [
    ("tiny", {"response_format": {"type": "json_schema", "json_schema": {
        "name": "n", "schema": {"not": {}}, "strict": True,
    }}}, "response_format", "invalid_json_schema"),
    ("tiny", {"grammar": "root ::= missing"}, "grammar", "invalid_grammar"),
    ("tiny", {"grammar": {"syntax": "regex", "definition": "(a"}}, "grammar", "invalid_grammar"),
    ("tiny", {"grammar": "root ::= [a]", "json_schema": {}}, "grammar", "invalid_value"),
    ("tiny", {"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    ("mock", {"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ("mock", {"grammar": "root ::= [a]"}, "grammar", "unsupported_parameter"),
])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_kept_is_refused_by_name(
    client: openai.AsyncOpenAI, model: str, body: dict[str, Any], param: str | None, code: str, *, stream: bool,
) -> None:
    """A malformed form, or one that cannot be kept or that the engine lacks, is a 400 that names the parameter."""
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(**{**ASKED, "model": model}, stream=stream, extra_body=body)
    assert (raised.value.param, raised.value.code) == (param, code)


async def test_constrained_and_free_answers_share_a_batch(client: openai.AsyncOpenAI) -> None:
    """Constrained requests neither change nor delay others that run beside them."""
    count: dict[str, Any] = {
        "model": "tiny", "messages": [{"role": "user", "content": "lets count to 10"}], "temperature": 0,
    }
    alone = await client.chat.completions.create(**count)
    answers = await asyncio.gather(*(
        client.chat.completions.create(**{**ASKED, "seed": seed}, response_format=FORMAT) if seed % 2
        else client.chat.completions.create(**count) for seed in range(8)
    ))
    for seed, answer in enumerate(answers):
        text = answer.choices[0].message.content or ""
        if seed % 2:
            Pet.model_validate_json(text)
        else:
            assert text == alone.choices[0].message.content
