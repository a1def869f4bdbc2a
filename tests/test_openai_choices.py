"""Streams equal answers: `n`, log-probabilities, prompts of all kinds, over real HTTP with the official client."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from test_openai_http import serving

pytestmark = pytest.mark.slow

REPLIES = ["one two \N{GRINNING FACE} three, four"]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def mock(**options: object) -> dict[str, object]:
    return {"engine": "mock", "options": {"script": [{"replies": REPLIES}], **options}}


MODELS: dict[str, Any] = {
    "words": mock(), "bytes": mock(tokenizer="bytes"), "eliza": {"engine": "mock"},
    "slow": {**mock(tokens_per_second=1.0, slots=1), "timeout": 0.3},
}


@contextmanager
def running(config: dict[str, Any]) -> Iterator[str]:
    """A server that runs beside the tests, so that they can be plain functions; yields its URL."""
    loop = asyncio.new_event_loop()
    ready: asyncio.Future[str] = asyncio.Future(loop=loop)
    done = asyncio.Event()

    async def run() -> None:
        async with serving(config) as address:
            ready.set_result(address)
            await done.wait()

    async def wait() -> str:
        return await asyncio.wait_for(ready, 30)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    yield asyncio.run_coroutine_threadsafe(wait(), loop).result()
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"server": {"port": 0}, "models": MODELS}) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def strictly(kind: type[pydantic.BaseModel], data: str) -> None:
    """The data is of this type of the `openai` package, without conversions and without any extra fields."""
    parsed = kind.model_validate_json(data, strict=True)
    pending: list[Any] = [parsed]
    while pending:
        one = pending.pop()
        if isinstance(one, pydantic.BaseModel):
            assert not one.model_extra
            pending += one.__dict__.values()
        elif isinstance(one, list):
            pending += one


def whole(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    # The package's type forbids the nulls for the first token of an echoed prompt, which OpenAI's answers have, too.
    if body.get("logprobs") is None or not body.get("echo"):
        strictly(ChatCompletion if path == CHAT else Completion, answer.text)
    return answer.json()


def streamed(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer joined from a stream, after a check of each chunk."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    text = http.post(path, json=body).text
    *lines, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if not line.startswith(":")]
    if path == CHAT:
        for line in lines:
            strictly(ChatCompletionChunk, line.removeprefix("data: "))
    *chunks, last = chunks
    assert last["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in [*chunks, last]}) == 1
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        [piece] = chunk["choices"]
        put_together(choices, piece, chat=path == CHAT)
    return {"choices": [choices[index] for index in sorted(choices)], "usage": last["usage"]}


def put_together(choices: dict[int, dict[str, Any]], piece: dict[str, Any], *, chat: bool) -> None:
    index = piece["index"]
    if index not in choices:
        assert not chat or piece["delta"] == {"role": "assistant", "content": ""}
        empty = {"message": {"role": "assistant", "content": "", "refusal": None}} if chat else {"text": ""}
        choices[index] = {"index": index, "logprobs": None, "finish_reason": None, **empty}
    choice = choices[index]
    assert choice["finish_reason"] is None, "something after the end of a choice"
    choice["finish_reason"] = piece["finish_reason"]
    if chat:
        choice["message"]["content"] += piece["delta"].get("content", "")
    else:
        choice["text"] += piece["text"]
    if piece["logprobs"] is not None:
        known = choice["logprobs"] or {}
        choice["logprobs"] = {
            key: value if value is None else known.get(key, []) + value for key, value in piece["logprobs"].items()
        }


def same(whole: dict[str, Any], streamed: dict[str, Any]) -> bool:
    """Whether the two agree; an answer without tokens has no log-probabilities in a stream.

    How much was cached or drafted does not matter: that depends on what came before, and on time.
    """
    for one, other in zip(whole["choices"], streamed["choices"], strict=True):
        if one["logprobs"] is not None and other["logprobs"] is None:
            assert not one["logprobs"].get("content", one["logprobs"].get("tokens"))
            other["logprobs"] = one["logprobs"]
    counts = [
        {k: v for k, v in one["usage"].items() if k != "prompt_tokens_details"} | {
            "completion_tokens_details": one["usage"]["completion_tokens_details"]["reasoning_tokens"],
        }
        for one in (whole, streamed)
    ]
    return whole["choices"] == streamed["choices"] and counts[0] == counts[1]


COMMON = {
    "n": st.integers(1, 3), "stop": st.lists(st.sampled_from(["two", "\N{GRINNING FACE}", ", four", "x"]), max_size=3),
    "max_tokens": st.integers(1, 40), "seed": st.just(5),
}
CHATS = st.fixed_dictionaries(
    {"messages": st.just([{"role": "user", "content": "Hi"}])},
    optional={**COMMON, "top_logprobs": st.integers(0, 3), "logprobs": st.just(value=True)},
)
PROMPTS = st.text("ab \N{GRINNING FACE}", max_size=4) | st.lists(st.text("ab ", max_size=4), min_size=1, max_size=3)
TEXTS = st.fixed_dictionaries(
    {"prompt": PROMPTS}, optional={**COMMON, "echo": st.booleans(), "logprobs": st.integers(0, 3)},
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=CHATS | TEXTS, model=st.sampled_from(["words", "bytes"]))
def test_streams_equal_answers(http: httpx.Client, body: dict[str, Any], model: str) -> None:
    """For any parameters, the joined chunks of a stream are the answer without streaming."""
    if "top_logprobs" in body:
        body["logprobs"] = True
    path = CHAT if "messages" in body else TEXT
    body = {**body, "model": model, "temperature": 0}
    assert same(whole(http, path, body), streamed(http, path, body))


def test_choices_differ_by_their_seeds(http: httpx.Client) -> None:
    """The `n` choices are sampled independently, and the same seed gives the same ones again."""
    body = {"model": "eliza", "messages": [{"role": "user", "content": "hello"}], "n": 8, "seed": 3, "temperature": 1}
    first, again = (whole(http, CHAT, body) for _ in range(2))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len(set(texts)) > 1
    assert [choice["index"] for choice in first["choices"]] == list(range(8))


def test_prompts_are_answered_in_their_order(http: httpx.Client) -> None:
    """Each of several prompts gets its choices, numbered consecutively, and echo repeats the prompt before each."""
    body = {"model": "words", "prompt": ["a", "b"], "n": 2, "echo": True, "temperature": 0, "max_tokens": 1}
    answer = whole(http, TEXT, body)
    assert [choice["text"] for choice in answer["choices"]] == ["aone", "aone", "bone", "bone"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] == 2


def test_text_logprobs_have_the_older_form(http: httpx.Client) -> None:
    """Tokens, their log-probabilities, the most likely tokens and the offsets in the text, in arrays."""
    body = {"model": "words", "prompt": "Hi", "logprobs": 1, "max_tokens": 3, "temperature": 0}
    [choice] = whole(http, TEXT, body)["choices"]
    assert choice["logprobs"] == {
        "tokens": ["one", " two", " \N{GRINNING FACE}"], "token_logprobs": [0.0] * 3, "text_offset": [0, 3, 7],
        "top_logprobs": [{"one": 0.0}, {" two": 0.0}, {" \N{GRINNING FACE}": 0.0}],
    }


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_has_its_log_probabilities(http: httpx.Client, stream: bool) -> None:
    """With echo the arrays begin with the prompt's tokens, also for several choices; the first has no probability."""
    body = {"model": "words", "prompt": "Hi there", "logprobs": 1, "max_tokens": 1, "temperature": 0, "echo": True}
    answer = (streamed if stream else whole)(http, TEXT, {**body, "n": 2})
    for choice in answer["choices"]:
        assert choice["text"] == "Hi thereone"
        assert choice["logprobs"] == {
            "tokens": ["Hi", " there", "one"], "token_logprobs": [None, 0.0, 0.0], "text_offset": [0, 2, 8],
            "top_logprobs": [None, {" there": 0.0}, {"one": 0.0}],
        }


def test_a_prompt_alone_is_scored(http: httpx.Client) -> None:
    """If no token is to be generated, the prompt's scores are the whole answer; each of several prompts has its own."""
    body = {"model": "words", "prompt": ["a b", "c"], "logprobs": 0, "max_tokens": 0, "echo": True}
    answer = whole(http, TEXT, body)
    assert [choice["text"] for choice in answer["choices"]] == ["a b", "c"]
    assert [choice["logprobs"]["tokens"] for choice in answer["choices"]] == [["a", " b"], ["c"]]
    assert same(answer, streamed(http, TEXT, body))


def test_chat_logprobs_have_bytes(http: httpx.Client) -> None:
    """Tokens that are parts of a character come as bytes, which together are the text."""
    body = {"model": "bytes", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "temperature": 0}
    [choice] = whole(http, CHAT, body)["choices"]
    content = choice["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == REPLIES[0]
    assert all(token["top_logprobs"] == [] for token in content)


@pytest.mark.parametrize("stream", [False, True])
def test_all_choices_end_when_time_is_up(http: httpx.Client, stream: bool) -> None:
    """Choices that had not begun when the time was up have a finish reason, too."""
    body = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "n": 3}
    answer = streamed(http, CHAT, body) if stream else whole(http, CHAT, body)
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 3


def test_a_timeout_of_the_request_bounds_the_models(http: httpx.Client) -> None:
    """A request may set a shorter time limit than the model's configuration does."""
    body = {"model": "words", "prompt": "Hi", "timeout": 1e-9}
    assert whole(http, TEXT, {**body, "timeout": 5})["choices"][0]["finish_reason"] == "stop"
    assert http.post(TEXT, json={**body, "timeout": 0}).json()["error"]["param"] == "timeout"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"best_of": 3, "stream": True}, "best_of"), ({"best_of": 1, "n": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"), ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 100}, "n"),
    ],
)
def test_what_cannot_be_done_with_texts_is_refused(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    """Combinations that make no sense, or that an engine cannot do, are 400s that name the parameter."""
    answer = http.post(TEXT, json={"model": "words", "prompt": "Hi", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_best_of_several_are_kept(http: httpx.Client) -> None:
    """`best_of` generates more than it returns, and everything generated counts."""
    body = {"model": "words", "prompt": "Hi", "best_of": 3, "n": 2, "max_tokens": 2, "temperature": 0}
    answer = whole(http, TEXT, body)
    assert len(answer["choices"]) == 2
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 6


def test_the_official_client_streams_choices(url: str) -> None:
    """OpenAI's own helper joins the choices of a stream."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hi"}]
        arguments: Any = {"model": "words", "messages": messages, "n": 2, "logprobs": True, "temperature": 0}
        with client.chat.completions.stream(**arguments) as stream:
            answer = stream.get_final_completion()
    assert [choice.message.content for choice in answer.choices] == REPLIES * 2
    assert all(choice.logprobs is not None for choice in answer.choices)
