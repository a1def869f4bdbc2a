"""The messages and tools of a request, in the form that chat templates expect."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Literal

from attrs import evolve, frozen

from lllms_core.cancellation import check_cancelled
from lllms_core.chat.past_arguments import as_object
from lllms_core.types import Message, Tool, ToolCall

Value = dict[str, object]
_SHORT_ID = 9


@frozen
class CallStyle:
    """The form in which a template expects tools, and the calls and thoughts of earlier answers."""

    text_arguments: bool = False
    """Arguments are passed as JSON text, as they were written, not as an object."""
    null_content: bool = False
    """Missing content as null, not as ""; an answer with both content and calls becomes two messages."""
    ids: Literal["own", "short", "named"] = "own"
    """Ids unchanged; of exactly nine letters and digits; or made of the function's name and the call's number."""
    thoughts: str = "reasoning_content"
    """The key of a message's thoughts."""
    one_call: bool = False
    """Each call in a message of its own, before its result."""
    no_text: bool = False
    """Text beside calls and thoughts is appended to the thoughts."""
    described: bool = False
    """Every tool with a description, even an empty one."""


def message_values(messages: Sequence[Message], style: CallStyle) -> list[Value]:
    """Return messages in the form that a template expects, without absent fields."""
    ids: dict[str, str] = {}
    count = 0
    values = []
    if style.one_call:
        messages = [*_one_by_one(messages)]
    if style.no_text:
        messages = [_without_text(message) for message in messages]
    for message in _apart(messages) if style.null_content else messages:
        check_cancelled()
        for call in message.tool_calls:
            ids[call.id] = _id(call, count, style)
            count += 1
        values.append(_message_value(message, ids, style))
    return values


def _apart(messages: Sequence[Message]) -> Iterator[Message]:
    """Yield the same messages, with content and calls in separate messages."""
    for message in messages:
        if message.tool_calls and message.content:
            yield evolve(message, tool_calls=())
            yield evolve(message, content="", reasoning=None)
        else:
            yield message


def _one_by_one(messages: Sequence[Message]) -> Iterator[Message]:
    """Yield the same messages, each call in a message of its own before its result; results must be in their order."""
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if len(message.tool_calls) < 2:
            yield message
            continue
        for number, call in enumerate(message.tool_calls):
            yield evolve(message, tool_calls=(call,)) if number == 0 else Message("assistant", "", tool_calls=(call,))
            if at < len(messages) and messages[at].role == "tool" and messages[at].tool_call_id == call.id:
                yield messages[at]
                at += 1


def _without_text(message: Message) -> Message:
    if not (message.tool_calls and message.content and message.reasoning):
        return message
    return evolve(message, content="", reasoning=f"{message.reasoning}\n{message.content}")


def _message_value(message: Message, ids: dict[str, str], style: CallStyle) -> Value:
    value: Value = {"role": message.role, "content": message.content}
    if message.name is not None:
        value["name"] = message.name
    if message.reasoning is not None:
        value[style.thoughts] = message.reasoning
    if message.tool_calls:
        value["tool_calls"] = [_call_value(call, ids[call.id], style) for call in message.tool_calls]
        if style.null_content:
            value["content"] = None
    if message.tool_call_id is not None:
        value["tool_call_id"] = ids.get(message.tool_call_id, message.tool_call_id)
    return value


def _call_value(call: ToolCall, call_id: str, style: CallStyle) -> Value:
    arguments = call.arguments or "{}" if style.text_arguments else as_object(call.arguments)
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _id(call: ToolCall, number: int, style: CallStyle) -> str:
    if style.ids == "named":
        return f"functions.{call.name}:{number}"
    if style.ids == "own" or (len(call.id) == _SHORT_ID and call.id.isascii() and call.id.isalnum()):
        return call.id
    return sha256(call.id.encode(errors="replace")).hexdigest()[:_SHORT_ID]


def tool_values(tools: Sequence[Tool], style: CallStyle | None = None) -> list[Value] | None:
    """Return tools in the form that a template expects, that of OpenAI's API; None without tools."""
    if not tools:
        return None
    described = style is not None and style.described
    return [{"type": "function", "function": _function(tool, described=described)} for tool in tools]


def _function(tool: Tool, *, described: bool) -> Value:
    description = {"description": tool.description or ""} if described or tool.description is not None else {}
    return {"name": tool.name, **description, "parameters": dict(tool.parameters)}
