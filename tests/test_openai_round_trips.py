"""Every answer of a real server is sent back to it: whole, streamed, parsed, cut off, as objects and as their dumps."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import more_templates
import openai
import pydantic
import pytest
import pytest_asyncio
import templates_for_tests
from serving_for_tests import serving

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


def tiny(**options: object) -> dict[str, object]:
    return {"engine": "llamacpp", "file": str(TINY), "options": {"threads": 1, **options}}


SCRIPT = [{"when": "both", "calls": [
    {"name": "get_weather", "arguments": {"city": "Zürich \"\n"}}, {"name": "get_weather", "arguments": {"city": "a"}},
], "thinks": "Two calls."}]
THINKING = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content %}{{- '<think>' + m.reasoning_content + '</think>' }}{%- endif %}
{{- m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>' }}{%- endif %}"""
SHAPES = {
    "hermes": templates_for_tests.HERMES, "coder": templates_for_tests.QWEN3_CODER, "python": more_templates.PYTHON,
}
MODELS: dict[str, Any] = {
    "mock": {"engine": "mock", "options": {"script": SCRIPT}}, "thinker": tiny(chat_template=THINKING),
    **{name: tiny(chat_template=source) for name, source in SHAPES.items()},
}


class GetWeather(pydantic.BaseModel):
    """Get the weather in a city."""

    city: str


WEATHER: Any = openai.pydantic_function_tool(GetWeather, name="get_weather")
LOOSE: Any = {"type": "function", "function": {**WEATHER["function"], "strict": False}}
ASK = {"role": "user", "content": "What is the weather in Paris?"}
FORMS: list[Callable[[Any], Any]] = [
    lambda message: message, lambda message: message.model_dump(), lambda message: message.to_dict(),
    lambda message: message.model_dump(exclude_none=True), lambda message: json.loads(message.model_dump_json()),
]
"""The forms in which programs keep a message of the client library."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    async with serving({"server": {"port": 0, "max_instances": 8}, "models": MODELS}) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def answers(client: openai.AsyncOpenAI, **asked: Any) -> list[Any]:
    """The message of an answer, whole, and joined from the stream by the client."""
    whole = (await client.chat.completions.create(**asked)).choices[0].message
    async with client.chat.completions.stream(**asked) as stream:
        assert [event async for event in stream]
        # The client's final completion is an error for answers that were cut off.
        streamed = stream.current_completion_snapshot.choices[0].message
    return [whole, streamed]


async def take_back(client: openai.AsyncOpenAI, model: str, message: Any, question: Any = ASK, **fields: Any) -> None:
    """The conversation continues after an answer, in each form that a program may keep, with results and without."""
    for form in FORMS:
        back = form(message)
        calls = message.tool_calls or ()
        results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
        history = [question, back, *results, {"role": "user", "content": "Hi!"}]
        again = await client.chat.completions.create(model=model, messages=history, max_tokens=1, **fields)
        assert again.choices[0].finish_reason in {"stop", "length"}


async def test_calls_and_thoughts_come_back(client: openai.AsyncOpenAI) -> None:
    """Several calls with thoughts before them are accepted as the client keeps them."""
    for message in await answers(client, model="mock", messages=[{"role": "user", "content": "both"}], tools=[LOOSE]):
        assert (len(message.tool_calls), message.reasoning_content) == (2, "Two calls.")
        await take_back(client, "mock", message, {"role": "user", "content": "both"}, tools=[LOOSE])


async def test_thoughts_alone_come_back(client: openai.AsyncOpenAI, url: str) -> None:
    """An answer that was cut off in its thoughts has no content; its thoughts are in the next prompt."""
    asked: dict[str, Any] = {"messages": [ASK], "max_tokens": 4, "extra_body": {"ignore_eos": True}}
    for message in await answers(client, model="thinker", **asked):
        assert message.content is None
        assert message.reasoning_content
        await take_back(client, "thinker", message)
        history = [ASK, message.model_dump(), {"role": "user", "content": "Hi!"}]
        async with httpx.AsyncClient(base_url=url) as http:
            shown = await http.post("/api/v1/apply-template", json={"model": "thinker", "messages": history})
        assert f"<think>{message.reasoning_content}</think>" in shown.json()["prompt"]


@pytest.mark.parametrize("model", SHAPES)
async def test_cut_calls_come_back(client: openai.AsyncOpenAI, model: str) -> None:
    """Wherever a forced call was cut off, in each kind of template, the conversation continues after it."""
    asked: dict[str, Any] = {"model": model, "messages": [ASK], "tools": [LOOSE], "temperature": 0}
    seen = set()
    for length in (9, 17, 30):
        for message in await answers(client, **asked, max_tokens=length, tool_choice="required"):
            seen.add(bool(message.tool_calls))
            back = [ASK, message.model_dump(), *(
                {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls or ()
            )]
            await client.chat.completions.create(**{**asked, "messages": back}, max_tokens=1)
    assert True in seen


@pytest.mark.filterwarnings("ignore:Pydantic serializer:UserWarning")  # the client's own warning, for its own classes
async def test_parsed_messages_come_back(client: openai.AsyncOpenAI) -> None:
    """What the client parses into classes, arguments and content, is sent back with the parsed forms in it."""
    asked: dict[str, Any] = {"model": "hermes", "messages": [ASK], "temperature": 0}
    called = (await client.chat.completions.parse(**asked, tools=[WEATHER], tool_choice="required")).choices[0].message
    assert called.tool_calls[0].function.parsed_arguments == GetWeather(city="Paris")
    assert "parsed_arguments" in called.model_dump()["tool_calls"][0]["function"]
    await take_back(client, "hermes", called, tools=[LOOSE])
    said = (await client.chat.completions.parse(**asked, response_format=GetWeather)).choices[0].message
    assert isinstance(said.parsed, GetWeather)
    await take_back(client, "hermes", said)


async def test_answers_come_back_as_raw_chunks_add_up(url: str) -> None:
    """Programs that join the chunks by themselves keep the index of each call; that is accepted, too."""
    body = {"model": "mock", "messages": [{"role": "user", "content": "both"}], "tools": [LOOSE], "stream": True}
    async with httpx.AsyncClient(base_url=f"{url}/v1") as http:
        text = (await http.post("/chat/completions", json=body)).text
        message: dict[str, Any] = {"tool_calls": []}
        for line in text.split("\n\n")[:-2]:
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                for key, value in choice["delta"].items():
                    if key != "tool_calls":
                        message[key] = (message.get(key) or "") + value if value is not None else message.get(key)
                        continue
                    for piece in value:
                        if piece.get("id"):
                            message["tool_calls"].append(piece)
                        else:
                            call = message["tool_calls"][piece["index"]]
                            call["function"]["arguments"] += piece["function"]["arguments"]
        assert [call["index"] for call in message["tool_calls"]] == [0, 1]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": []} for call in message["tool_calls"]]
        again = await http.post("/chat/completions", json={
            "model": "mock", "messages": [{"role": "user", "content": "both"}, message, *results], "tools": [LOOSE],
        })
    assert again.status_code == 200, again.text
