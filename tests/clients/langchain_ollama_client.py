"""LangChain's model for Ollama."""

from typing import Any

from asking import ASKED, contains, equal, in_pieces, run
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    equal(city, ASKED.city)
    return ASKED.result


def llm(url: str, model: str, **fields: Any) -> ChatOllama:
    return ChatOllama(
        base_url=url.removesuffix("/v1"), model=model, temperature=0, validate_model_on_init=True, **fields,
    )


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


def agent(url: str, model: str) -> None:
    """An agent calls its tool, reads the result, and answers."""
    state = create_agent(llm(url, model), tools=[get_weather]).invoke({"messages": [HumanMessage(ASKED.weather)]})
    equal([message.type for message in state["messages"]], ["human", "ai", "tool", "ai"])
    equal(state["messages"][-1].content, ASKED.forecast)


def structured(url: str, model: str) -> None:
    for method in ("json_schema", "json_mode"):
        asked = llm(url, model).with_structured_output(Person, method=method)
        equal(asked.invoke(ASKED.person), Person(name=ASKED.name, age=ASKED.age))


def history(url: str, model: str) -> None:
    said = llm(url, model).invoke([HumanMessage(ASKED.introduction)])
    messages = [HumanMessage(ASKED.introduction), said, HumanMessage(ASKED.question)]
    contains(str(llm(url, model).invoke(messages).content), ASKED.remembered)


def embeddings(url: str, _: str) -> None:
    embedder = OllamaEmbeddings(base_url=url.removesuffix("/v1"), model="mock")
    equal([len(one) for one in embedder.embed_documents(["one", "two"])], [64, 64])


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "agent": agent, "structured": structured, "history": history,
         "embeddings": embeddings})
