"""LangChain's chat model, and an agent of its own."""

from typing import Any

from asking import ASKED, KEY, contains, equal, in_pieces, run
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=9)  # a call that is forced on a model that knows no such tool ends nevertheless
    age: int = Field(ge=0, le=150)


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    equal(city, ASKED.city)
    return ASKED.result


def llm(url: str, model: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key=KEY, model=model, temperature=0, max_retries=0, **fields)


def chat(url: str, model: str) -> None:
    answer = llm(url, model).invoke(ASKED.say)
    equal(answer.content, ASKED.said)
    assert answer.usage_metadata["output_tokens"] > 0


def stream(url: str, model: str) -> None:
    in_pieces([piece.content for piece in llm(url, model).stream(ASKED.count)], ASKED.counted)


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
        equal(bound.invoke([question, said, result]).content, ASKED.forecast)


def forced_tools(url: str, model: str) -> None:
    for choice in ("any", "get_weather"):
        for strict in (False, True):
            bound = llm(url, model).bind_tools([get_weather], tool_choice=choice, strict=strict)
            equal([call["args"] for call in bound.invoke(ASKED.weather).tool_calls], [{"city": ASKED.city}])


def agent(url: str, model: str) -> None:
    """An agent calls its tool, reads the result, and answers; its whole history is sent again in the next turn."""
    weatherman = create_agent(llm(url, model), tools=[get_weather])
    state = weatherman.invoke({"messages": [HumanMessage(ASKED.weather)]})
    equal([message.type for message in state["messages"]], ["human", "ai", "tool", "ai"])
    equal(state["messages"][-1].content, ASKED.forecast)
    again = weatherman.invoke({"messages": [*state["messages"], HumanMessage(ASKED.weather)]})
    assert len(again["messages"]) > len(state["messages"])
    assert again["messages"][-1].content, again


def structured(url: str, model: str) -> None:
    for method in ("json_schema", "json_mode"):
        asked = llm(url, model).with_structured_output(Person, method=method)
        equal(asked.invoke(ASKED.person), Person(name=ASKED.name, age=ASKED.age))
    by_call = llm(url, model).with_structured_output(Person, method="function_calling")
    assert isinstance(by_call.invoke(ASKED.person), Person)


def history(url: str, model: str) -> None:
    said = llm(url, model).invoke([HumanMessage(ASKED.introduction)])
    messages = [HumanMessage(ASKED.introduction), said, HumanMessage(ASKED.question)]
    contains(str(llm(url, model).invoke(messages).content), ASKED.remembered)


def responses(url: str, model: str) -> None:
    """The same model and agent over Responses, with turns that the server keeps."""
    asked = llm(url, model, use_responses_api=True, use_previous_response_id=True)
    first = [HumanMessage(ASKED.introduction)]
    said = asked.invoke(first)
    contains(asked.invoke([*first, said, HumanMessage(ASKED.question)]).text, ASKED.remembered)
    in_pieces([piece.text for piece in asked.stream(ASKED.count)], ASKED.counted)
    over = create_agent(llm(url, model, use_responses_api=True), [get_weather])
    equal(over.invoke({"messages": [HumanMessage(ASKED.weather)]})["messages"][-1].text, ASKED.forecast)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "forced_tools": forced_tools, "agent": agent,
         "structured": structured, "history": history, "responses": responses})
