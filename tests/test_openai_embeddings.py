"""`/embeddings`, `/rerank` and the native API, over HTTP, with the real client and real models."""

import base64
from array import array
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from serving_for_tests import serving

pytest.importorskip("lllms_llamacpp")

MODELS: dict[str, Any] = {
    "mock": {"engine": "mock", "options": {"context_length": 50}, "aliases": ["text-embedding-3-small"]},
    "sick": {"engine": "mock", "options": {"script": [{"when": "boom", "fault": "fail"}]}},
}

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    from lllms_llamacpp import lllms_models

    file = str(next(iter(lllms_models())).file)
    models = {
        **MODELS,
        "tiny-chat": {"engine": "llamacpp", "file": file},
        "tiny-vectors": {
            "engine": "llamacpp", "file": file,
            "options": {
                "embeddings": True, "pooling": "mean", "context_length": 64, "threads": 1, "token_inputs": True,
            },
        },
    }
    async with serving({"server": {"port": 0}, "models": models}) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("model", ["text-embedding-3-small", "tiny-vectors"])
async def test_the_client_gets_vectors(client: openai.AsyncOpenAI, model: str) -> None:
    """OpenAI's client asks for base64 by default, and gets the same numbers as with floats; vectors have length 1."""
    texts = ["Hello there!", "lets count to 10", "Hello there!"]
    answer = await client.embeddings.create(model=model, input=texts, user="me")
    assert (answer.object, [one.index for one in answer.data]) == ("list", [0, 1, 2])
    assert answer.data[0].embedding == pytest.approx(answer.data[2].embedding, abs=1e-4)
    assert answer.data[0].embedding != pytest.approx(answer.data[1].embedding, abs=1e-2)
    assert sum(number**2 for number in answer.data[0].embedding) == pytest.approx(1)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3
    floats = await client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert floats.data[1].embedding == answer.data[1].embedding
    assert floats.model == answer.model


async def test_one_text_and_tokens(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """A single text, its tokens, and a list of those tokens give the same vector; so do both prefixes of the routes."""
    told = await http.post("/api/v1/tokenize", json={"model": "tiny-vectors", "text": "Hello there!"})
    tokens = told.json()["tokens"]
    [[text], [single], [listed]] = [
        [one.embedding for one in (await client.embeddings.create(model="tiny-vectors", input=given)).data]
        for given in ("Hello there!", tokens, [tokens])
    ]
    assert text == pytest.approx(single, abs=1e-5)
    assert text == pytest.approx(listed, abs=1e-5)
    body = {"model": "tiny-vectors", "input": "Hello there!", "encoding_format": "base64"}
    answer = (await http.post("/openai/v1/embeddings", json=body)).json()
    assert list(array("f", base64.b64decode(answer["data"][0]["embedding"]))) == pytest.approx(text, abs=1e-5)


async def test_as_many_as_allowed(client: openai.AsyncOpenAI) -> None:
    """2,048 inputs are accepted; one more is refused with the limit."""
    answer = await client.embeddings.create(model="mock", input=[str(number) for number in range(2048)])
    assert len(answer.data) == 2048
    with pytest.raises(openai.BadRequestError, match=r"maximum length 2048, but got .* 2049") as raised:
        await client.embeddings.create(model="mock", input=["a"] * 2049)
    assert (raised.value.param, raised.value.code) == ("input", "array_above_max_length")


async def test_dimensions(client: openai.AsyncOpenAI) -> None:
    """Fewer dimensions are cut and have length 1, or are refused if the model was not trained for them."""
    answer = await client.embeddings.create(model="mock", input="red cat", dimensions=8)
    assert len(answer.data[0].embedding) == 8
    assert sum(number**2 for number in answer.data[0].embedding) == pytest.approx(1)
    for model, dimensions in (("mock", 65), ("tiny-vectors", 8)):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.embeddings.create(model=model, input="a", dimensions=dimensions)
        assert raised.value.param == "dimensions"


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": ""}, 400, "input", "string_below_min_length"),
        ({"input": ["a", ""]}, 400, "input[1]", "string_below_min_length"),
        ({"input": []}, 400, "input", "empty_array"),
        ({"input": [[]]}, 400, "input[0]", "empty_array"),
        ({"input": None}, 400, "input", "missing_required_parameter"),
        ({"input": 7}, 400, "input", "invalid_type"),
        ({"input": ["a", 7]}, 400, "input[1]", "invalid_type"),
        ({"input": [1, "a"]}, 400, "input[1]", "invalid_type"),
        ({"input": [-1]}, 400, "input[0]", "integer_below_min_value"),
        ({"input": [True]}, 400, "input[0]", "invalid_type"),
        ({"input": [999_999], "model": "tiny-vectors"}, 400, "input", "invalid_request"),
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"model": "nobody"}, 404, "model", "model_not_found"),
        ({"model": "tiny-chat"}, 400, "model", "invalid_request"),
        ({"encoding_format": "hex"}, 400, "encoding_format", "invalid_value"),
        ({"dimensions": 0}, 400, "dimensions", "integer_below_min_value"),
        ({"colour": "red"}, 400, "colour", "unknown_parameter"),
        ({"input": "a " * 60}, 400, "input", "context_length_exceeded"),
        ({"input": ["a", "a " * 200], "model": "tiny-vectors"}, 400, "input[1]", "context_length_exceeded"),
        ({"input": "boom", "model": "sick"}, 500, None, "engine_failed"),
    ],
)
async def test_bad_input_is_named(
    http: httpx.AsyncClient, body: dict[str, object], status: int, param: str | None, code: str,
) -> None:
    """An input that cannot be embedded is refused in OpenAI's form, with its place."""
    answer = await http.post("/v1/embeddings", json={"model": "mock", "input": "a", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)


async def test_models_that_write_do_not_embed_and_the_reverse(client: openai.AsyncOpenAI) -> None:
    """The refusal says what the model can do, or which route to use."""
    with pytest.raises(openai.BadRequestError, match=r"options\.embeddings = true"):
        await client.embeddings.create(model="tiny-chat", input="a")
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        await client.completions.create(model="tiny-vectors", prompt="a")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"text": 1}]}, "documents[0].text"),
        ({"documents": [{"title": "a"}]}, "documents[0].title"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
        ({"rank_fields": ["a"]}, "rank_fields"),
        ({}, "model"),
    ],
)
async def test_rankings_that_cannot_be(http: httpx.AsyncClient, body: dict[str, object], param: str) -> None:
    """Bad input is named, and so is a model that does not rank."""
    answer = await http.post("/v1/rerank", json={"model": "tiny-chat", "query": "a", "documents": ["b"], **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_tokens_are_told(http: httpx.AsyncClient) -> None:
    """Tokens, their pieces and the text again; control tokens are parsed, and BOS is added on request."""
    text = "<|im_start|>user\nHi there 🙂<|im_end|>"
    told = (await http.post("/api/v1/tokenize", json={"model": "tiny-chat", "text": text})).json()
    assert len(told["tokens"]) == len(told["pieces"])
    assert told["pieces"][0] == "<|im_start|>"
    back = await http.post("/api/v1/detokenize", json={"model": "tiny-chat", "tokens": told["tokens"]})
    assert back.json() == {"text": text}
    mock = await http.post("/api/v1/tokenize", json={"model": "mock", "text": "é"})
    assert mock.json() == {"tokens": [195, 169], "pieces": ["\N{REPLACEMENT CHARACTER}"] * 2}


async def test_a_prompt_is_told(http: httpx.AsyncClient, client: openai.AsyncOpenAI) -> None:
    """The prompt of a chat is the one that its answer starts from: it has as many tokens as the answer's usage says."""
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
    answer = await http.post("/api/v1/apply-template", json={"model": "tiny-chat", "messages": messages})
    prompt = answer.json()["prompt"]
    assert "Be brief." in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    body = {"model": "tiny-chat", "text": prompt, "add_special": True}
    tokens = (await http.post("/api/v1/tokenize", json=body)).json()["tokens"]
    chat = await client.chat.completions.create(model="tiny-chat", messages=messages, max_tokens=1)
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == len(tokens)


async def test_a_prompt_shows_the_tools(http: httpx.AsyncClient) -> None:
    """The tools of a chat are in its prompt."""
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    body = {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hi!"}], "tools": [tool]}
    answer = await http.post("/api/v1/apply-template", json=body)
    assert "get_weather" in answer.json()["prompt"]


@pytest.mark.parametrize(
    ("route", "body", "status", "param"),
    [
        ("tokenize", {"model": "tiny-chat"}, 400, "text"),
        ("tokenize", {"model": "tiny-chat", "text": 1}, 400, "text"),
        ("tokenize", {"model": "nobody", "text": "a"}, 404, "model"),
        ("tokenize", {"model": "tiny-chat", "text": "a", "colour": 1}, 400, "colour"),
        ("tokenize", {"model": "tiny-chat", "text": "a", "add_special": 1}, 400, "add_special"),
        ("detokenize", {"model": "tiny-chat", "tokens": "a"}, 400, "tokens"),
        ("detokenize", {"model": "tiny-chat", "tokens": [1, "a"]}, 400, "tokens[1]"),
        ("detokenize", {"model": "tiny-chat", "tokens": [999_999]}, 400, "tokens"),
        ("apply-template", {"model": "tiny-chat", "messages": []}, 400, "messages"),
        ("apply-template", {"model": "tiny-chat", "messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ("apply-template", {"model": "mock", "messages": [{"role": "user", "content": "a"}]}, 400, "model"),
    ],
)
async def test_the_native_api_refuses_by_name(
    http: httpx.AsyncClient, route: str, body: dict[str, object], status: int, param: str,
) -> None:
    """The native API's errors have OpenAI's form, too."""
    answer = await http.post(f"/api/v1/{route}", json=body)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (answer.status_code, error["param"]) == (status, param)
