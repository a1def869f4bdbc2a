"""litellm, with its `openai/` prefix."""

import json
from typing import Any

import litellm
from asking import ASKED, KEY, contains, equal, in_pieces, run
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
        model=f"openai/{model}", api_base=url, api_key=KEY, messages=messages, temperature=0, num_retries=0, **fields,
    )


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


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
    equal(Person.model_validate_json(said.content), Person(name=ASKED.name, age=ASKED.age))


def history(url: str, model: str) -> None:
    """An answer goes back as an object, and as the dictionary that litellm makes of it."""
    said = ask(url, model, [user(ASKED.introduction)]).choices[0].message
    for form in (said, said.model_dump()):
        answer = ask(url, model, [user(ASKED.introduction), form, user(ASKED.question)])
        contains(answer.choices[0].message.content, ASKED.remembered)


def responses(url: str, model: str) -> None:
    """Whole and streamed, by the function that litellm has for Responses."""
    asked: dict[str, Any] = {"model": f"openai/{model}", "api_base": url, "api_key": KEY, "temperature": 0}
    equal(litellm.responses(**asked, input=ASKED.say).output[0].content[0].text, ASKED.said)
    events = list(litellm.responses(**asked, input=ASKED.count, stream=True))
    in_pieces([one.delta for one in events if one.type == "response.output_text.delta"], ASKED.counted)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history,
         "responses": responses})
