"""The real server, asked by the official client and by plain HTTP: the mock, and a trained model."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from lllms_anthropic import AnthropicApi
from schemathesis import GenerationMode

from lllms_core.apis import Api
from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.engines import Engine, SerialModel
from lllms_core.engines.base import TOOL_PARAMETERS
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.testing import running_server
from lllms_core.types import ChatRequest, Media

pytestmark = pytest.mark.slow

lllms_llamacpp = pytest.importorskip("lllms_llamacpp")
TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
VERSION = {"anthropic-version": "2023-06-01"}
SCRIPT = [
    {"when": "weather", "calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}],
     "replies": ["It is sunny in Paris, 21 degrees."], "thinks": "Look it up."},
    {"when": "refuse", "fault": "refuse"}, {"when": "break", "replies": ["one two"], "fault": "fail", "after": 1},
    {"when": "hang", "replies": ["one two"], "fault": "hang", "after": 1},
    {"when": "title", "replies": ['{"title": "A greeting"}']}, {"when": "Count", "replies": ["one two three four"]},
]
MODELS: dict[str, Any] = {
    "bot": {"engine": "mock", "aliases": ["claude-*"], "options": {"script": SCRIPT, "context_length": 200_000}},
    "tiny": {"engine": "llamacpp", "file": str(TINY), "isolation": "thread", "aliases": ["claude-haiku-*"],
             "options": {"threads": 1}},
}
WEATHER: Any = {
    "name": "get_weather", "description": "Get the weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
COLD: Any = {"extra_body": {"temperature": 0}}  # the newest client has no parameter of this name
ASK: Any = {"role": "user", "content": "What is the weather in Paris?"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(MODELS) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def joined(stream: str) -> str:
    """The text of a streamed message."""
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    return "".join(one["delta"].get("text", "") for one in events if one["type"] == "content_block_delta")


@pytest.mark.parametrize(("model", "asked", "said"), [
    ("bot", "Count", "one two three four"), ("claude-opus-4-8", "Count", "one two three four"),
    ("tiny", "Say banana.", "banana"), ("claude-haiku-4-5-20251001", "Say banana.", "banana"),
])
def test_an_answer_whole_and_streamed(client: anthropic.Anthropic, model: str, asked: str, said: str) -> None:
    """The client reads the same message whole and from events; a wildcard leads a fixed name to its model."""
    given: Any = {"model": model, "max_tokens": 16000, "messages": [user(asked)], **COLD}
    whole = client.messages.create(**given)
    assert [block.type for block in whole.content] == ["text"]
    with client.messages.stream(**given) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert "".join(pieces) == said
    counts = [
        ((one.usage.cache_read_input_tokens or 0) + one.usage.input_tokens, one.usage.output_tokens)
        for one in (whole, streamed)
    ]
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0
    for one in (whole, streamed):
        assert (one.content[0].text, one.stop_reason, one.stop_sequence) == (said, "end_turn", None)
        assert one.model == ("tiny" if "haiku" in model or model == "tiny" else "bot")


@pytest.mark.parametrize("model", ["bot", "tiny"])
def test_a_tool_is_called_and_its_result_answered(client: anthropic.Anthropic, model: str) -> None:
    """A call comes as a block, whole and streamed, with each choice of tools; its result is answered."""
    for choice in ({"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "get_weather"}):
        given: Any = {"model": model, "max_tokens": 500, "tools": [WEATHER], "tool_choice": choice, **COLD}
        with client.messages.stream(**given, messages=[ASK]) as stream:
            streamed = stream.get_final_message()
        for called in (client.messages.create(**given, messages=[ASK]), streamed):
            assert called.stop_reason == "tool_use"
            [call] = [block for block in called.content if block.type == "tool_use"]
            assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
        result: Any = {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny, 21 degrees"}]},
        ]}
        answered = client.messages.create(
            **{**given, "tool_choice": {"type": "auto"}}, messages=[ASK, called.to_param(), result],
        )
        assert answered.content[-1].text == "It is sunny in Paris, 21 degrees."


def test_thoughts_are_blocks(client: anthropic.Anthropic) -> None:
    """Thoughts come first, with an empty signature, and can be turned off."""
    given: Any = {"model": "bot", "max_tokens": 2000, "messages": [ASK]}
    for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}):
        whole = client.messages.create(**given, thinking=thinking)
        with client.messages.stream(**given, thinking=thinking) as stream:
            streamed = stream.get_final_message()
        for one in (whole, streamed):
            block = one.content[0]
            assert (block.type, block.thinking, block.signature) == ("thinking", "Look it up.", "")
            assert one.usage.output_tokens_details.thinking_tokens > 0
    off = client.messages.create(**given, thinking={"type": "disabled"})
    assert [block.type for block in off.content] == ["text"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_effort_that_a_template_does_not_know_is_named(stream: bool) -> None:
    """A model whose template has no switch answers without the effort; the header names the field, each time."""
    asked = {"model": "tiny", "messages": [user("Say banana.")], "output_config": {"effort": "high"}}
    with running_server({"tiny": MODELS["tiny"]}) as url, httpx.Client(base_url=url, timeout=60) as http:
        for _ in range(2):
            answer = http.post("/v1/messages", json={**asked, "max_tokens": 9, "temperature": 0, "stream": stream})
            assert (answer.status_code, answer.headers["x-lllms-ignored"]) == (200, "output_config.effort")
            assert "banana" in (joined(answer.text) if stream else answer.text)
        counted = http.post("/v1/messages/count_tokens", json=asked)
        assert counted.json()["input_tokens"] > 0
        assert counted.headers["x-lllms-ignored"] == "output_config.effort"
        # It never thinks, so this asks for nothing.
        off = {**asked, "output_config": None, "thinking": {"type": "disabled"}, "max_tokens": 9}
        assert "x-lllms-ignored" not in http.post("/v1/messages", json=off).headers


@pytest.mark.parametrize("model", ["bot", "tiny"])
def test_the_clients_tool_runner(client: anthropic.Anthropic, model: str) -> None:
    """The runner first asks the server to keep the conversation; after the refusal it sends all of it."""

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather in a city."""
        return "sunny, 21 degrees" if city == "Paris" else "unknown"

    runner = client.beta.messages.tool_runner(
        model=model, max_tokens=500, messages=[ASK], tools=[get_weather], extra_body={"temperature": 0},
    )
    assert runner.until_done().content[-1].text == "It is sunny in Paris, 21 degrees."


@pytest.mark.parametrize("model", ["bot", "tiny"])
def test_tokens_are_counted_exactly(client: anthropic.Anthropic, model: str) -> None:
    """The count of a prompt is that of the answer's usage, to the token, with and without tools and a system prompt."""
    for more in ({}, {"system": "Be brief."}, {"tools": [WEATHER]}):
        given: Any = {"model": model, "messages": [ASK], **more}
        counted = client.messages.count_tokens(**given).input_tokens
        used = client.messages.create(**given, max_tokens=1).usage
        assert counted == used.input_tokens + (used.cache_read_input_tokens or 0) > 0


def test_a_conversation_goes_on_in_another_dialect(url: str, client: anthropic.Anthropic) -> None:
    """A conversation that began in OpenAI's API and is continued here reuses its evaluated tokens."""
    first = user("lets count to 10")
    begun = httpx.post(f"{url}/v1/chat/completions", timeout=60, json={
        "model": "tiny", "messages": [{"role": "system", "content": "Be kind."}, first], "temperature": 0,
    }).json()
    said = begun["choices"][0]["message"]["content"]
    again = client.messages.create(
        **COLD, model="tiny", max_tokens=20, system=[{"type": "text", "text": "Be kind."}],
        messages=[first, {"role": "assistant", "content": [{"type": "text", "text": said}]}, user("Say banana.")],
    )
    before = begun["usage"]["prompt_tokens"]
    assert (again.usage.cache_read_input_tokens or 0) >= before
    assert again.usage.cache_creation_input_tokens == 0
    back = httpx.post(f"{url}/v1/chat/completions", timeout=60, json={"model": "tiny", "temperature": 0, "messages": [
        {"role": "system", "content": "Be kind."}, first, {"role": "assistant", "content": said}, user("Say banana."),
        {"role": "assistant", "content": again.content[0].text}, user("Thanks"),
    ]}).json()
    assert back["usage"]["prompt_tokens_details"]["cached_tokens"] > before


@pytest.mark.parametrize(("model", "asked", "stop"), [("bot", "Count", "three"), ("tiny", "lets count to 10", "5, ")])
def test_the_matched_stop_sequence_is_told(client: anthropic.Anthropic, model: str, asked: str, stop: str) -> None:
    """Of many stop sequences, the answer names the one that ended it, whole and streamed."""
    stops = ["never", "not", "this", "nor that", "at all", stop]
    given: Any = {"model": model, "max_tokens": 90, "messages": [user(asked)], "stop_sequences": stops, **COLD}
    with client.messages.stream(**given) as stream:
        streamed = stream.get_final_message()
    for one in (client.messages.create(**given), streamed):
        assert (one.stop_reason, one.stop_sequence) == ("stop_sequence", stop)
        assert stop not in one.content[0].text
    cut = client.messages.create(model=model, max_tokens=2, messages=[user(asked)])
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)


def test_the_models_in_both_forms(url: str, client: anthropic.Anthropic) -> None:
    """With `anthropic-version` the models come in Anthropic's form, page by page, else in OpenAI's."""
    assert [model.id for model in client.models.list()] == ["bot", "tiny"]
    assert [model.id for model in client.models.list(limit=1)] == ["bot", "tiny"]
    page = client.models.list(limit=1)
    assert (page.first_id, page.last_id, page.has_more) == ("bot", "bot", True)
    assert [model.id for model in client.models.list(before_id="tiny").data] == ["bot"]
    assert client.models.list(after_id="tiny").data == []
    one = client.models.retrieve("claude-haiku-4-5")
    assert (one.id, one.type, one.max_input_tokens) == ("tiny", "model", 1024)
    listed = httpx.get(f"{url}/v1/models").json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["bot", "tiny"])
    assert httpx.get(f"{url}/v1/models/claude-x").json()["object"] == "model"
    assert httpx.get(f"{url}/anthropic/v1/models").json()["last_id"] == "tiny"
    for query in ("limit=0", "limit=x", "limit=1001", "after_id=x", "before_id=tiny&after_id=bot"):
        answer = httpx.get(f"{url}/v1/models?{query}", headers=VERSION)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(("method", "path", "status", "kind"), [
    ("GET", "/v1/messages", 405, "invalid_request_error"), ("DELETE", "/v1/models", 405, "invalid_request_error"),
    ("PUT", "/v1/messages/count_tokens", 405, "invalid_request_error"),
    ("POST", "/v1/messages/batches", 404, "not_found_error"), ("GET", "/v1/messages/batches/x", 404, "not_found_error"),
    ("POST", "/messages", 404, "not_found_error"), ("POST", "/v1/complete", 404, "not_found_error"),
    ("GET", "/v1/models/no", 404, "not_found_error"),
    ("GET", "/v1/files", 404, "not_found_error"), ("GET", "/anthropic/v2", 404, "not_found_error"),
])
def test_wrong_paths_and_methods_have_the_shape(url: str, method: str, path: str, status: int, kind: str) -> None:
    """Requests that miss a route are told so in Anthropic's shape, with the routes that there are."""
    answer = httpx.request(method, url + path, headers=VERSION)
    assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (status, "error", kind)
    if "messages" in path and status == 404:
        assert f"{url}/v1/messages/count_tokens" in answer.json()["error"]["message"]
    assert ("Allow" in answer.headers) is (status == 405)


def test_a_connection_is_tried(url: str) -> None:
    """Claude Code begins with `HEAD /`; any key will do, or none."""
    assert httpx.head(url).status_code == 200
    for key in ({}, {"x-api-key": "k"}, {"Authorization": "Bearer k"}):
        body = {"model": "bot", "max_tokens": 5, "messages": [user("Count")]}
        assert httpx.post(f"{url}/v1/messages?beta=true", json=body, headers=key).status_code == 200


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"model": "nobody"}, anthropic.NotFoundError, "no model 'nobody'"),
    ({"messages": [user("refuse")]}, anthropic.BadRequestError, "refuse"),
    ({"messages": [user("break now")]}, anthropic.InternalServerError, ""),
    ({"messages": []}, anthropic.BadRequestError, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {
        "type": "base64", "media_type": "image/png", "data": "AAAA"}}]}]}, anthropic.BadRequestError, "send text"),
    ({"messages": [user("x" * 11_000_000)]}, anthropic.ContentTooLargeError, "server.max_body"),
])
def test_errors_are_the_clients_exceptions(
    client: anthropic.Anthropic, change: dict[str, Any], error: type[anthropic.APIStatusError], said: str,
) -> None:
    """The client raises the exception for each error, with our message, whole and streamed."""
    given: Any = {"model": "bot", "max_tokens": 9, "messages": [user("Hi")], **change}
    for stream in (False, True):
        with pytest.raises((error, anthropic.APIStatusError)) as caught:
            list(client.messages.create(**given, stream=stream))
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["type"] == "error"
        assert said in caught.value.body["error"]["message"]
        if "break" not in str(change):
            assert isinstance(caught.value, error)


def test_a_full_server_is_overloaded() -> None:
    """A request that has waited for too long is 529, on which clients come back later."""
    models = {"bot": MODELS["bot"]}
    with (
        running_server(models, concurrency=1) as url,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
        httpx.Client(timeout=60) as other,
    ):
        body = {"model": "bot", "max_tokens": 9, "stream": True, "messages": [user("hang")]}
        with other.stream("POST", f"{url}/v1/messages", json=body) as running:
            lines = running.iter_lines()
            assert next(lines) == "event: message_start"
            with pytest.raises(anthropic.APIStatusError) as caught:
                client.messages.create(
                    model="bot", max_tokens=9, messages=[user("Count")], extra_headers={"X-Queue-Timeout": "0.01"},
                )
    assert caught.value.status_code == 529
    assert caught.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
    assert caught.value.response.headers["Retry-After"]


@pytest.mark.parametrize("model", ["bot", "tiny"])
def test_a_side_request_for_json(url: str, model: str) -> None:
    """Claude Code's side request asks for a title by a schema; the answer keeps to it."""
    schema = {
        "type": "object", "properties": {"title": {"type": "string", "maxLength": 9}}, "required": ["title"],
        "additionalProperties": False,
    }
    body = {
        "model": model, "max_tokens": 32000, "metadata": {"user_id": "u"}, "stream": True, "temperature": 0,
        "system": [{"type": "text", "text": "Write a title."}], "messages": [user("a small title")],
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": schema}},
    }
    answer = httpx.post(f"{url}/v1/messages", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert set(json.loads(joined(answer.text))) == {"title"}
    assert answer.headers["x-lllms-ignored"].startswith("metadata")


def test_a_large_request_is_read_like_a_small_one(url: str) -> None:
    """A hundred tools and a long conversation, which are read and prepared in a thread, are answered; so are faults."""
    tools = [{**WEATHER, "name": f"tool{number}", "description": "x" * 2000} for number in range(100)]
    body: Any = {"model": "bot", "max_tokens": 64000, "messages": [user("Count")], "tools": tools, "stream": True}
    assert "four" in httpx.post(f"{url}/v1/messages", json=body, timeout=60).text
    counted = httpx.post(f"{url}/v1/messages/count_tokens", timeout=60, json=body)
    assert counted.json()["input_tokens"] > 0
    wrong = httpx.post(f"{url}/v1/messages", json={**body, "tools": [*tools, tools[0]]}, timeout=60)
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "tool0" in wrong.json()["error"]["message"]


class Seer(SerialModel):
    """Says where the images of a conversation come from."""

    def chat(self, request: ChatRequest) -> Iterator[str]:
        parts = (part for message in request.messages for part in message.parts)
        yield " ".join(part.source for part in parts if isinstance(part, Media))


class Eyes(Engine):
    name = "eyes"
    isolation = "thread"
    needs_file = False
    media = frozenset({"image"})
    parameters = TOOL_PARAMETERS

    def load(self, spec: object, progress: object) -> Seer:
        return Seer()


class Optician:
    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        return [Eyes()]


def test_images_reach_an_engine_that_sees() -> None:
    """Images of users and of tools' results, by URL or in base64, reach an engine that takes them."""
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    link = {"type": "image", "source": {"type": "url", "url": "https://x.test/y.png"}}
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    body = {"model": "eyes", "max_tokens": 99, "messages": [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, png]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [link]}]},
    ]}
    with running_server({"eyes": {"engine": "eyes"}}, {"optician": Optician()}) as url:
        answer = httpx.post(f"{url}/v1/messages", json=body).json()
    assert answer["content"][0]["text"] == "data:image/png;base64,AAAA https://x.test/y.png"


def test_the_readmes_configuration() -> None:
    """The configuration that the README shows is one, and its alias takes the names of Claude Code's models."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    shown = tomllib.loads(readme.partition("```toml\n")[2].partition("```")[0])
    config = parse_config(shown)
    assert config.models["coder"].aliases == ("claude-*",)


class Impatient:
    """The API with a short patience."""

    @hookimpl
    def lllms_apis(self) -> list[Api]:
        return [AnthropicApi(patience=0.0, interval=0.005)]


async def test_pings_come_while_nothing_else_does() -> None:
    """Until the first token there are pings, and then a message that is as legal as without them."""
    config = parse_config({"models": {"slow": {"engine": "mock", "options": {"first_token": 0.1, "script": SCRIPT}}}})
    plugins = Plugins.discover(disable=["anthropic"], extra={"impatient": Impatient()})
    async with Host(config, plugins) as host:
        app = create_app(host)
        body = {"model": "slow", "max_tokens": 9, "stream": True, "messages": [user("Count")]}
        answer = await app.test_client().post("/v1/messages", json=body)
        text = await answer.get_data(as_text=True)
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    pings = names.index("message_start")
    assert names[:pings] == ["ping"] * pings
    assert pings > 1
    assert names[-2:] == ["message_delta", "message_stop"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_the_description_is_true(url: str, path: str, mode: GenerationMode) -> None:
    """Requests that fit the description, and others, get answers that fit it, never a fault of the server."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["POST"]
    statuses = set()

    @settings(max_examples=4, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        if isinstance(case.body, dict) and case.body.get("model") == "tiny":
            case.body["model"] = "bot"
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (case.body, answer.text)
        case.validate_response(answer, checks=[schemathesis.checks.response_schema_conformance])

    wanted = 200 if mode is GenerationMode.POSITIVE else 400
    for _ in range(20):  # chance may produce only requests that are refused for their meaning
        fuzz()
        if wanted in statuses:
            return
    raise AssertionError("nothing was answered, or nothing refused")


def test_the_models_fit_their_description(url: str) -> None:
    """The list of models, and one of them, fit their schemas; each operation has an id of its own."""
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    one = {"path_parameters": {"model": "bot"}}
    for path, more in (("/anthropic/v1/models", {}), ("/anthropic/v1/models/{model}", one)):
        case = described[path]["GET"].Case(**more)
        case.validate_response(case.call(), checks=[schemathesis.checks.response_schema_conformance])
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    ids = [one["operationId"] for methods in paths.values() for one in methods.values() if "operationId" in one]
    assert {"createMessage", "countTokens", "listAnthropicModels", "describeAnthropicModel"} <= {*ids}
    assert len(ids) == len({*ids})
