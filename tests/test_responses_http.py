"""Responses by the official client, over real HTTP: the mock with a script, and the trained model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from events_for_tests import parse, read_events
from openai.types.responses import Response
from pydantic import BaseModel
from test_openai_choices import running

pytestmark = pytest.mark.slow

lllms_llamacpp = pytest.importorskip("lllms_llamacpp")
TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
PATH = "/v1/responses"
SCRIPT: list[dict[str, Any]] = [
    {"when": "weather in Paris", "calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}],
     "replies": ["It is sunny in Paris, 20 degrees."]},
    {"when": "send", "calls": [{"name": "mail__send", "arguments": {}}], "replies": ["Sent."]},
    {"when": "think", "thinks": "Hm, well.", "replies": ["Yes, I think."]},
    {"when": "many", "replies": ["la"], "tokens": 500},
    {"when": "fail", "replies": ["one two three"], "fault": "fail", "after": 2},
    {"when": "refuse", "fault": "refuse"}, {"when": "turn", "replies": ["first", "second", "third"]},
]
MODELS: dict[str, Any] = {
    "mock": {"engine": "mock", "options": {"script": SCRIPT}},
    "tiny-chat": {"engine": "llamacpp", "file": str(TINY), "options": {"threads": 1}},
    "small": {"engine": "mock", "options": {"script": [{"replies": ["la"], "tokens": 100}], "context_length": 20}},
    "vectors": {"engine": "mock", "aliases": ["other-name"]},
}
BOTH = pytest.mark.parametrize("model", ["mock", "tiny-chat"])
TOOL: Any = {
    "type": "function", "name": "get_weather", "description": "Get the weather in a city.", "strict": True,
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False,
    },
}
WEATHER = "What is the weather in Paris?"


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"server": {"port": 0}, "models": MODELS}) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def create(http: httpx.Client, right: int = 200, **body: object) -> Any:
    answer = http.post(PATH, json={"model": "mock", **body})
    assert answer.status_code == right, answer.text
    return answer.json()


@BOTH
def test_an_answer(client: openai.OpenAI, http: httpx.Client, model: str) -> None:
    """A response has exactly the fields of the client's types; its numbers add up, and it can be retrieved."""
    answer = http.post(PATH, json={"model": model, "input": "Hi!", "instructions": "Be brief.", "temperature": 0,
                                   "metadata": {"a": "b"}, "max_output_tokens": 5, "store": True})
    response = Response.model_validate_json(answer.text, strict=True)
    assert (response.object, response.model, response.instructions) == ("response", model, "Be brief.")
    assert (response.metadata, response.temperature, response.max_output_tokens) == ({"a": "b"}, 0, 5)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert (response.status == "incomplete") == (response.usage.output_tokens == 5)
    assert http.get(f"{PATH}/{response.id}").json() == answer.json()
    assert client.responses.retrieve(response.id).output_text == response.output_text
    streamed = http.post(PATH, json={"model": model, "input": "Hi!", "temperature": 0, "stream": True})
    assert streamed.headers["content-type"] == "text/event-stream"
    told = read_events(parse(streamed.text))
    assert http.get(f"{PATH}/{told['id']}").json() == told


@BOTH
def test_an_empty_input_loads_the_model(http: httpx.Client, model: str) -> None:
    """What Codex sends to LM Studio before its first request is answered."""
    assert create(http, model=model, input="", max_output_tokens=1)["usage"]["output_tokens"] == 1


@BOTH
def test_tools(client: openai.OpenAI, model: str) -> None:
    """The call, its result and the answer: by the items themselves, and by the response before; whole and streamed."""
    asked: dict[str, Any] = {"model": model, "temperature": 0, "tools": [TOOL, {"type": "web_search"}]}
    for choice in ("auto", "required", {"type": "function", "name": "get_weather"}):
        whole = client.responses.create(**asked, input=WEATHER, tool_choice=choice)
        with client.responses.stream(**asked, input=WEATHER, tool_choice=choice) as stream:
            names = {event.type for event in stream}
            streamed = stream.get_final_response()
        assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= names
        for response in (whole, streamed):
            call = response.output[-1]
            assert call.type == "function_call"
            assert (call.name, json.loads(call.arguments), call.status) == (
                "get_weather", {"city": "Paris"}, "completed",
            )
            result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 20 degrees."}
            past: Any = [{"role": "user", "content": WEATHER}, *response.output, result]
            by_items = client.responses.create(**asked, input=past)
            by_response = client.responses.create(**asked, input=[result], previous_response_id=response.id)
            reference: Any = {"type": "item_reference", "id": call.id}
            by_reference = client.responses.create(**asked, input=[past[0], reference, result])
            said = {by_items.output_text, by_response.output_text, by_reference.output_text}
            assert said == {"It is sunny in Paris, 20 degrees."}


@BOTH
def test_parse(client: openai.OpenAI, model: str) -> None:
    """`parse` gets its strict schema kept, also beside a forced call, as instructor asks."""
    asked: dict[str, Any] = {"model": model, "input": "Give me a person.", "temperature": 0}
    assert isinstance(client.responses.parse(**asked, text_format=Person).output_parsed, Person)
    with client.responses.stream(**asked, text_format=Person) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_response().output_parsed, Person)
    schema: Any = {"type": "json_schema", "name": "Person", "schema": Person.model_json_schema()}
    called = client.responses.create(
        model=model, input=WEATHER, tools=[TOOL], tool_choice={"type": "function", "name": "get_weather"},
        text={"format": schema},
    )
    assert called.output[-1].type == "function_call"
    loose = client.responses.create(model=model, input="A JSON object!", text={"format": {"type": "json_object"}})
    assert isinstance(json.loads(loose.output_text), dict)


def test_a_conversation_continues(client: openai.OpenAI) -> None:
    """`previous_response_id` brings all turns before, without their instructions; the server counts them all."""
    first = client.responses.create(model="mock", input="my turn", instructions="I")
    second = client.responses.create(model="mock", input="your turn", previous_response_id=first.id)
    asked: dict[str, Any] = {"model": "mock", "input": "my turn", "previous_response_id": second.id}
    third = client.responses.create(**asked)
    assert [one.output_text for one in (first, second, third)] == ["first", "second", "third"]
    assert third.instructions is None
    assert third.usage is not None
    assert client.responses.input_tokens.count(**asked).input_tokens == third.usage.input_tokens
    listed = client.responses.input_items.list(third.id, order="asc")
    texts = [part.text for item in listed for part in item.content]  # type: ignore[union-attr]
    assert texts == ["my turn", "first", "your turn", "second", "my turn"]
    assert len({item.id for item in listed}) == 5
    pages = client.responses.input_items.list(third.id, limit=2)
    assert [len(page.data) for page in pages.iter_pages()] == [2, 2, 1]
    assert [item.id for item in pages] == [item.id for item in reversed(listed.data)]


def test_a_conversation_of_the_trained_model_reuses_its_cache(client: openai.OpenAI) -> None:
    """The tokens of earlier turns are not evaluated again, and a chat that continues shares them, too."""
    first = client.responses.create(model="tiny-chat", input="My name is Anna.", temperature=0)
    second = client.responses.create(
        model="tiny-chat", input="What is my name?", previous_response_id=first.id, temperature=0,
    )
    assert "Anna" in second.output_text
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > 5
    chat = client.chat.completions.create(model="tiny-chat", temperature=0, messages=[
        {"role": "user", "content": "My name is Anna."}, {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is my name?"},
    ])
    assert chat.choices[0].message.content == second.output_text
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == second.usage.input_tokens
    assert chat.usage.prompt_tokens_details is not None
    assert (chat.usage.prompt_tokens_details.cached_tokens or 0) > 5


def test_thoughts_are_items(client: openai.OpenAI) -> None:
    """Thoughts come before the message, are counted, and can be sent back."""
    said = client.responses.create(model="mock", input="think!", reasoning={"summary": "auto"},
                                   include=["reasoning.encrypted_content"], store=False)
    thoughts, message = said.output
    assert thoughts.type == "reasoning"
    assert thoughts.content is not None
    assert (thoughts.content[0].text, message.type) == ("Hm, well.", "message")
    assert said.usage is not None
    assert said.usage.output_tokens_details.reasoning_tokens > 0
    again = client.responses.create(model="mock", input=[*said.output, {"role": "user", "content": "think!"}])  # type: ignore[list-item]
    assert again.output_text == "Yes, I think."


def test_namespaces_come_back(http: httpx.Client) -> None:
    """The call of a function in a namespace carries both names."""
    tools = [{"type": "function", "name": "send"}, {"type": "namespace", "name": "mail", "tools": [
        {"type": "function", "name": "send"}]}]
    for body in ({}, {"stream": True}):
        answer = http.post(PATH, json={"model": "mock", "input": "send it", "tools": tools, **body})
        value = read_events(parse(answer.text)) if body else answer.json()
        [call] = value["output"]
        assert (call["namespace"], call["name"], call["arguments"]) == ("mail", "send", "{}")


def test_what_is_left_out_is_named(http: httpx.Client) -> None:
    """The header of the answer names tools of servers and everything else without effect; also of a stream."""
    body = {"model": "mock", "input": "Hi", "tools": [{"type": "web_search"}], "client_metadata": {"a": 1},
            "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}, "prompt_cache_key": "k"}
    expected = "tools.web_search, reasoning.summary, include.reasoning.encrypted_content, client_metadata, "
    for more in ({}, {"stream": True}, {"background": True}, {"background": True, "stream": True}):
        answer = http.post(PATH, json={**body, **more})
        assert answer.headers["x-lllms-ignored"] == f"{expected}prompt_cache_key"


def test_unkept_restrictions_are_named(http: httpx.Client) -> None:
    """What no grammar enforces of `text.format` is named: if it is broken, and in a stream's header in any case."""
    schema = {"type": "object", "properties": {"a": {"const": "x"}}, "required": ["a"], "additionalProperties": False,
              "not": {"required": ["a"]}}
    body = {"model": "tiny-chat", "input": "Hi", "text": {"format": {"type": "json_schema", "name": "n",
                                                                     "schema": schema}}}
    for more in ({}, {"stream": True}):
        assert http.post(PATH, json={**body, **more}).headers["x-lllms-unkept"] == "text.format#/not"
    strict = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    assert create(http, 400, model="tiny-chat", input="Hi", text=strict)["error"]["param"].startswith("text.format")


def test_log_probabilities(client: openai.OpenAI) -> None:
    """They come with `include`, for each token of the text, with the alternatives that were requested."""
    said = client.responses.create(model="tiny-chat", input="Hi!", temperature=0, top_logprobs=2,
                                   include=["message.output_text.logprobs"])
    [message] = said.output
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert "".join(score.token for score in part.logprobs).startswith(part.text)
    assert all(len(score.top_logprobs) == 2 for score in part.logprobs)


def test_store_false_keeps_nothing(http: httpx.Client) -> None:
    """Neither whole nor streamed answers are kept without `store`."""
    for body in ({}, {"stream": True}):
        answer = http.post(PATH, json={"model": "mock", "input": "Hi", "store": False, **body})
        value = read_events(parse(answer.text)) if body else answer.json()
        assert http.get(f"{PATH}/{value['id']}").status_code == 404
        refused = create(http, 400, input="x", previous_response_id=value["id"])["error"]
        assert (refused["code"], refused["param"]) == ("previous_response_not_found", "previous_response_id")


def test_deleting(client: openai.OpenAI, http: httpx.Client) -> None:
    """A deleted response is gone: it cannot be retrieved, listed, continued or referred to, nor can its successors."""
    first = client.responses.create(model="mock", input="turn")
    second = client.responses.create(model="mock", input="turn", previous_response_id=first.id)
    client.responses.delete(first.id)
    for path in ("", "/input_items"):
        assert http.get(f"{PATH}/{first.id}{path}").status_code == 404
    assert http.delete(f"{PATH}/{first.id}").status_code == 404
    for previous in (first, second):
        refused = create(http, 400, input="x", previous_response_id=previous.id)["error"]
        assert refused["code"] == "previous_response_not_found"
    for item in (first.output[0].id, "msg_1"):
        refused = create(http, 400, input=[{"type": "item_reference", "id": item}])["error"]
        assert (refused["code"], refused["param"]) == ("item_not_found", "input[0].id")
    assert len(client.responses.input_items.list(second.id).data) == 1


def test_a_failure_in_a_stream(client: openai.OpenAI, http: httpx.Client) -> None:
    """What fails after the first token is told by the last event; before, and in whole answers, by the status."""
    streamed = http.post(PATH, json={"model": "mock", "input": "fail", "stream": True})
    told = read_events(parse(streamed.text))
    assert (told["status"], told["error"]["code"]) == ("failed", "server_error")
    assert told["output"][0]["content"][0]["text"].startswith("one")
    assert http.get(f"{PATH}/{told['id']}").json() == told
    assert http.post(PATH, json={"model": "mock", "input": "fail"}).status_code == 500
    for more in ({}, {"stream": True}):
        create(http, 400, input="refuse", **more)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody", input="Hi")


def test_errors_name_this_apis_members(http: httpx.Client) -> None:
    """Refusals have OpenAI's shape, and the names that the client used."""
    long = create(http, 400, model="small", input="word " * 40)["error"]
    assert (long["code"], long["param"]) == ("context_length_exceeded", "input")
    assert create(http, 400, input="x", top_p=5)["error"]["param"] == "top_p"
    assert create(http, 400)["error"]["param"] == "input"
    assert create(http, 400, input=[])["error"]["code"] == "empty_array"
    missing = http.get(f"{PATH}/resp_1").json()["error"]
    assert (missing["message"], missing["type"]) == ("Response with id 'resp_1' not found.", "invalid_request_error")


@pytest.mark.parametrize(("query", "param"), [
    ("?stream=maybe", "stream"), ("?starting_after=1", "starting_after"), ("?stream=true&starting_after=x",
                                                                           "starting_after"),
    ("?stream=true&starting_after=-2", "starting_after"), ("?colour=red", "colour"), ("?stream=true", "stream"),
    ("/input_items?limit=0", "limit"), ("/input_items?limit=101", "limit"), ("/input_items?limit=1.5", "limit"),
    ("/input_items?order=x", "order"), ("/input_items?after=x", "after"), ("/input_items?x=1", "x"),
])
def test_arguments_are_checked(http: httpx.Client, query: str, param: str) -> None:
    """A wrong argument is refused by name; a response that was not in the background is not streamed again."""
    response_id = create(http, input="Hi")["id"]
    answer = http.get(f"{PATH}/{response_id}{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_both_prefixes_and_aliases(http: httpx.Client) -> None:
    """The routes exist under /openai/v1 as well, and share their responses; a model has all its names."""
    made = http.post(f"/openai{PATH}", json={"model": "other-name", "input": "Hi"}).json()
    assert made["model"] == "vectors"
    assert http.get(f"{PATH}/{made['id']}").json() == made


def test_background_by_the_client(client: openai.OpenAI) -> None:
    """Create, retrieve, cancel and stream again with the client's own methods."""
    made = client.responses.create(model="mock", input="many", background=True)
    assert made.status in {"queued", "in_progress", "completed"}
    with client.responses.stream(model="mock", input="many", background=True) as stream:
        seen = [next(stream) for _ in range(6)]
    response_id = seen[0].response.id  # type: ignore[union-attr]
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=3))
    assert [event.sequence_number for event in rest] == list(range(4, 4 + len(rest)))
    assert rest[-1].type == "response.completed"
    assert client.responses.retrieve(response_id).output_text.count("la") == 500
    assert client.responses.cancel(response_id).status == "completed"


def test_large_requests(http: httpx.Client) -> None:
    """Large instructions, tools and conversations are repeated and kept whole."""
    text = "\N{GRINNING FACE}\"\\" * 40_000
    asked = {"input": "turn", "instructions": text, "model": "vectors"}
    answer = http.post(PATH, json=asked)
    assert answer.status_code == 400, "it is longer than the context"
    tools = [{"type": "function", "name": f"f{number}", "description": "x" * 2000} for number in range(100)]
    made = create(http, input="turn", tools=tools)
    assert [tool["description"] for tool in made["tools"]] == ["x" * 2000] * 100
    told = read_events(parse(http.post(PATH, json={"model": "mock", "input": "turn", "tools": tools, "stream": True,
                                                   "previous_response_id": made["id"]}).text))
    assert told["tools"] == made["tools"]
    assert told["output"][0]["content"][0]["text"] == "second"


def test_responses_survive_a_restart(tmp_path: Path) -> None:
    """With sessions on disk, another server continues, retrieves and deletes the responses of the last one."""
    config: dict[str, Any] = {
        "server": {"port": 0}, "models": MODELS,
        "sessions": {"store": "disk", "options": {"folder": str(tmp_path / "sessions")}},
    }
    with running(config) as url:
        first = httpx.post(f"{url}{PATH}", json={"model": "mock", "input": "my turn"}).json()
    with running(config) as url:
        assert httpx.get(f"{url}{PATH}/{first['id']}").json() == first
        body = {"model": "mock", "input": "my turn", "previous_response_id": first["id"]}
        second = httpx.post(f"{url}{PATH}", json=body).json()
        assert second["output"][0]["content"][0]["text"] == "second"
        assert httpx.delete(f"{url}{PATH}/{first['id']}").json()["deleted"] is True
    with running(config) as url:
        assert httpx.post(f"{url}{PATH}", json=body).json()["error"]["code"] == "previous_response_not_found"
        assert httpx.get(f"{url}{PATH}/{second['id']}").json() == second
    with running({**config, "sessions": {"store": "memory"}}) as url:
        assert httpx.get(f"{url}{PATH}/{second['id']}").status_code == 404


def test_the_number_of_bytes_is_bounded() -> None:
    """The oldest responses make room for new ones."""
    config = {"server": {"port": 0}, "models": MODELS, "sessions": {"responses_size": 10_000}}
    with running(config) as url, httpx.Client(base_url=url) as http:
        ids = [create(http, input="turn")["id"] for _ in range(20)]
        here = [http.get(f"{PATH}/{one}").status_code == 200 for one in ids]
    assert here[-1]
    assert not here[0]
    assert sum(here) == 20 - here.index(True)
