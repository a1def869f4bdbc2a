"""The official client of Anthropic's API: create, stream, parse, the tool runner, and token counts."""

from typing import Any

import anthropic
from anthropic import beta_tool
from asking import ASKED, KEY, contains, equal, in_pieces, run
from pydantic import BaseModel

COLD: dict[str, Any] = {"max_tokens": 1000, "extra_body": {"temperature": 0}}
TOOL: Any = {"name": "get_weather", "description": "Get the weather in a city.", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
}}


class Person(BaseModel):
    name: str
    age: int


def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key=KEY, max_retries=0)


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def chat(url: str, model: str) -> None:
    answer = client(url).messages.create(model=model, messages=[user(ASKED.say)], **COLD)
    equal((answer.content[0].text, answer.stop_reason), (ASKED.said, "end_turn"))
    counted = client(url).messages.count_tokens(model=model, messages=[user(ASKED.say)]).input_tokens
    equal(counted, answer.usage.input_tokens + answer.usage.cache_read_input_tokens)
    contains(model, next(iter(one.id for one in client(url).models.list() if one.id == model)))


def stream(url: str, model: str) -> None:
    with client(url).messages.stream(model=model, messages=[user(ASKED.count)], **COLD) as answer:
        in_pieces(list(answer.text_stream), ASKED.counted)
        assert answer.get_final_message().usage.output_tokens > 1


def tools(url: str, model: str) -> None:
    """A call, whole and streamed, with each choice of tools; its result and the answer; strict tools."""
    asked: dict[str, Any] = {**COLD, "model": model, "messages": [user(ASKED.weather)]}
    for choice, strict in (("auto", False), ("any", False), ("tool", False), ("auto", True)):
        named = {"name": "get_weather"} if choice == "tool" else {}
        given: dict[str, Any] = {"tools": [{**TOOL, "strict": strict}], "tool_choice": {"type": choice, **named}}
        with client(url).messages.stream(**asked, **given) as streamed:
            for said in (client(url).messages.create(**asked, **given), streamed.get_final_message()):
                [call] = [block for block in said.content if block.type == "tool_use"]
                equal((call.name, call.input, said.stop_reason), ("get_weather", {"city": ASKED.city}, "tool_use"))
                result = {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": call.id, "content": ASKED.result},
                ]}
                messages = [*asked["messages"], said.to_param(), result]
                after = client(url).messages.create(**{**asked, "messages": messages}, tools=[TOOL])
                equal(after.content[-1].text, ASKED.forecast)


def tool_runner(url: str, model: str) -> None:
    """The client runs the tool by itself."""

    @beta_tool
    def get_weather(city: str) -> str:
        """Get the weather in a city."""
        equal(city, ASKED.city)
        return ASKED.result

    runner = client(url).beta.messages.tool_runner(
        model=model, messages=[user(ASKED.weather)], tools=[get_weather], **COLD,
    )
    equal(runner.until_done().content[-1].text, ASKED.forecast)


def structured(url: str, model: str) -> None:
    said = client(url).messages.parse(model=model, messages=[user(ASKED.person)], output_format=Person, **COLD)
    equal(said.parsed_output, Person(name=ASKED.name, age=ASKED.age))


def history(url: str, model: str) -> None:
    """An answer goes back as an object, and as its blocks, thoughts among them."""
    said = client(url).messages.create(model=model, messages=[user(ASKED.introduction)], **COLD)
    for content in (said.content, [block.model_dump(exclude_none=True) for block in said.content]):
        messages = [user(ASKED.introduction), {"role": "assistant", "content": content}, user(ASKED.question)]
        again = client(url).messages.create(model=model, messages=messages, **COLD)
        contains(again.content[-1].text, ASKED.remembered)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "tool_runner": tool_runner, "structured": structured,
         "history": history})
