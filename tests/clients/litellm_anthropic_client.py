"""litellm with its `anthropic/` prefix, and its bridge: Anthropic's messages in, OpenAI's chats out, to this server."""

import asyncio
import json
from typing import Any

import litellm
from asking import ASKED, KEY, contains, equal, in_pieces, run
from litellm_client import TOOL, Person, user

MESSAGES_TOOL = {"name": "get_weather", "description": "Get the weather in a city.",
                 "input_schema": TOOL["function"]["parameters"]}


def ask(url: str, model: str, messages: list[Any], **fields: Any) -> Any:
    return litellm.completion(
        model=f"anthropic/{model}", api_base=url.removesuffix("/v1"), api_key=KEY, messages=messages, temperature=0,
        max_tokens=1000, num_retries=0, **fields,
    )


def chat(url: str, model: str) -> None:
    equal(ask(url, model, [user(ASKED.say)]).choices[0].message.content, ASKED.said)


def stream(url: str, model: str) -> None:
    pieces = ask(url, model, [user(ASKED.count)], stream=True)
    in_pieces([piece.choices[0].delta.content or "" for piece in pieces], ASKED.counted)


def tools(url: str, model: str) -> None:
    """The call, whole and rebuilt from a stream, its result and the answer."""
    asked = [user(ASKED.weather)]
    chunks = list(ask(url, model, asked, tools=[TOOL], stream=True))
    for answer in (
        ask(url, model, asked, tools=[TOOL]), ask(url, model, asked, tools=[TOOL], tool_choice="required"),
        litellm.stream_chunk_builder(chunks, messages=asked),
    ):
        said = answer.choices[0].message
        [call] = said.tool_calls
        equal((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": ASKED.city}))
        result = {"role": "tool", "tool_call_id": call.id, "content": ASKED.result}
        after = ask(url, model, [*asked, said, result], tools=[TOOL])
        equal(after.choices[0].message.content, ASKED.forecast)


def structured(url: str, model: str) -> None:
    said = ask(url, model, [user(ASKED.person)], response_format=Person).choices[0].message
    assert isinstance(Person.model_validate_json(said.content), Person)


def history(url: str, model: str) -> None:
    said = ask(url, model, [user(ASKED.introduction)]).choices[0].message
    for form in (said, said.model_dump()):
        answer = ask(url, model, [user(ASKED.introduction), form, user(ASKED.question)])
        contains(answer.choices[0].message.content, ASKED.remembered)


def bridge(url: str, model: str) -> None:
    """Litellm takes Anthropic's messages, and asks this server for chats, or for responses (`openai/`)."""

    async def bridged(provider: str, messages: list[Any], **fields: Any) -> Any:
        return await litellm.anthropic_messages(
            model=f"{provider}/{model}", api_base=url, api_key=KEY, messages=messages, max_tokens=1000, temperature=0,
            **fields,
        )

    async def both(provider: str) -> None:
        called = await bridged(provider, [user(ASKED.weather)], tools=[MESSAGES_TOOL])
        [call] = [block for block in called["content"] if block["type"] == "tool_use"]
        equal((call["name"], call["input"]), ("get_weather", {"city": ASKED.city}))
        result = {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": call["id"], "content": ASKED.result},
        ]}
        said = {"role": "assistant", "content": called["content"]}
        after = await bridged(provider, [user(ASKED.weather), said, result], tools=[MESSAGES_TOOL])
        equal(after["content"][-1]["text"], ASKED.forecast)

    for provider in ("hosted_vllm", "openai"):
        asyncio.run(both(provider))


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history,
         "bridge": bridge})
