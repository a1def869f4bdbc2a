"""instructor's modes, each of which asks for a model's fields in another way."""

from typing import Any

import instructor
import openai
from asking import ASKED, KEY, contains, equal, in_pieces, run
from pydantic import BaseModel, Field


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=9)  # a call that is forced on a model that knows no such tool ends nevertheless
    age: int = Field(ge=0, le=150)


class get_weather(BaseModel):  # noqa: N801  # the tool's name
    """Get the weather in a city."""

    city: str


EXACT = (instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON)
FORCED = (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT)


def client(url: str, mode: instructor.Mode) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=url, api_key=KEY, max_retries=0), mode=mode)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def chat(url: str, model: str) -> None:
    answer = client(url, instructor.Mode.TOOLS).chat.completions.create(
        model=model, messages=[user(ASKED.say)], response_model=None, temperature=0,
    )
    equal(answer.choices[0].message.content, ASKED.said)


def stream(url: str, model: str) -> None:
    """Without a model pieces of text, with one partial models, of which the last is whole."""
    asked: dict[str, Any] = {"model": model, "temperature": 0, "stream": True}
    pieces = client(url, instructor.Mode.TOOLS).chat.completions.create(
        **asked, messages=[user(ASKED.count)], response_model=None,
    )
    in_pieces([piece.choices[0].delta.content or "" for piece in pieces if piece.choices], ASKED.counted)
    for mode in (*FORCED, instructor.Mode.JSON_SCHEMA):
        *_, last = client(url, mode).chat.completions.create_partial(
            model=model, temperature=0, messages=[user(ASKED.person)], response_model=Person,
        )
        Person.model_validate(last.model_dump())


def tools(url: str, model: str) -> None:
    """The tool is forced by its name; its call's arguments are the model."""
    for mode in FORCED:
        call = client(url, mode).chat.completions.create(
            model=model, temperature=0, max_retries=0, messages=[user(ASKED.weather)], response_model=get_weather,
        )
        equal(call.city, ASKED.city)


def structured(url: str, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "temperature": 0, "max_retries": 0, "response_model": Person}
    for mode in (*EXACT, *FORCED):
        found = client(url, mode).chat.completions.create(**asked, messages=[user(ASKED.person)])
        assert isinstance(found, Person), found
        if mode is instructor.Mode.JSON_SCHEMA:
            equal((found.name, found.age), (ASKED.name, ASKED.age))


def history(url: str, model: str) -> None:
    """The answer that a model was made from goes back as it came."""
    asked: dict[str, Any] = {"model": model, "temperature": 0, "response_model": None}
    ask = client(url, instructor.Mode.TOOLS).chat.completions.create
    said = ask(**asked, messages=[user(ASKED.introduction)]).choices[0].message
    answer = ask(**asked, messages=[user(ASKED.introduction), said.model_dump(), user(ASKED.question)])
    contains(answer.choices[0].message.content, ASKED.remembered)


if __name__ == "__main__":
    run({"chat": chat, "stream": stream, "tools": tools, "structured": structured, "history": history})
