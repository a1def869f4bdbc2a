"""The messages of the native chat, and the tools that its answers may call; pure.

A message is that of a chat in OpenAI's API, except that an assistant's thoughts are `thoughts`, its calls
`calls: [{id, name, arguments}]` with the arguments as an object, and that a tool's result names its `call`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from attrs import evolve

from lllms_core.apis.fields import read_fields, read_list, read_string
from lllms_core.apis.messages import read_messages
from lllms_core.errors import RequestError
from lllms_core.parameters.wording import missing, wrong_type
from lllms_core.types import Message, ToolCall

T = TypeVar("T")
Said = Mapping[str, object]
"""A message in JSON's types."""

_NAMES = {"thoughts": "reasoning_content", "call": "tool_call_id"}
"""Our name of a field, and OpenAI's, which is accepted as well."""


def read_said(values: Sequence[object], path: str = "messages") -> tuple[Message, ...]:
    """Read messages. Raises `RequestError` that names the place below `path`."""

    def read() -> tuple[Message, ...]:
        return read_messages([_theirs(one, f"messages[{index}]") for index, one in enumerate(values)])

    return _in_our_words(read, {
        "reasoning_content": "thoughts", "tool_call_id": "call",
        **({} if path == "messages" else {"messages[0]": path}),
    })


def answer_value(message: Message) -> dict[str, object]:
    """Return an answer as it is kept in a conversation."""
    thoughts: dict[str, object] = {} if message.reasoning is None else {"thoughts": message.reasoning}
    calls = [call_value(call) for call in message.tool_calls]
    return {"role": "assistant", "content": message.content, **thoughts, **({"calls": calls} if calls else {})}


def call_value(call: ToolCall) -> dict[str, object]:
    """Return a call; what a model wrote that is no object, because it was cut, is its `text`, and `arguments` null."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return {"id": call.id, "name": call.name, "arguments": arguments}
    return {"id": call.id, "name": call.name, "arguments": None, "text": call.arguments}


def tool_parameters(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return a chat's parameters with `tools` and `tool_choice` in OpenAI's form, in which they are checked."""
    told = dict(parameters)
    tools = told.get("tools")
    if isinstance(tools, list):
        told["tools"] = [_tool(one) for one in tools]
    choice = told.get("tool_choice")
    if isinstance(choice, dict) and choice.keys() == {"name"}:
        told["tool_choice"] = {"type": "function", "function": choice}
    return told


def with_our_tools(build: Callable[[], T]) -> T:
    """Return what `build` makes of parameters; the errors that it raises name the members of our tools."""
    return _in_our_words(build, {".function": ""})


def _in_our_words(build: Callable[[], T], words: Mapping[str, str]) -> T:
    try:
        return build()
    except RequestError as error:
        text, param = error.text, error.param
        if param is None or not param.startswith(("messages[", "tools[")):
            raise
        for theirs, ours in words.items():
            new = param.replace(theirs, ours)
            text, param = text.replace(param, new), new
        raise evolve(error, text=text, param=param) from None


def _tool(value: object) -> object:
    if not isinstance(value, dict) or "function" in value:
        return value
    function = {name: one for name, one in value.items() if name != "type"}
    return {"type": value.get("type", "function"), "function": function}


def _theirs(value: object, path: str) -> object:
    fields = read_fields(value, path)
    for ours, theirs in _NAMES.items():
        if ours in fields:
            fields[theirs] = fields.pop(ours)
    if "calls" in fields:
        calls = read_list(fields.pop("calls"), f"{path}.calls")
        fields["tool_calls"] = [_call(one, f"{path}.calls[{index}]") for index, one in enumerate(calls)]
        fields.setdefault("content", "")
    return fields


def _call(value: object, path: str) -> object:
    fields = read_fields(value, path)
    if "arguments" not in fields:
        raise missing(f"{path}.arguments")
    arguments = fields["arguments"]
    if not isinstance(arguments, dict):
        raise wrong_type(f"{path}.arguments", "an object", arguments)
    function = {
        "name": read_string(fields, "name", path),
        "arguments": json.dumps(cast("dict[str, object]", arguments), ensure_ascii=False),
    }
    return {"id": read_string(fields, "id", path), "type": "function", "function": function}
