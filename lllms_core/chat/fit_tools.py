"""Telling a model in words what its template has no place for: tools, calls and results; pure."""

import json
from collections.abc import Callable, Sequence

from attrs import evolve

from lllms_core.chat.answer_format import HERMES
from lllms_core.chat.history import tool_values
from lllms_core.chat.learn_calls import ToolSupport
from lllms_core.types import Message, Tool, ToolCall

_INSTRUCTIONS = """\
You may call these tools, which are described as JSON, to help with the user's request:
<tools>
{tools}
</tools>
To call a tool, answer with its name and its arguments as JSON, like this:
<tool_call>
{{"name": "the tool's name", "arguments": {{"an argument's name": "its value"}}}}
</tool_call>
The results come in the next message."""


def write_calls(calls: Sequence[ToolCall]) -> str:
    """Calls in the form that a model without one of its own is told to use."""
    return HERMES.separator.join(_written(call) for call in calls)


def fit_tools(
    messages: Sequence[Message], tools: Sequence[Tool], support: ToolSupport,
    write: Callable[[Sequence[ToolCall]], str] = write_calls,
) -> tuple[list[Message], Sequence[Tool]]:
    """The same conversation in what the template supports, and the tools that are left for it to show.

    Calls that it does not show become text, as `write` writes them.
    """
    fitted = [_fit_message(message, support, write) for message in messages]
    fitted = _joined(fitted) if not support.results else fitted
    if not tools or support.declares:
        return fitted, tools
    shown = "\n".join(json.dumps(value, ensure_ascii=False) for value in tool_values(tools) or ())
    words = _INSTRUCTIONS.format(tools=shown)
    if fitted and fitted[0].role in {"system", "developer"}:
        return [evolve(fitted[0], content=f"{fitted[0].content}\n\n{words}"), *fitted[1:]], ()
    return [Message("system", words), *fitted], ()


def _fit_message(message: Message, support: ToolSupport, write: Callable[[Sequence[ToolCall]], str]) -> Message:
    if message.role == "tool" and not support.results:
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls and support.style is None:
        return evolve(message, content=f"{message.content}\n{write(message.tool_calls)}".lstrip("\n"), tool_calls=())
    return message


def _written(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{HERMES.call_start}{{"name": {name}, "arguments": {call.arguments or "{}"}}}{HERMES.call_end}'


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Messages of the user that follow each other as one: templates without tools want turns."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role == "user":
            joined[-1] = evolve(joined[-1], content=f"{joined[-1].content}\n{message.content}")
        else:
            joined.append(message)
    return joined
