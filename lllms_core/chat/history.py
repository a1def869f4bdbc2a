"""The messages and tools of a request as chat templates take them."""

import json
from collections.abc import Sequence
from hashlib import sha256

from attrs import frozen

from lllms_core.types import Message, Tool, ToolCall

Value = dict[str, object]
_SHORT_ID = 9


@frozen
class CallStyle:
    """How a template wants to be given the calls of earlier answers."""

    text_arguments: bool = False
    """Arguments as JSON text, not as an object."""
    null_content: bool = False
    """No content as null, not as ""."""
    short_ids: bool = False
    """Ids of exactly nine letters and digits."""


def message_value(message: Message, style: CallStyle) -> Value:
    """A message as a template takes it; what it does not say is left out."""
    value: Value = {"role": message.role, "content": message.content}
    if message.name is not None:
        value["name"] = message.name
    if message.reasoning is not None:
        value["reasoning_content"] = message.reasoning
    if message.tool_calls:
        value["tool_calls"] = [_call_value(call, style) for call in message.tool_calls]
        if style.null_content and not message.content:
            value["content"] = None
    if message.tool_call_id is not None:
        value["tool_call_id"] = _id(message.tool_call_id, style)
    return value


def _call_value(call: ToolCall, style: CallStyle) -> Value:
    arguments: object = call.arguments
    if not style.text_arguments:
        try:
            parsed = json.loads(call.arguments or "{}")
        except ValueError:  # an answer that was cut, say
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else call.arguments
    return {
        "id": _id(call.id, style), "type": "function", "function": {"name": call.name, "arguments": arguments},
    }


def _id(given: str, style: CallStyle) -> str:
    if not style.short_ids or (len(given) == _SHORT_ID and given.isascii() and given.isalnum()):
        return given
    return sha256(given.encode(errors="replace")).hexdigest()[:_SHORT_ID]


def tool_values(tools: Sequence[Tool]) -> list[Value] | None:
    """Tools as a template takes them, in the form of OpenAI's API; None if there are none."""
    if not tools:
        return None
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _function(tool: Tool) -> Value:
    description = {} if tool.description is None else {"description": tool.description}
    return {"name": tool.name, **description, "parameters": dict(tool.parameters)}
