"""LlamaIndex's model for servers that speak OpenAI's API, and its agent for functions."""

import asyncio
from typing import Any

from asking import ASKED, KEY, contains, equal, in_pieces, run
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=9)  # a call that is forced on a model that knows no such tool ends nevertheless
    age: int = Field(ge=0, le=150)


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    equal(city, ASKED.city)
    return str(ASKED.result)


def llm(url: str, model: str, **fields: Any) -> OpenAILike:
    return OpenAILike(
        api_base=url, api_key=KEY, model=model, temperature=0, max_retries=0, context_window=1024, is_chat_model=True,
        is_function_calling_model=True, **fields,
    )


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def chat(url: str, model: str) -> None:
    equal(llm(url, model).chat([user(ASKED.say)]).message.content, ASKED.said)


def stream(url: str, model: str) -> None:
    in_pieces([piece.delta or "" for piece in llm(url, model).stream_chat([user(ASKED.count)])], ASKED.counted)


def tools(url: str, model: str) -> None:
    """The call, because it must be made too, and its result; then the same by an agent."""
    tool = FunctionTool.from_defaults(get_weather)
    for required in (False, True):
        said = llm(url, model).chat_with_tools([tool], user_msg=ASKED.weather, tool_required=required)
        [call] = llm(url, model).get_tool_calls_from_response(said)
        equal((call.tool_name, call.tool_kwargs), ("get_weather", {"city": ASKED.city}))
        result = ChatMessage(role="tool", content=ASKED.result, additional_kwargs={"tool_call_id": call.tool_id})
        after = llm(url, model).chat_with_tools([tool], chat_history=[user(ASKED.weather), said.message, result])
        equal(after.message.content, ASKED.forecast)

    async def ask() -> str:
        return str(await FunctionAgent(tools=[get_weather], llm=llm(url, model)).run(ASKED.weather))

    equal(asyncio.run(ask()), ASKED.forecast)


def structured(url: str, model: str) -> None:
    by_schema = llm(url, model, should_use_structured_outputs=True).as_structured_llm(Person)
    equal(by_schema.chat([user(ASKED.person)]).raw, Person(name=ASKED.name, age=ASKED.age))
    assert isinstance(llm(url, model).as_structured_llm(Person).chat([user(ASKED.person)]).raw, Person)


def history(url: str, model: str) -> None:
    said = llm(url, model).chat([user(ASKED.introduction)]).message
    answer = llm(url, model).chat([user(ASKED.introduction), said, user(ASKED.question)])
    contains(str(answer.message.content), ASKED.remembered)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history})
