"""The official Python client against the real server: what it asks is answered so that it understands it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import openai
import pydantic
import pytest
from stores_for_tests import TINY

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

COUNT = "lets count to 10"
COUNTED = "Sure, let's count to 10 together: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10."
GREEDY = {"temperature": 0}
SCRIPT = [
    {"when": "count", "replies": [COUNTED]},
    {"when": "weather", "thinks": "Look.", "calls": [
        {"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "get_weather", "arguments": {"city": "Rome"}},
    ], "replies": ["Sunny."]},
    {"when": "bob", "replies": ['{"name": "Bob", "age": 42}']},
    {"when": "refuse", "fault": "refuse"}, {"when": "break", "replies": ["one two"], "fault": "fail", "after": 1},
]
THINKING = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content %}{{- '<think>' + m.reasoning_content + '</think>' }}{%- endif %}
{{- m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>' }}{%- endif %}"""
OWN = {"engine": "llamacpp", "file": str(TINY)}
TINY_CHAT = {**OWN, "options": {"threads": 1, "context_length": 512}}
MODELS = {
    "mock": {"engine": "mock", "options": {"script": SCRIPT}},
    "short": {"engine": "mock", "options": {"context_length": 20}, "ttl": -1, "defaults": {"seed": 7, "stop": ["END"]}},
    "tiny-chat": TINY_CHAT,
    "thinker": {**OWN, "options": {"threads": 1, "chat_template": THINKING}},
}


def get_weather(city: str) -> str:
    """Get the weather in a city.

    Args:
        city: Its name.
    """
    return f"Sunny in {city}."


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(MODELS) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


@pytest.mark.parametrize("model", ["mock", "tiny-chat", "tiny-chat:latest"])
def test_chat_whole_and_streamed(client: ollama.Client, model: str) -> None:
    """The answer, its pieces, and their ends are the same; the end counts tokens and has durations."""
    whole = client.chat(model, say(COUNT), options=GREEDY)
    pieces = list(client.chat(model, say(COUNT), options=GREEDY, stream=True))
    assert whole.message.content == COUNTED == "".join(piece.message.content or "" for piece in pieces)
    assert len(pieces) > 5
    for end in (whole, pieces[-1]):
        assert (end.model, end.done, end.done_reason, end.created_at is not None) == (model, True, "stop", True)
        assert end.prompt_eval_count == whole.prompt_eval_count
        assert end.eval_count == whole.eval_count
        assert min(end.total_duration or 0, end.eval_duration or 0, end.prompt_eval_duration or 0) > 0
    assert {piece.done for piece in pieces[:-1]} == {False}
    cut = client.chat(model, say(COUNT), options={**GREEDY, "num_predict": 3})
    assert (cut.done_reason, cut.eval_count) == ("length", 3)


@pytest.mark.parametrize("model", ["mock", "tiny-chat"])
def test_generate(client: ollama.Client, model: str) -> None:
    """A prompt is answered like a chat's message, whole and streamed; a raw one is continued."""
    assert client.generate(model, COUNT, options=GREEDY).response == COUNTED
    streamed = client.generate(model, COUNT, options=GREEDY, stream=True)
    assert "".join(piece.response for piece in streamed) == COUNTED
    raw = client.generate(model, COUNT, raw=True, options={**GREEDY, "num_predict": 2})
    assert raw.prompt_eval_count is not None
    chat = client.generate(model, COUNT, options={**GREEDY, "num_predict": 2})
    assert raw.prompt_eval_count <= (chat.prompt_eval_count or 0)


def test_a_scored_answer(client: ollama.Client) -> None:
    """`logprobs` gives each token's probability and alternatives, for chats, prompts and raw prompts."""
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "options": {**GREEDY, "num_predict": 3}}
    answers = (
        client.chat("tiny-chat", say(COUNT), **asked), client.generate("tiny-chat", COUNT, **asked),
        client.generate("tiny-chat", COUNT, raw=True, **asked),
    )
    for answer in answers:
        assert answer.logprobs is not None
        assert len(answer.logprobs) == 3
        assert [len(one.top_logprobs or ()) for one in answer.logprobs] == [2, 2, 2]
    assert [one.token for one in answers[0].logprobs or ()] == [one.token for one in answers[1].logprobs or ()]


def test_tools_and_thoughts(client: ollama.Client) -> None:
    """Calls are whole, with objects for arguments, streamed or not; their results lead to the answer."""
    asked = say("What is the weather?")
    whole = client.chat("mock", asked, tools=[get_weather], think=True).message
    pieces = [piece.message for piece in client.chat("mock", asked, tools=[get_weather], think=True, stream=True)]
    streamed = [call for piece in pieces for call in piece.tool_calls or ()]
    assert whole.tool_calls is not None
    assert [dict(call.function.arguments) for call in whole.tool_calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert streamed == whole.tool_calls
    assert whole.thinking == "Look." == "".join(piece.thinking or "" for piece in pieces)
    assert client.chat("mock", asked, think=False).message.thinking is None
    results = [
        {"role": "tool", "tool_name": call.function.name, "content": get_weather(**call.function.arguments)}
        for call in whole.tool_calls
    ]
    assert client.chat("mock", [*asked, whole, *results], tools=[get_weather]).message.content == "Sunny."


def test_think_as_far_as_the_model_can(client: ollama.Client, url: str) -> None:
    """Thinking is refused where a model cannot; silence from one that always thinks is named, also before its load."""
    with pytest.raises(ollama.ResponseError, match="no switch"):
        client.chat("tiny-chat", say(COUNT), think=True)
    assert client.chat("tiny-chat", say(COUNT), think=False, options=GREEDY).message.content == COUNTED
    for path in ("chat", "generate"):
        for stream in (True, False):
            body = {"model": "thinker", "messages": say("Hi"), "stream": stream, "options": {"num_predict": 3}}
            if path == "generate":
                body["prompt"] = body.pop("messages")[0]["content"]
            answer = httpx.post(f"{url}/api/{path}", json={**body, "think": False}, timeout=60)
            assert answer.status_code == 200
            assert answer.headers["x-lllms-ignored"] == "think"
    assert "thinking" in (client.show("thinker").capabilities or ())


@pytest.mark.parametrize("model", ["mock", "tiny-chat"])
def test_structured_answers(client: ollama.Client, model: str) -> None:
    """A schema, and "json", are kept."""
    class Person(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=9)
        age: int = pydantic.Field(ge=0, le=150)

    schema = Person.model_json_schema()
    answer = client.chat(model, say("Who is Bob?"), format=schema, options=GREEDY).message.content
    assert Person.model_validate_json(answer or "")
    options = {**GREEDY, "num_predict": 60}
    assert (client.generate(model, "Who is Bob?", format="json", options=options).response).lstrip().startswith("{")


def test_embeddings(client: ollama.Client) -> None:
    """Vectors of one text and of several, shortened, and in the older form; texts too long are cut unless refused."""
    several = client.embed("mock", ["a b", "c"])
    assert [len(one) for one in several.embeddings] == [64, 64]
    assert several.prompt_eval_count == 3
    assert (several.total_duration or 0) > 0
    assert client.embed("mock", "a b").embeddings == several.embeddings[:1]
    assert list(client.embeddings("mock", "a b").embedding) == list(several.embeddings[0])
    assert len(client.embed("mock", "a b", dimensions=4).embeddings[0]) == 4
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    assert len(client.embed("short", [long, "a b"]).embeddings) == 2
    with pytest.raises(ollama.ResponseError) as caught:
        client.embed("short", long, truncate=False)
    assert caught.value.status_code == 400
    assert client.embed("mock", "").embeddings == []
    assert client.embed("mock", []).embeddings == []


def test_models_are_listed_and_described(client: ollama.Client, url: str) -> None:
    """Lists name each model once, with its tag; a description has what clients look for."""
    listed = {model.model: model for model in client.list().models}
    assert [*listed] == ["mock:latest", "short:latest", "tiny-chat:latest", "thinker:latest"]
    tiny = listed["tiny-chat:latest"]
    assert tiny.size == TINY.stat().st_size
    assert len(tiny.digest or "") == 64
    assert tiny.details is not None
    assert (tiny.details.format, tiny.details.family, tiny.details.quantization_level) == ("gguf", "llama", "Q8_0")
    for name in listed:
        shown = client.show(name or "")
        assert {"completion", "tools"} <= {*(shown.capabilities or ())}
        assert shown.modelinfo is not None
        family = shown.modelinfo["general.architecture"]
        assert shown.modelinfo[f"{family}.context_length"] > 0
    shown = client.show("tiny-chat")
    assert "{%" in (shown.template or "")
    assert (shown.modelinfo or {})["llama.context_length"] == 512
    assert client.show("short").parameters == 'seed 7\nstop "END"'
    assert "embedding" in (client.show("mock").capabilities or ())
    assert httpx.head(f"{url}/api/tags").status_code == httpx.head(url).status_code == 200


def test_models_are_loaded_and_unloaded(client: ollama.Client) -> None:
    """Empty requests load and unload; `ps` tells until when a model stays."""
    loaded = client.chat("mock", [], keep_alive="10m")
    assert (loaded.done_reason, loaded.message.content) == ("load", "")
    assert client.generate("short", "").done_reason == "load"
    running = {model.model: model for model in client.ps().models}
    assert {"mock:latest", "short:latest"} <= running.keys()
    now = pydantic.TypeAdapter(pydantic.AwareDatetime).validate_python(loaded.created_at)
    stays = {name: (model.expires_at - now).total_seconds() for name, model in running.items() if model.expires_at}
    assert 590 < stays["mock:latest"] < 700
    assert stays["short:latest"] > 100 * 365 * 86400
    assert running["mock:latest"].context_length == 4096
    assert client.generate("mock", keep_alive=0).done_reason == "unload"
    assert client.chat("short:latest", [], keep_alive="0").done_reason == "unload"
    assert {"mock:latest", "short:latest"}.isdisjoint({model.model for model in client.ps().models})


def test_errors_are_errors_of_the_client(client: ollama.Client) -> None:
    """Unknown models, refusals, failures within a stream and missing routes are told in Ollama's shape."""
    with pytest.raises(ollama.ResponseError, match="no model 'nobody'") as caught:
        client.chat("nobody", say("Hi"))
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="script refuses"):
        client.chat("mock", say("refuse"))
    pieces = []
    with pytest.raises(ollama.ResponseError, match="makes this request fail"):
        pieces.extend(client.chat("mock", say("break"), stream=True))
    assert not any(piece.done for piece in pieces)
    with pytest.raises(ollama.ResponseError, match="which engine 'mock' of model 'mock' does not take"):
        client.chat("mock", [{"role": "user", "content": "What?", "images": [b"\x89PNG\r\n"]}])
    absent: list[Any] = [
        lambda: client.create("x", from_="mock"), lambda: client.copy("mock", "x"), lambda: client.delete("mock"),
        lambda: client.push("mock"), lambda: client.create_blob(str(TINY)),
    ]
    for call in absent:
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 404


def test_a_wrong_base_url_is_told(url: str) -> None:
    """Below /v1 or /ollama the way out is the base URL, no longer the plugin, which is installed."""
    for path in ("/v1/api/chat", "/ollama/api/tags"):
        message = httpx.post(f"{url}{path}").json()["error"]["message"]
        assert message.endswith(f"set the client's base URL to {url}")


def test_misplaced_options_act(url: str) -> None:
    """Options that a client sends as members, as the AI SDK's providers do, act; so does its choice of tools."""
    body = {"model": "tiny-chat", "messages": say(COUNT), "temperature": 0, "max_output_tokens": 3, "stream": False}
    assert httpx.post(f"{url}/api/chat", json=body).json()["eval_count"] == 3
    tool = {"type": "function", "function": {"name": "look"}}
    forced = {"model": "mock", "messages": say(COUNT), "tools": [tool], "tool_choice": "required", "stream": False}
    [call] = httpx.post(f"{url}/api/chat", json=forced).json()["message"]["tool_calls"]
    assert call["function"]["name"] == "look"


def test_what_had_no_effect_is_named(url: str) -> None:
    """A header names the options that nothing acts on, of whole answers and of streams."""
    for stream in (True, False):
        body = {"model": "mock", "messages": say(COUNT), "stream": stream, "options": {"num_ctx": 8192, "top_k": None}}
        assert httpx.post(f"{url}/api/chat", json=body).headers["x-lllms-ignored"] == "options.num_ctx"
    body = {"model": "mock", "input": "a", "options": {"num_ctx": 1}, "keep_alive": "5m"}
    named = httpx.post(f"{url}/api/embed", json=body).headers["x-lllms-ignored"]
    assert named == "options.num_ctx, keep_alive"


@pytest.mark.parametrize(("headers", "status"), [
    ({"Content-Type": "application/x-www-form-urlencoded"}, 200), ({}, 200), ({"Content-Type": "text/plain"}, 200),
    ({"Content-Type": "text/plain", "Origin": "https://page.example"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 415),
    ({"Content-Type": "application/json", "Host": "ollama.internal:11434"}, 200),
    ({"Content-Type": "application/json", "Host": "page.example"}, 403),
])
def test_programs_need_no_content_type(url: str, headers: dict[str, str], status: int) -> None:
    """Curl's form type, or none, is taken from programs; a web page has to ask first, by saying that it sends JSON."""
    body = json.dumps({"model": "mock", "prompt": COUNT, "stream": False})
    answer = httpx.post(f"{url}/api/generate", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["response"] == COUNTED if status == 200 else answer.json()["error"]


def test_a_conversation_changes_its_dialect(client: ollama.Client, url: str) -> None:
    """A conversation that begins in OpenAI's API and continues in Ollama's reuses the cache, with the same answer."""
    first = say(COUNT)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as other:
        said = other.chat.completions.create(model="tiny-chat", messages=first, temperature=0)  # type: ignore[arg-type]  # plain dicts
        text = said.choices[0].message.content
        assert text == COUNTED
        longer: Any = [*first, {"role": "assistant", "content": text}, *say("Thank you, and again?")]
        there = other.chat.completions.create(model="tiny-chat", messages=longer, temperature=0)
    client.generate("tiny-chat", keep_alive=0)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as other:
        other.chat.completions.create(model="tiny-chat", messages=first, temperature=0)  # type: ignore[arg-type]  # as above
        here = client.chat("tiny-chat", longer, options=GREEDY)
        again = other.chat.completions.create(model="tiny-chat", messages=longer, temperature=0)
    assert here.message.content == there.choices[0].message.content == again.choices[0].message.content
    details = there.usage.prompt_tokens_details if there.usage else None
    after = again.usage.prompt_tokens_details if again.usage else None
    assert details is not None
    assert after is not None
    assert (after.cached_tokens or 0) >= (details.cached_tokens or 0) > 30
