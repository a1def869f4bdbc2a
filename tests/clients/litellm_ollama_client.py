"""litellm, with its `ollama_chat/` prefix."""

import json
from typing import Any

import litellm
from asking import ASKED, contains, equal, in_pieces, run
from pydantic import BaseModel

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather in a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    },
}}


class Person(BaseModel):
    name: str
    age: int


def ask(url: str, model: str, messages: list[Any], **fields: Any) -> Any:
    return litellm.completion(
        model=f"ollama_chat/{model}", api_base=url.removesuffix("/v1"), messages=messages, temperature=0,
        num_retries=0, **fields,
    )


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def chat(url: str, model: str) -> None:
    equal(ask(url, model, [user(ASKED.say)]).choices[0].message.content, ASKED.said)


def stream(url: str, model: str) -> None:
    pieces = ask(url, model, [user(ASKED.count)], stream=True)
    in_pieces([piece.choices[0].delta.content or "" for piece in pieces], ASKED.counted)


def tools(url: str, model: str) -> None:
    """The call, its result and the answer."""
    said = ask(url, model, [user(ASKED.weather)], tools=[TOOL]).choices[0].message
    [call] = said.tool_calls
    equal((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": ASKED.city}))
    result = {"role": "tool", "tool_call_id": call.id, "content": ASKED.result}
    after = ask(url, model, [user(ASKED.weather), said, result], tools=[TOOL])
    equal(after.choices[0].message.content, ASKED.forecast)


def structured(url: str, model: str) -> None:
    said = ask(url, model, [user(ASKED.person)], response_format=Person).choices[0].message
    equal(Person.model_validate_json(said.content), Person(name=ASKED.name, age=ASKED.age))


def history(url: str, model: str) -> None:
    said = ask(url, model, [user(ASKED.introduction)]).choices[0].message
    answer = ask(url, model, [user(ASKED.introduction), said.model_dump(), user(ASKED.question)])
    contains(answer.choices[0].message.content, ASKED.remembered)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history})
