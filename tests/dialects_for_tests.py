"""The same chat in each dialect, and its answer or error read back, whole or streamed."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen
from hostile_for_tests import CHAT, MESSAGES, RESPOND, TEXT
from lines_for_tests import Answer

Said = Sequence[Mapping[str, str]]
Read = tuple[str, Mapping[str, Any] | None]
"""A text, and the error that ended it, if any, with its `code` ("" if the dialect has none) and `message`."""


@frozen
class Dialect:
    """How clients of one API ask and are answered."""

    path: str
    body: Callable[[Said, int], Mapping[str, object]]
    """Makes a body, without its model, of messages and the most tokens of an answer; the temperature is 0."""
    whole: Callable[[Any], str]
    """Reads the text of an answer that is not streamed."""
    streamed: Callable[[bytes], Read]
    """Reads a stream. Raises `ValueError` if it has no end."""

    def read(self, answer: Answer, *, stream: bool) -> Read:
        """Read an answer. Raises `ValueError`, `KeyError` or `IndexError` if it has not the dialect's form."""
        if answer.status != 200:
            return "", error_of(answer.json())
        return self.streamed(answer.body) if stream else (self.whole(answer.json()), None)


def error_of(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The error in a body, an event or a line."""
    error = told["error"]
    if isinstance(error, str):
        return {"code": "", "message": error}
    return {"code": error.get("code") or "", "message": error["message"]}


def events(body: bytes) -> list[Any]:
    """The data of server-sent events."""
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]


def _openai(body: bytes) -> Read:
    text = ""
    for event in events(body):
        if "error" in event:
            return text, error_of(event)
        for choice in event["choices"]:
            text += choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
    if b"\ndata: [DONE]" not in body:
        raise ValueError("the stream ends without an end")
    return text, None


def _responses(body: bytes) -> Read:
    text = ""
    for event in events(body):
        match event["type"]:
            case "response.output_text.delta":
                text += event["delta"]
            case "response.completed" | "response.incomplete":
                return text, None
            case "response.failed":
                return text, error_of(event["response"])
            case "error":
                return text, {"code": event.get("code") or "", "message": event["message"]}
    raise ValueError("the stream ends without an end")


def _anthropic(body: bytes) -> Read:
    text = ""
    for event in events(body):
        match event["type"]:
            case "content_block_delta":
                text += event["delta"].get("text", "")
            case "message_stop":
                return text, None
            case "error":
                return text, error_of(event)
    raise ValueError("the stream ends without an end")


def _ollama(body: bytes) -> Read:
    text = ""
    for one in map(json.loads, body.splitlines()):
        if "error" in one:
            return text, error_of(one)
        text += one["message"]["content"]
        if one["done"]:
            return text, None
    raise ValueError("the stream ends without an end")


def _response_text(told: Any) -> str:
    return "".join(part["text"] for item in told["output"] for part in item.get("content", ()))


def _message_text(told: Any) -> str:
    return "".join(block["text"] for block in told["content"])


COMPLETIONS = Dialect(
    TEXT, lambda said, most: {"prompt": said[-1]["content"], "max_tokens": most, "temperature": 0},
    lambda told: str(told["choices"][0]["text"]), _openai,
)
CHATS = (
    Dialect(
        CHAT, lambda said, most: {"messages": said, "max_tokens": most, "temperature": 0},
        lambda told: str(told["choices"][0]["message"]["content"]), _openai,
    ),
    Dialect(
        RESPOND, lambda said, most: {"input": said, "max_output_tokens": most, "temperature": 0},
        _response_text, _responses,
    ),
    Dialect(
        MESSAGES, lambda said, most: {"messages": said, "max_tokens": most, "temperature": 0},
        _message_text, _anthropic,
    ),
    Dialect(
        "/api/chat", lambda said, most: {"messages": said, "options": {"num_predict": most, "temperature": 0}},
        lambda told: str(told["message"]["content"]), _ollama,
    ),
)
"""Those that chat: OpenAI's two, Anthropic's and Ollama's."""
