"""The agents of openai-agents, over its model for chat completions."""

import asyncio
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from asking import ASKED, KEY, contains, equal, in_pieces, run
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(disabled=True)
MODEL: Any = OpenAIChatCompletionsModel


class Person(BaseModel):
    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    equal(city, ASKED.city)
    return ASKED.result


def agent(url: str, model: str, choice: str | None = None, **fields: Any) -> Agent[Any]:
    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    return Agent(
        name="Tiny", model=MODEL(model=model, openai_client=client),
        model_settings=ModelSettings(temperature=0, tool_choice=choice), **fields,
    )


def ask(asked: Agent[Any], text: Any) -> Any:
    return asyncio.run(Runner.run(asked, text))


def chat(url: str, model: str) -> None:
    equal(ask(agent(url, model), ASKED.say).final_output, ASKED.said)


def stream(url: str, model: str) -> None:
    async def read() -> list[str]:
        answer = Runner.run_streamed(agent(url, model), ASKED.count)
        return [
            event.data.delta async for event in answer.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]

    in_pieces(asyncio.run(read()), ASKED.counted)


def tools(url: str, model: str) -> None:
    """The agent calls its strict tool, freely and because it must, and answers with the result."""
    for choice in (None, "required", "get_weather"):
        equal(ask(agent(url, model, choice, tools=[get_weather]), ASKED.weather).final_output, ASKED.forecast)


def structured(url: str, model: str) -> None:
    equal(ask(agent(url, model, output_type=Person), ASKED.person).final_output, Person(name=ASKED.name, age=ASKED.age))


def history(url: str, model: str) -> None:
    first = ask(agent(url, model), ASKED.introduction)
    again = [*first.to_input_list(), {"role": "user", "content": ASKED.question}]
    contains(ask(agent(url, model), again).final_output, ASKED.remembered)


CHECKS = {"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history}

if __name__ == "__main__":
    run(CHECKS)
