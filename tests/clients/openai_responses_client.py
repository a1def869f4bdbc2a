"""The official client's Responses: `create`, `stream`, `parse`, turns that the server keeps, and the background."""

import json
from typing import Any

import openai
from asking import ASKED, KEY, contains, equal, in_pieces, run
from pydantic import BaseModel

TOOL: Any = {
    "type": "function", "name": "get_weather", "description": "Get the weather in a city.", "strict": True,
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False,
    },
}


class Person(BaseModel):
    name: str
    age: int


def client(url: str) -> Any:
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0).responses


def chat(url: str, model: str) -> None:
    answer = client(url).create(model=model, input=ASKED.say, temperature=0)
    equal((answer.output_text, answer.status), (ASKED.said, "completed"))
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def stream(url: str, model: str) -> None:
    asked = {"model": model, "input": ASKED.count, "temperature": 0}
    events = list(client(url).create(**asked, stream=True))
    in_pieces([one.delta for one in events if one.type == "response.output_text.delta"], ASKED.counted)
    equal([one.sequence_number for one in events], list(range(len(events))))
    with client(url).stream(**asked) as answer:
        for _ in answer:
            pass
        equal(answer.get_final_response().output_text, ASKED.counted)


def tools(url: str, model: str) -> None:
    """The call, its result and the answer, whole and streamed, by items and by the response before."""
    for choice in ("auto", "required", {"type": "function", "name": "get_weather"}):
        asked: dict[str, Any] = {"model": model, "temperature": 0, "tools": [TOOL]}
        whole = client(url).create(**asked, input=ASKED.weather, tool_choice=choice)
        with client(url).stream(**asked, input=ASKED.weather, tool_choice=choice) as events:
            for _ in events:
                pass
            streamed = events.get_final_response()
        for said in (whole, streamed):
            [call] = said.output
            equal((call.name, json.loads(call.arguments)), ("get_weather", {"city": ASKED.city}))
            result = {"type": "function_call_output", "call_id": call.call_id, "output": ASKED.result}
            past = [{"role": "user", "content": ASKED.weather}, *said.output, result]
            equal(client(url).create(**asked, input=past).output_text, ASKED.forecast)
            after = client(url).create(**asked, input=[result], previous_response_id=said.id)
            equal(after.output_text, ASKED.forecast)


def structured(url: str, model: str) -> None:
    said = client(url).parse(model=model, input=ASKED.person, text_format=Person, temperature=0)
    equal(said.output_parsed, Person(name=ASKED.name, age=ASKED.age))


def history(url: str, model: str) -> None:
    first = client(url).create(model=model, input=ASKED.introduction, temperature=0)
    again = client(url).create(model=model, input=ASKED.question, previous_response_id=first.id, temperature=0)
    contains(again.output_text, ASKED.remembered)
    contains(client(url).retrieve(again.id).output_text, ASKED.remembered)
    equal(len(list(client(url).input_items.list(again.id))), 2 + len(first.output))
    client(url).delete(first.id)


def background(url: str, model: str) -> None:
    with client(url).stream(model=model, input=ASKED.count, background=True, temperature=0) as events:
        begun = [next(events) for _ in range(3)]
    response_id = begun[0].response.id
    rest = list(client(url).retrieve(response_id, stream=True, starting_after=begun[-1].sequence_number))
    equal(rest[-1].response.output_text, ASKED.counted)
    equal(client(url).cancel(response_id).status, "completed")


CHECKS = {
    "chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history,
    "background": background,
}

if __name__ == "__main__":
    run(CHECKS)
