"""What Open WebUI 0.12 asks of a server: its bodies are facts, written down here; it is far too large to install."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from chunks_for_tests import put_together

pytestmark = pytest.mark.slow

ASKED: Mapping[str, str] = json.loads(Path(__file__).with_name("asked.json").read_text(encoding="utf-8"))
CHAT = "/v1/chat/completions"
BESIDES: Mapping[str, object] = {
    "chat_id": "7c0e", "session_id": "s1", "id": "m1", "features": {"web_search": False}, "files": [],
}
"""Open WebUI's own bookkeeping, which some of its versions and functions pass on."""
BUILT_IN = (
    "ask_user", "get_current_timestamp", "calculate_timestamp", "search_web", "fetch_url", "generate_image",
    "edit_image", "execute_code", "search_memories", "add_memory", "update_memory", "replace_memory_content",
    "delete_memory", "list_memories", "search_notes", "view_note", "write_note", "replace_note_content",
    "search_chats", "view_chat", "delegate_task", "timer", "search_channels", "search_channel_messages",
    "list_knowledge_bases", "query_knowledge_files", "view_skill",
)


def tool(name: str, **properties: Mapping[str, object]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": [*properties][:1]}
    return {"type": "function", "function": {"name": name, "description": f"{name}.", "parameters": parameters}}


OPTIONAL = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
WEATHER = tool("get_weather", city={"type": "string"})
TOOLS = [*(tool(name, query={"type": "string"}, count=OPTIONAL) for name in BUILT_IN), WEATHER]


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, headers={"Authorization": "Bearer none"}) as client:
        yield client


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def ask(http: httpx.Client, model: str, messages: list[Any], **fields: object) -> dict[str, Any]:
    """Return an answer's choice, put together as Open WebUI does if it is streamed."""
    answer = http.post(CHAT, json={"model": model, "messages": messages, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    if not fields.get("stream"):
        return answer.json()["choices"][0]
    events = answer.text.split("\n\n")
    counts = [event for event in events if '"choices":[]' in event]
    assert len(counts) == ("stream_options" in fields)
    [choice] = put_together("\n\n".join(event for event in events if event not in counts))
    return choice


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_connection_is_verified(http: httpx.Client, method: str) -> None:
    """`GET /v1/models` names the models, by which a connection is verified and the menu is filled."""
    answer = http.request(method, "/v1/models")
    assert answer.status_code == 200
    if method == "GET":
        assert {model["id"] for model in answer.json()["data"]} == {"mock", "tiny-chat"}


@pytest.mark.parametrize("model", ["mock", "tiny-chat"])
def test_a_chat_is_streamed(http: httpx.Client, model: str) -> None:
    """A turn is streamed with its usage, its bookkeeping is no reason to refuse it, and the history goes along."""
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, **BESIDES}
    said = ask(http, model, [user(ASKED["introduction"])], **asked)["message"]
    history = [user(ASKED["introduction"]), {"role": "assistant", "content": said["content"]}]
    answer = ask(http, model, [*history, user(ASKED["question"])], **asked)
    assert ASKED["remembered"] in answer["message"]["content"]
    assert answer["finish_reason"] == "stop"


@pytest.mark.parametrize(("model", "tools"), [("mock", TOOLS), ("tiny-chat", [WEATHER])], ids=["mock", "tiny-chat"])
def test_a_tool_is_called(http: httpx.Client, model: str, tools: list[Any]) -> None:
    """The stream's calls go back with their `index`, beside an empty text, and the result is answered.

    The trained model has no room for all of the built-in tools; the mock gets all 28.
    """
    asked: dict[str, Any] = {"stream": True, "tools": tools, **BESIDES}
    called = ask(http, model, [user(ASKED["weather"])], **asked)
    assert called["finish_reason"] == "tool_calls"
    [call] = called["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": ASKED["city"]}
    said = {"role": "assistant", "content": "", "tool_calls": [{"index": 0, **call}], "reasoning_content": "Weather."}
    result = {"role": "tool", "tool_call_id": call["id"], "content": ASKED["result"]}
    for content in (ASKED["result"], [{"type": "text", "text": ASKED["result"]}]):
        messages = [user(ASKED["weather"]), said, {**result, "content": content}]
        assert ask(http, model, messages, **asked)["message"]["content"] == ASKED["forecast"]


@pytest.mark.parametrize("model", ["mock", "tiny-chat"])
def test_side_tasks_are_answered(http: httpx.Client, model: str) -> None:
    """Titles, tags and the like are asked for without a stream, with a bound far above what is needed."""
    answer = ask(http, model, [user(ASKED["say"])], stream=False, max_tokens=1000)
    assert answer["message"]["content"] == ASKED["said"]
    title = [user("### Task:\nGive the chat a title in JSON.\n<chat_history>\nUSER: Say banana.\n</chat_history>")]
    assert ask(http, model, title, stream=False, max_tokens=1000)["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize("model", ["mock", "tiny-chat"])
def test_a_format_is_kept(http: httpx.Client, model: str) -> None:
    """A `response_format` from the model's advanced parameters is kept, as an object and by a schema."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    for wanted in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}):
        said = ask(http, model, [user(ASKED["person"])], stream=True, response_format=wanted)["message"]["content"]
        assert json.loads(said) == {"name": ASKED["name"], "age": ASKED["age"]}


def test_an_answer_is_continued(http: httpx.Client) -> None:
    """To continue an answer, it comes last, with the flags of llama.cpp's server for that."""
    messages = [user(ASKED["count"]), {"role": "assistant", "content": ASKED["counted"][:40]}]
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    said = ask(http, "tiny-chat", messages, stream=True, **flags)["message"]["content"]
    assert said == ASKED["counted"][40:]
