"""LangChain's chat model for Anthropic's API, and an agent of its own."""

from typing import Any

from asking import ASKED, KEY, contains, equal, in_pieces, run
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=9)
    age: int = Field(ge=0, le=150)


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    equal(city, ASKED.city)
    return ASKED.result


def llm(url: str, model: str, **fields: Any) -> ChatAnthropic:
    return ChatAnthropic(
        base_url=url.removesuffix("/v1"), api_key=KEY, model=model, max_tokens=1000, max_retries=0,
        model_kwargs={"extra_body": {"temperature": 0}}, **fields,
    )


def chat(url: str, model: str) -> None:
    answer = llm(url, model).invoke(ASKED.say)
    equal(answer.text, ASKED.said)
    assert answer.usage_metadata["output_tokens"] > 0


def stream(url: str, model: str) -> None:
    in_pieces([piece.text for piece in llm(url, model).stream(ASKED.count)], ASKED.counted)


def tools(url: str, model: str) -> None:
    """A bound tool's call, whole and streamed, its result and the answer."""
    bound = llm(url, model).bind_tools([get_weather])
    question = HumanMessage(ASKED.weather)
    pieces = list(bound.stream([question]))
    streamed = pieces[0]
    for piece in pieces[1:]:
        streamed += piece
    for said in (bound.invoke([question]), streamed):
        [call] = said.tool_calls
        equal((call["name"], call["args"]), ("get_weather", {"city": ASKED.city}))
        result: ToolMessage = get_weather.invoke(call)
        equal(bound.invoke([question, said, result]).text, ASKED.forecast)
    for choice in ("any", "get_weather"):
        forced = llm(url, model).bind_tools([get_weather], tool_choice=choice)
        equal([call["args"] for call in forced.invoke(ASKED.weather).tool_calls], [{"city": ASKED.city}])


def agent(url: str, model: str) -> None:
    """An agent calls its tool, reads the result, and answers."""
    weatherman = create_agent(llm(url, model), tools=[get_weather])
    state = weatherman.invoke({"messages": [HumanMessage(ASKED.weather)]})
    equal([message.type for message in state["messages"]], ["human", "ai", "tool", "ai"])
    equal(state["messages"][-1].text, ASKED.forecast)


def structured(url: str, model: str) -> None:
    by_schema = llm(url, model).with_structured_output(Person, method="json_schema")
    equal(by_schema.invoke(ASKED.person), Person(name=ASKED.name, age=ASKED.age))
    by_call = llm(url, model).with_structured_output(Person, method="function_calling")
    assert isinstance(by_call.invoke(ASKED.person), Person)


def history(url: str, model: str) -> None:
    said = llm(url, model).invoke([HumanMessage(ASKED.introduction)])
    messages = [HumanMessage(ASKED.introduction), said, HumanMessage(ASKED.question)]
    contains(llm(url, model).invoke(messages).text, ASKED.remembered)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "agent": agent, "structured": structured, "history": history})
