"""Ollama's own client, and its objects sent back."""

import ollama
from asking import ASKED, contains, equal, in_pieces, run
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the weather in a city.

    Args:
        city: Its name.
    """
    equal(city, ASKED.city)
    return ASKED.result


def ask(url: str, model: str, messages: list[object], **fields: object) -> ollama.ChatResponse:
    with ollama.Client(url.removesuffix("/v1")) as client:
        return client.chat(model, messages, options={"temperature": 0}, **fields)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def chat(url: str, model: str) -> None:
    answer = ask(url, model, [user(ASKED.say)])
    equal(answer.message.content, ASKED.said)
    assert answer.eval_count > 0


def stream(url: str, model: str) -> None:
    with ollama.Client(url.removesuffix("/v1")) as client:
        chat = client.chat(model, [user(ASKED.count)], stream=True, options={"temperature": 0})
        in_pieces([piece.message.content for piece in chat], ASKED.counted)
        said = client.generate(model, ASKED.count, stream=True, options={"temperature": 0})
        in_pieces([piece.response for piece in said], ASKED.counted)


def tools(url: str, model: str) -> None:
    """A function's call, its result and the answer."""
    question = user(ASKED.weather)
    said = ask(url, model, [question], tools=[get_weather]).message
    [call] = said.tool_calls
    equal((call.function.name, dict(call.function.arguments)), ("get_weather", {"city": ASKED.city}))
    result = {"role": "tool", "tool_name": "get_weather", "content": get_weather(**call.function.arguments)}
    equal(ask(url, model, [question, said, result], tools=[get_weather]).message.content, ASKED.forecast)


def structured(url: str, model: str) -> None:
    said = ask(url, model, [user(ASKED.person)], format=Person.model_json_schema()).message.content
    equal(Person.model_validate_json(said), Person(name=ASKED.name, age=ASKED.age))


def history(url: str, model: str) -> None:
    said = ask(url, model, [user(ASKED.introduction)]).message
    answer = ask(url, model, [user(ASKED.introduction), said, user(ASKED.question)])
    contains(answer.message.content, ASKED.remembered)


def models(url: str, model: str) -> None:
    """The model is listed, described, pulled at once, loaded and unloaded."""
    with ollama.Client(url.removesuffix("/v1")) as client:
        assert f"{model}:latest" in [one.model for one in client.list().models]
        assert "completion" in client.show(model).capabilities
        equal([one.status for one in client.pull(model, stream=True)][-1], "success")
        client.generate(model, keep_alive="5m")
        assert f"{model}:latest" in [one.model for one in client.ps().models]
        equal(client.generate(model, keep_alive=0).done_reason, "unload")


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history,
         "models": models})
