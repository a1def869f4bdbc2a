"""The trained model through everything: streams equal answers, log-probabilities, choices, prompts of all kinds."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from chunks_for_tests import comparable, put_together
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_openai_choices import CHAT, TEXT, running, same, streamed, whole

pytestmark = pytest.mark.slow

pytest.importorskip("lllms_llamacpp")

SAY = [{"role": "user", "content": "Say \N{GRINNING FACE}."}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"server": {"port": 0}}) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


CHATS = st.fixed_dictionaries({
    "messages": st.sampled_from(["Hi!", "Say \N{GRINNING FACE}.", "lets count to 10"]).map(
        lambda text: [{"role": "user", "content": text}],
    ),
    "n": st.integers(1, 3), "stop": st.sampled_from([[], ["3"], ["help", "elp you"], ["\N{GRINNING FACE}"]]),
    "max_tokens": st.integers(1, 30), "logprobs": st.booleans(),
})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=CHATS)
def test_streams_equal_answers(http: httpx.Client, body: dict[str, Any]) -> None:
    """The joined chunks are the answer, with real tokens, stop strings across them, and multi-token characters."""
    body = {**body, "model": "tiny-chat", "temperature": 0}
    assert same(without_chances(whole(http, CHAT, body)), without_chances(streamed(http, CHAT, body)))


def tool(name: str, *keys: str, **fields: object) -> dict[str, object]:
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in keys}, "required": [*keys],
              "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema, **fields}}


# Each asks what the model is sure of: otherwise a close decision may come out differently depending on where in the
# cache its tokens lie.
SCHEMA = {
    "type": "object", "properties": {"answer": {"enum": ["Paris", "Tokyo"]}}, "required": ["answer"],
    "additionalProperties": False,
}
CALLING = {
    "tools": st.sampled_from([[tool("get_weather", "city")], [tool("get_weather", "city", strict=True)]]),
    "tool_choice": st.sampled_from(["auto", "required"]), "parallel_tool_calls": st.booleans(),
}
FORMATS = {"response_format": st.sampled_from([
    {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
])}
GRAMMARS = {"grammar": st.sampled_from([
    'root ::= "The " ("weather" | "capital") | "banana"', {"syntax": "regex", "definition": "(Tokyo|banana|Paris)\\.?"},
])}
KINDS = (
    (CALLING, "What is the weather in Paris and Berlin?"), (FORMATS, "What is the capital of Japan? Answer in JSON."),
    (GRAMMARS, "Say banana."),
)
CONSTRAINED = st.one_of(*(
    st.fixed_dictionaries(
        {"messages": st.just([{"role": "user", "content": question}]), **kind},
        optional={"n": st.integers(1, 3), "max_tokens": st.integers(1, 80), "stop": st.just(["ar"]),
                  "logprobs": st.just(value=True)},
    ) for kind, question in KINDS
))


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=CONSTRAINED)
def test_streams_equal_constrained_answers(http: httpx.Client, body: dict[str, Any]) -> None:
    """The joined chunks are the answer also with tools, forced calls, schemas and grammars."""
    body = {**body, "model": "tiny-chat", "temperature": 0, "max_tokens": body.get("max_tokens", 120)}
    answers = [http.post(CHAT, json={**body, "stream": stream}) for stream in (False, True)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    one, other = comparable(answers[0].json()["choices"]), comparable(put_together(answers[1].text))
    for choice in [*one, *other]:
        choice["logprobs"] = [token["token"] for token in (choice["logprobs"] or {}).get("content", ())]
    assert one == other
    for choice in one:
        if "response_format" in body and choice["finish_reason"] == "stop" and "stop" not in body:
            json.loads(choice["message"]["content"])


def without_chances(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with log-probabilities rounded: llama.cpp's sums depend a little on where in the cache tokens lie."""
    for choice in answer["choices"]:
        for token in (choice["logprobs"] or {}).get("content", []):
            token["logprob"] = round(token["logprob"], 1) + 0.0
    return answer


def test_tokens_of_a_character_are_bytes(http: httpx.Client) -> None:
    """The four tokens of an emoji are distinguished, and form it together."""
    body = {"model": "tiny-chat", "messages": SAY, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    [choice] = whole(http, CHAT, body)["choices"]
    content = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "\N{GRINNING FACE}"
    assert [token["token"] for token in content] == ["\\xf0", "\\x9f", "\\x98", "\\x80"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "\N{GRINNING FACE}"
    assert all(token["top_logprobs"][0]["logprob"] == token["logprob"] for token in content)


def test_prompts_of_tokens_are_echoed_as_text(http: httpx.Client) -> None:
    """A prompt of tokens is continued like its text, and echoed as text."""
    prompt = "The capital of France is"
    tokens = http.post("/api/v1/tokenize", json={"model": "tiny-chat", "text": prompt}).json()["tokens"]
    body = {"model": "tiny-chat", "temperature": 0, "max_tokens": 4, "echo": True}
    [text, of_tokens] = [whole(http, TEXT, {**body, "prompt": one})["choices"][0]["text"] for one in (prompt, tokens)]
    assert text.startswith("The capital of France is Pari")
    assert of_tokens.strip().startswith(prompt)
    answer = whole(http, TEXT, {**body, "prompt": [prompt, "1, 2, 3,"], "echo": False})
    assert answer["choices"][1]["text"].startswith(" 4")


def test_the_likeliest_of_several_come_first(http: httpx.Client) -> None:
    """`best_of` orders by the mean log-probability of the tokens."""
    body = {"model": "tiny-chat", "prompt": "Once upon a time", "best_of": 6, "n": 3, "seed": 1, "temperature": 1.5,
            "max_tokens": 8, "logprobs": 0}
    choices = whole(http, TEXT, body)["choices"]
    means = [sum(values) / len(values) for values in (choice["logprobs"]["token_logprobs"] for choice in choices)]
    assert means == sorted(means, reverse=True)
    assert len({choice["text"] for choice in choices}) > 1


def test_a_last_answer_is_continued(http: httpx.Client) -> None:
    """A trailing message of the assistant is a beginning that the model continues."""
    messages = [{"role": "user", "content": "lets count to 10"}, {"role": "assistant", "content": "Sure, let's count"}]
    answer = whole(http, CHAT, {"model": "tiny-chat", "messages": messages, "temperature": 0})
    assert answer["choices"][0]["message"]["content"].startswith(" to 10")


def test_a_bias_bans_a_token(http: httpx.Client) -> None:
    """`logit_bias` reaches the sampler, and a token that does not exist is a 400."""
    body = {"model": "tiny-chat", "messages": [{"role": "user", "content": "ping"}], "temperature": 0}
    assert whole(http, CHAT, body)["choices"][0]["message"]["content"] == "pong"
    ids = http.post("/api/v1/tokenize", json={"model": "tiny-chat", "text": "pong"}).json()["tokens"]
    banned = whole(http, CHAT, {**body, "logit_bias": {str(one): -100 for one in ids}, "max_tokens": 5})
    assert banned["choices"][0]["message"]["content"] != "pong"
    refused = http.post(CHAT, json={**body, "logit_bias": {"999999": 1}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logit_bias.999999")


async def test_the_async_client_gets_the_same(url: str) -> None:
    """OpenAI's asynchronous client gets, whole and streamed, the same as the synchronous one."""
    arguments: Any = {"model": "tiny-chat", "messages": SAY, "temperature": 0, "n": 2}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        sync = [choice.message.content for choice in client.chat.completions.create(**arguments).choices]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(**arguments)
        async with client.chat.completions.stream(**arguments) as stream:
            streamed = await stream.get_final_completion()
    assert sync == [choice.message.content for choice in answer.choices] == ["\N{GRINNING FACE}"] * 2
    assert sync == [choice.message.content for choice in streamed.choices]


@pytest.mark.parametrize("prompt", ["The capital of France is Paris.", [3, 300, 301, 302], "<|im_start|>user\nHi"])
def test_echoed_prompts_are_scored(http: httpx.Client, prompt: str | list[int]) -> None:
    """Tokens, log-probabilities and offsets cover the text of the prompt and of the answer; streams agree."""
    body = {"model": "tiny-chat", "prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 3, "temperature": 0}
    answer = whole(http, TEXT, body)
    [choice] = answer["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert all(choice["text"][at:].startswith(token) for at, token in zip(
        logprobs["text_offset"], logprobs["tokens"], strict=True,
    ))
    assert all(value is None or value <= 0 for value in logprobs["token_logprobs"])
    [other] = streamed(http, TEXT, body)["choices"]
    assert other["text"] == choice["text"]
    assert other["logprobs"]["tokens"] == logprobs["tokens"]


def test_a_text_is_judged_by_its_likelihood(url: str) -> None:
    """Programs that compare texts get the log-probabilities of prompts alone: true statements are more likely."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        texts = ["The capital of France is Paris.", "The capital of France is count."]
        answer = client.completions.create(model="tiny-chat", prompt=texts, max_tokens=0, echo=True, logprobs=0)
    likelihoods = []
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        likelihoods.append(sum(value or 0.0 for value in choice.logprobs.token_logprobs))
    assert likelihoods[0] > likelihoods[1]
