"""The official client: `create`, `stream` and `parse`."""

import json
from typing import Any

import openai
from asking import ASKED, KEY, contains, equal, in_pieces, run
from pydantic import BaseModel

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather in a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False,
    },
}}


class Person(BaseModel):
    name: str
    age: int


def client(url: str) -> Any:
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0).chat.completions


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def chat(url: str, model: str) -> None:
    answer = client(url).create(model=model, messages=[user(ASKED.say)], temperature=0)
    equal((answer.choices[0].message.content, answer.choices[0].finish_reason), (ASKED.said, "stop"))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def stream(url: str, model: str) -> None:
    asked = {"model": model, "messages": [user(ASKED.count)], "temperature": 0}
    chunks = list(client(url).create(**asked, stream=True, stream_options={"include_usage": True}))
    in_pieces([chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices], ASKED.counted)
    assert chunks[-1].usage.completion_tokens > 1
    with client(url).stream(**asked) as events:
        for _ in events:
            pass
        equal(events.get_final_completion().choices[0].message.content, ASKED.counted)


def tools(url: str, model: str) -> None:
    """The call, its result and the answer, whole and streamed; each message is the client's own object."""
    for tool, choice in (
        (TOOL, "auto"), (TOOL, "required"), (TOOL, {"type": "function", "function": {"name": "get_weather"}}),
        ({**TOOL, "function": {**TOOL["function"], "strict": True}}, "auto"),
    ):
        asked: dict[str, Any] = {"model": model, "temperature": 0, "tools": [tool]}
        messages: list[Any] = [user(ASKED.weather)]
        whole = client(url).create(**asked, messages=messages, tool_choice=choice).choices[0]
        with client(url).stream(**asked, messages=messages, tool_choice=choice) as events:
            for _ in events:
                pass
            streamed = events.get_final_completion().choices[0]
        for said in (whole, streamed):
            equal(said.finish_reason, "tool_calls")
            [call] = said.message.tool_calls
            equal((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": ASKED.city}))
            result = {"role": "tool", "tool_call_id": call.id, "content": ASKED.result}
            after = client(url).create(**asked, messages=[*messages, said.message, result]).choices[0].message
            equal(after.content, ASKED.forecast)


def structured(url: str, model: str) -> None:
    """`parse` gets a strict schema kept; what it returns can be sent back."""
    asked: dict[str, Any] = {"model": model, "temperature": 0}
    said = client(url).parse(**asked, messages=[user(ASKED.person)], response_format=Person).choices[0].message
    equal(said.parsed, Person(name=ASKED.name, age=ASKED.age))
    again = client(url).create(**asked, messages=[user(ASKED.person), said, user(ASKED.say)])
    equal(again.choices[0].message.content, ASKED.said)
    loose = client(url).create(**asked, messages=[user(ASKED.person)], response_format={"type": "json_object"})
    equal(json.loads(loose.choices[0].message.content), {"name": ASKED.name, "age": ASKED.age})


def parsed_tools(url: str, model: str) -> None:
    """A tool from a class, whose call comes parsed, and goes back with all that the client added."""
    asked: dict[str, Any] = {"model": model, "temperature": 0, "tools": [openai.pydantic_function_tool(get_weather)]}
    said = client(url).parse(**asked, messages=[user(ASKED.weather)]).choices[0].message
    [call] = said.tool_calls
    equal(call.function.parsed_arguments, get_weather(city=ASKED.city))
    result = {"role": "tool", "tool_call_id": call.id, "content": ASKED.result}
    after = client(url).parse(**asked, messages=[user(ASKED.weather), said, result]).choices[0].message
    equal(after.content, ASKED.forecast)


class get_weather(BaseModel):  # noqa: N801  # the tool's name
    """Get the weather in a city."""

    city: str


def history(url: str, model: str) -> None:
    """Answers go back as objects, and as all of their fields, null or not."""
    asked: dict[str, Any] = {"model": model, "temperature": 0}
    said = client(url).create(**asked, messages=[user(ASKED.introduction)]).choices[0].message
    for form in (said, said.model_dump(), said.to_dict()):
        messages = [user(ASKED.introduction), form, user(ASKED.question)]
        contains(client(url).create(**asked, messages=messages).choices[0].message.content, ASKED.remembered)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "parsed_tools": parsed_tools,
         "history": history})
