import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from serving_for_tests import serving

MESSAGES: list[Any] = [{"role": "user", "content": "Hi!"}]


def mock(**options: object) -> dict[str, object]:
    return {"engine": "mock", "options": options}


def script(*lines: Mapping[str, object], **options: object) -> dict[str, object]:
    return mock(script=list(lines), **options)


MODELS: dict[str, Any] = {
    "tell": {**script({"replies": ["one two three four five"]}), "aliases": ["story"]},
    "endless": script({"replies": ["la"], "tokens": 1000}),
    "endless-wait": script({"replies": ["one two three"]}, tokens_per_second=0.1),
    "small": script({"replies": ["la"], "tokens": 1000}, context_length=20),
    "emoji": script({"replies": ["a\N{GRINNING FACE}\u2028b"]}, tokenizer="bytes"),
    "broken": mock(load_fault="fail"),
    "failing": script({"replies": ["one two three"], "fault": "fail", "after": 2}),
    "dying": {**script({"replies": ["one two three"], "fault": "kill", "after": 2}), "isolation": "process"},
    "slow": {**script({"replies": ["one two three"]}, first_token=60.0), "timeout": 0.05},
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    async with serving({"server": {"port": 0, "max_body": 100_000}, "models": MODELS}) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url) as client:
        yield client


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    """Every model is listed, with the plugin that runs it as its owner."""
    models = (await client.models.list()).data
    assert {model.id: model.owned_by for model in models} == dict.fromkeys(MODELS, "mock")


async def test_a_model_is_found_by_name_and_alias(client: openai.AsyncOpenAI) -> None:
    """An alias leads to the model, which keeps its own name."""
    assert (await client.models.retrieve("tell")).id == "tell"
    story = (await client.models.retrieve("story")).model_dump()
    assert story["id"] == "tell"
    assert story["parameters"]["/chat/completions"]["temperature"] == "honoured"
    assert story["parameters"]["/chat/completions"]["audio"] == "refused"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


async def test_a_chat_is_answered(client: openai.AsyncOpenAI) -> None:
    """The answer has text, reason and usage, and its id names the instance."""
    answer = await client.chat.completions.create(model="story", messages=MESSAGES)
    assert answer.model == "tell"
    assert answer.id.startswith("chatcmpl-tell:")
    assert answer.system_fingerprint
    assert answer.choices[0].message.content == "one two three four five"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_a_stream_says_the_same(client: openai.AsyncOpenAI) -> None:
    """The pieces add up to the answer; all have one id; the role comes first, the reason last, then the usage."""
    stream = await client.chat.completions.create(
        model="tell", messages=MESSAGES, stream=True, stream_options={"include_usage": True},
    )
    *chunks, last = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "one two three four five"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5


async def test_text_is_completed(client: openai.AsyncOpenAI) -> None:
    """`/completions` answers, with 16 tokens by default, as in OpenAI's specification."""
    answer = await client.completions.create(model="endless", prompt="x")
    assert (answer.id[:13], answer.choices[0].finish_reason) == ("cmpl-endless:", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    stream = await client.completions.create(model="endless", prompt="x", stream=True, max_tokens=3)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "la la la"


async def test_stop_and_limit_are_honoured(client: openai.AsyncOpenAI) -> None:
    """A stop string ends the answer before itself; a limit cuts it off, and the reason says so."""
    answer = await client.chat.completions.create(model="tell", messages=MESSAGES, stop=" three")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "stop")
    answer = await client.chat.completions.create(model="tell", messages=MESSAGES, max_completion_tokens=2)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "length")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_out_of_time_is_cut(client: openai.AsyncOpenAI, stream: bool) -> None:
    """When a model's `timeout` is over, the answer ends like one that reached its limit."""
    answer: Any = await client.chat.completions.create(model="slow", messages=MESSAGES, stream=stream)
    if stream:
        answer = [chunk async for chunk in answer][-1]
    assert answer.choices[0].finish_reason == "length"


async def test_characters_come_whole(client: openai.AsyncOpenAI) -> None:
    """A character made of several tokens comes in one piece, and line separators break no line."""
    stream = await client.chat.completions.create(model="emoji", messages=MESSAGES, stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == "a\N{GRINNING FACE}\u2028b"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "nobody"}, 404, "model", "model_not_found"),
        ({"model": "broken"}, 503, None, "model_not_available"),
        ({"temperature": 3}, 400, "temperature", "decimal_above_max_value"),
        ({"temperature": "warm"}, 400, "temperature", "invalid_type"),
        ({"max_tokens": 0}, 400, "max_tokens", "integer_below_min_value"),
        ({"frequency_penalty": 1}, 400, "frequency_penalty", "unsupported_parameter"),
        ({"n": 129}, 400, "n", "integer_above_max_value"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
        ({"colour": "red"}, 400, "colour", "unknown_parameter"),
        ({"model": "small", "messages": [{"role": "user", "content": "x " * 30}]}, 400, None,
         "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, 413, None, "request_entity_too_large"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_its_status(
    http: httpx.AsyncClient, body: dict[str, object], status: int, param: str | None, code: str, stream: bool,
) -> None:
    """A refusal has OpenAI's form and the right status, whether or not the answer would have been streamed."""
    body = {"model": "tell", "messages": MESSAGES, "stream": stream, **body}
    answer = await http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert code == "context_length_exceeded" or error["param"] == param


async def test_a_chunked_body_is_bounded(http: httpx.AsyncClient) -> None:
    """A body of unannounced length is refused when it grows too large."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 10_000

    answer = await http.post("/v1/chat/completions", content=body(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "server.max_body" in answer.json()["error"]["message"]


async def test_bodies_must_be_json(http: httpx.AsyncClient) -> None:
    """Bad JSON is a 400; another content type, which foreign pages could send unasked, is a 415."""
    answer = await http.post("/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    answer = await http.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("model", "code"), [("failing", "engine_failed"), ("dying", "engine_died")])
async def test_a_failing_engine_is_told_of(http: httpx.AsyncClient, model: str, code: str) -> None:
    """It is a 500 or, once the answer has begun, an event that ends the stream, with no end mark after it."""
    body = {"model": model, "messages": MESSAGES}
    answer = await http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, code)
    answer = await http.post("/v1/chat/completions", json={**body, "stream": True})
    if answer.status_code == 500:  # it failed before any part of the answer had arrived
        assert answer.json()["error"]["code"] == code
    else:
        assert f'"code":"{code}"' in answer.text.rstrip().split("\n\n")[-1]
        assert "[DONE]" not in answer.text


async def test_the_client_learns_of_an_error_in_a_stream(client: openai.AsyncOpenAI) -> None:
    """OpenAI's own client raises the error of an error event."""
    with pytest.raises(openai.APIError, match="fail"):
        async for _ in await client.chat.completions.create(model="failing", messages=MESSAGES, stream=True):
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_closed_connection_cancels(http: httpx.AsyncClient, url: str, stream: bool) -> None:
    """The server notices that a client has hung up and frees the slot, whether or not it was sending."""

    async def running(count: int) -> None:
        async with asyncio.timeout(60):
            while (await http.get("/")).json()["requests"]["running"] != count:
                pass

    body = json.dumps({"model": "endless-wait", "messages": MESSAGES, "stream": stream}).encode()
    address = httpx.URL(url)
    _, writer = await asyncio.open_connection(address.host, address.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    await running(1)
    writer.close()
    await writer.wait_closed()
    await running(0)


async def test_both_prefixes_lead_to_the_same(http: httpx.AsyncClient) -> None:
    """The API is served under /openai/v1 and under /v1."""
    assert (await http.get("/openai/v1/models")).json() == (await http.get("/v1/models")).json()


async def test_parameters_that_ask_for_nothing_are_taken(client: openai.AsyncOpenAI) -> None:
    """Parameters that do not affect the answer, or ask for what is done anyway, are no reason to refuse."""
    answer = await client.chat.completions.create(
        model="tell", messages=MESSAGES, user="me", metadata={"a": "b"}, store=False, service_tier="auto", n=1,
        logprobs=False, tools=[], tool_choice="none", response_format={"type": "text"}, temperature=0, seed=0,
    )
    assert answer.choices[0].message.content == "one two three four five"


async def test_the_trained_model_chats_through_everything() -> None:
    """The model that ships with lllms-llamacpp answers OpenAI's client, and reuses the first turn in the second."""
    pytest.importorskip("lllms_llamacpp")
    async with (
        serving({"server": {"port": 0}}) as url,
        openai.AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="none", max_retries=0) as client,
    ):
        messages: list[Any] = [{"role": "user", "content": "Hello!"}]
        first = await client.chat.completions.create(model="tiny-chat", messages=messages, temperature=0)
        messages += [{"role": "assistant", "content": first.choices[0].message.content}]
        messages += [{"role": "user", "content": "Hello again!"}]
        second = await client.chat.completions.create(model="tiny-chat", messages=messages, temperature=0)
    assert first.choices[0].message.content
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens
