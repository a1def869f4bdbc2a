"""Assembles a chat stream by the rules of OpenAI's clients."""

import json
from typing import Any


def put_together(text: str) -> list[dict[str, Any]]:
    """Return the choices of a stream, and check its events: a role first, nothing after an end."""
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.startswith(":"):
            continue
        [piece] = json.loads(event.removeprefix("data: "))["choices"]
        first = piece["index"] not in choices
        choice = choices.setdefault(piece["index"], {
            "index": piece["index"], "finish_reason": None, "logprobs": None,
            "message": {"role": "assistant", "content": None, "refusal": None},
        })
        assert first == ("role" in piece["delta"])
        assert choice["finish_reason"] is None, "something after the end of a choice"
        choice["finish_reason"] = piece["finish_reason"]
        add_message(choice["message"], {key: value for key, value in piece["delta"].items() if key != "role"})
        if piece["logprobs"] is not None:
            choice["logprobs"] = choice["logprobs"] or {"content": [], "refusal": None}
            choice["logprobs"]["content"] += piece["logprobs"]["content"]
    return [choices[index] for index in sorted(choices)]


def add_message(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            for call in value:
                add_call(message.setdefault("tool_calls", []), call)
        elif key == "function_call":
            known = message.setdefault("function_call", {"name": "", "arguments": ""})
            for part, text in value.items():
                known[part] += text
        elif value is not None:
            message[key] = (message.get(key) or "") + value


def add_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    if piece["index"] == len(calls):
        assert piece["id"]
        assert piece["function"]["name"], "a call begins with its name"
        calls.append({"id": piece["id"], "type": piece["type"], "function": {**piece["function"]}})
    else:
        assert "id" not in piece
        calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def comparable(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choices without what two requests never share, and with one value for an empty message."""
    for choice in choices:
        message = choice["message"]
        message["content"] = message["content"] or None
        assert len({call["id"] for call in message.get("tool_calls", ())}) == len(message.get("tool_calls", ()))
        for call in message.get("tool_calls", ()):
            del call["id"]
        if choice["logprobs"] is not None and not choice["logprobs"]["content"]:
            choice["logprobs"] = None
    return choices
