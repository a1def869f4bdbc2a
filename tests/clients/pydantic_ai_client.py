"""Pydantic AI's agents, with every mode of structured output."""

import asyncio
from typing import Any

from asking import ASKED, KEY, contains, equal, in_pieces, run
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=9)  # a call that is forced on a model that knows no such tool ends nevertheless
    age: int = Field(ge=0, le=150)


def agent(url: str, model: str, **fields: Any) -> Agent[Any, Any]:
    provider = OpenAIProvider(base_url=url, api_key=KEY)
    return Agent(OpenAIChatModel(model, provider=provider), model_settings={"temperature": 0}, **fields)


def of_responses(url: str, model: str, **fields: Any) -> Agent[Any, Any]:
    provider = OpenAIProvider(base_url=url, api_key=KEY)
    return Agent(OpenAIResponsesModel(model, provider=provider), model_settings={"temperature": 0}, **fields)


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    equal(city, ASKED.city)
    return ASKED.result


def chat(url: str, model: str) -> None:
    equal(agent(url, model).run_sync(ASKED.say).output, ASKED.said)


def stream(url: str, model: str) -> None:
    async def read() -> list[str]:
        async with agent(url, model).run_stream(ASKED.count) as answer:
            return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]

    in_pieces(asyncio.run(read()), ASKED.counted)


def tools(url: str, model: str) -> None:
    """The agent calls its tool, and answers with the result, whole and streamed."""

    async def streamed() -> str:
        async with agent(url, model, tools=[get_weather]).run_stream(ASKED.weather) as answer:
            return str(await answer.get_output())

    equal(agent(url, model, tools=[get_weather]).run_sync(ASKED.weather).output, ASKED.forecast)
    equal(asyncio.run(streamed()), ASKED.forecast)


def structured(url: str, model: str) -> None:
    equal(agent(url, model, output_type=NativeOutput(Person)).run_sync(ASKED.person).output,
          Person(name=ASKED.name, age=ASKED.age))
    for output in (ToolOutput(Person), PromptedOutput(Person)):
        assert isinstance(agent(url, model, output_type=output).run_sync(ASKED.person).output, Person)


def history(url: str, model: str) -> None:
    first = agent(url, model).run_sync(ASKED.introduction)
    again = agent(url, model).run_sync(ASKED.question, message_history=first.all_messages())
    contains(again.output, ASKED.remembered)


def responses(url: str, model: str) -> None:
    """The model of Responses: text, a stream, a tool, and the history of one in the next."""
    equal(of_responses(url, model).run_sync(ASKED.say).output, ASKED.said)
    equal(of_responses(url, model, tools=[get_weather]).run_sync(ASKED.weather).output, ASKED.forecast)

    async def read() -> list[str]:
        async with of_responses(url, model).run_stream(ASKED.count) as answer:
            return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]

    in_pieces(asyncio.run(read()), ASKED.counted)
    first = of_responses(url, model).run_sync(ASKED.introduction)
    again = of_responses(url, model).run_sync(ASKED.question, message_history=first.all_messages())
    contains(again.output, ASKED.remembered)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history,
         "responses": responses})
