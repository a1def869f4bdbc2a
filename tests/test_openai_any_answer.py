"""Streams equal answers, whatever a model writes: text, thoughts, calls, broken ones, split anywhere."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import openai
import pytest
from attrs import frozen
from chunks_for_tests import comparable, put_together
from hypothesis import given, settings
from hypothesis import strategies as st
from quart import Quart

from lllms_core.app import create_app
from lllms_core.chat.answer_format import HERMES, AnswerFormat, ReasoningFormat
from lllms_core.config import parse_config
from lllms_core.engines import TOOL_PARAMETERS, Engine
from lllms_core.engines.serial import Piece, SerialModel
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.types import Request, TokenScore

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


class Parrot(SerialModel):
    """Writes the tokens that it is given."""

    answer_format = AnswerFormat(HERMES, ReasoningFormat())

    def chat(self, request: Request) -> Iterator[Piece]:
        tokens = [text.encode() for text in json.loads((request.messages or ())[-1].content)]
        return iter([TokenScore(token, -1.0) for token in tokens] if request.scored else tokens)


class ParrotEngine(Engine):
    name = "parrot"
    parameters = TOOL_PARAMETERS | {"logprobs", "top_logprobs", "temperature"}
    isolation = "thread"
    needs_file = False

    def load(self, spec: object, progress: object) -> Parrot:
        return Parrot()


class ParrotPlugin:
    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        return [ParrotEngine()]


@frozen
class Server:
    """The app, in an event loop that runs on request."""

    app: Quart
    runner: asyncio.Runner

    def post(self, body: Mapping[str, object], path: str = CHAT) -> str:
        async def ask() -> str:
            answer = await self.app.test_client().post(path, json=body)
            data: str = await answer.get_data(as_text=True)
            assert answer.status_code == 200, data
            return data

        return self.runner.run(ask())


@contextmanager
def parrot() -> Iterator[Server]:
    """A server whose only model says what it is told to."""
    with asyncio.Runner() as runner:
        plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"parrot": ParrotPlugin()})
        host = Host(parse_config({"models": {"parrot": {"engine": "parrot"}}}), plugins)
        runner.run(host.start())
        yield Server(create_app(host), runner)
        runner.run(host.close(0))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with parrot() as made:
        yield made


def whole(server: Server, body: Mapping[str, object]) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = json.loads(server.post(body))["choices"]
    return answer


def streamed(server: Server, body: Mapping[str, object]) -> list[dict[str, Any]]:
    return put_together(server.post({**body, "stream": True}))


TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}
PIECES = st.sampled_from([
    "Hello", " there", "\N{GRINNING FACE}", "stop", "st", "<", "<think>", "</think>", "hm\n", "\n\n", "<tool_call>",
    "</tool_call>", '{"name": "add", "arguments": {"a": 1}}', '{"name": "add"', ', "arguments": {"a": [1, "x"', "]}}",
    '<tool_call>\n{"name": "add", "arguments": {"a": "\\u00e9"}}\n</tool_call>', '"name": "other"', "}", '"',
    "<think>\nWhat now?\n</think>\n\n",
])
BODIES = st.fixed_dictionaries({}, optional={
    "n": st.integers(1, 3), "max_tokens": st.integers(1, 60), "logprobs": st.just(value=True),
    "stop": st.lists(st.sampled_from(["stop", "hm", "</think>", '"a"']), max_size=2),
    "parallel_tool_calls": st.booleans(),
    "tools": st.just([{"type": "function", "function": TOOL}]),
}) | st.fixed_dictionaries({"functions": st.just([TOOL])}, optional={"n": st.integers(1, 2)})


@settings(max_examples=250, deadline=None)
@given(words=st.lists(PIECES, max_size=10), body=BODIES, data=st.data())
def test_streams_equal_answers(server: Server, words: list[str], body: dict[str, Any], data: st.DataObject) -> None:
    """The joined chunks are the answer, for any output, split into any tokens, with any parameters."""
    text = "".join(words)
    cuts = data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=30))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    tokens = [text[one:other] for one, other in pairwise(bounds)]
    body = {"model": "parrot", "messages": [{"role": "user", "content": json.dumps(tokens)}], **body}
    answer = comparable(whole(server, body))
    assert answer == comparable(streamed(server, body))
    for choice in answer:
        check(choice, cut="max_tokens" in body or bool(body.get("stop")))


def check(choice: dict[str, Any], *, cut: bool) -> None:
    """An answer with calls says so, and their arguments are JSON unless they were cut off."""
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    calls += [message["function_call"]] if "function_call" in message else []
    assert choice["finish_reason"] in {"stop", "length", "tool_calls", "function_call"}
    if choice["finish_reason"] == "stop" and not cut:
        assert not calls
    for call in calls:
        assert call["name"] == "add"
        if not cut:
            assert isinstance(json.loads(call["arguments"]), dict)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(PIECES, max_size=8), body=BODIES)
def test_the_official_client_reads_every_stream(server: Server, words: list[str], body: dict[str, Any]) -> None:
    """OpenAI's own types accept every chunk of a stream."""
    content = json.dumps(words)
    body = {"model": "parrot", "messages": [{"role": "user", "content": content}], **body, "stream": True}
    *events, _, _ = server.post(body).split("\n\n")
    chunk = openai.types.chat.ChatCompletionChunk
    chunks = [chunk.model_validate_json(event.removeprefix("data: "), strict=True) for event in events]
    ends = [choice.index for one in chunks for choice in one.choices if choice.finish_reason is not None]
    assert sorted(ends) == list(range(body.get("n", 1)))
