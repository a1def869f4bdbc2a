"""Put tools, calls and results into words for a model whose template does not support them; pure."""

import json
from collections.abc import Callable, Sequence
from itertools import groupby

from attrs import evolve

from lllms_core.chat.answer_format import ANY_ID, ANY_NUMBER, HERMES, CallFormat
from lllms_core.chat.history import tool_values
from lllms_core.chat.learn_calls import ToolSupport
from lllms_core.chat.past_arguments import as_object, as_text
from lllms_core.types import Message, Tool, ToolCall

_INSTRUCTIONS = """\
You may call these tools, which are described as JSON, to help with the user's request:
<tools>
{tools}
</tools>
To call a tool, answer with its name and its arguments, like this:
{example}
The results come in the next message."""
_EXAMPLE = ToolCall("call00001", "name_of_the_tool", '{"name_of_an_argument": "its value"}')


def write_calls(calls: Sequence[ToolCall], form: CallFormat = HERMES) -> str:
    """Write calls in a form; a model without its own is instructed to use the default."""
    between = form.call_end + form.separator + form.call_start
    written = between.join(
        _written(call, form).replace(ANY_ID, call.id).replace(ANY_NUMBER, str(at)) for at, call in enumerate(calls)
    )
    return f"{form.section_start}{form.call_start}{written}{form.call_end}{form.section_end}"


def fit_tools(
    messages: Sequence[Message], tools: Sequence[Tool], support: ToolSupport,
    write: Callable[[Sequence[ToolCall]], str],
) -> tuple[list[Message], Sequence[Tool]]:
    """Return the conversation in the forms that the template supports, and the tools left for it to show.

    Calls that it does not show become text, as `write` writes them. If the template does not show the tools, the model
    is told about them, and how `write` writes a call.
    """
    fitted = [_fit_message(message, support, write) for message in messages]
    fitted = _joined(fitted) if not support.results else fitted
    if not tools or support.declares:
        return fitted, tools
    shown = "\n".join(json.dumps(value, ensure_ascii=False) for value in tool_values(tools) or ())
    words = _INSTRUCTIONS.format(tools=shown, example=write([_EXAMPLE]).strip())
    if fitted and fitted[0].role in {"system", "developer"}:
        return [evolve(fitted[0], content=f"{fitted[0].content}\n\n{words}"), *fitted[1:]], ()
    return [Message("system", words), *fitted], ()


def _fit_message(message: Message, support: ToolSupport, write: Callable[[Sequence[ToolCall]], str]) -> Message:
    if message.role == "tool" and not support.results:
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls and support.style is None:
        return evolve(message, content=f"{message.content}\n{write(message.tool_calls)}".lstrip("\n"), tool_calls=())
    return message


def _written(call: ToolCall, form: CallFormat) -> str:
    arguments = as_text(call.arguments)
    if form.shape == "object":
        before, between, after = form.parts
        return f"{before}{json.dumps(call.name, ensure_ascii=False)}{between}{arguments}{after}"
    if form.shape == "named":
        return f"{call.name}{form.name_end}{arguments}"
    members = as_object(arguments).items()
    if form.shape == "keyword":
        pairs = (f"{key}{form.key_end}{_literal(value, form)}" for key, value in members)
        return f"{call.name}{form.name_end}{', '.join(pairs)}{form.arguments_end}"
    tagged = (
        f"{form.parameter_start}{key}{form.key_end}{value}{form.value_end}" if isinstance(value, str) else
        f"{form.parameter_start}{key}{form.other_key_end or form.key_end}{_json(value)}{form.value_end}"
        for key, value in members
    )
    return f"{call.name}{form.name_end}{''.join(tagged)}"


def _literal(value: object, form: CallFormat) -> str:
    """Write a value for the brackets of a call."""
    if form.python:
        return repr(value)
    if isinstance(value, str):
        return f"{form.quote}{value}{form.quote}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_literal(item, form)}' for key, item in value.items())}}}"
    return f"[{','.join(_literal(item, form) for item in value)}]" if isinstance(value, list) else _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Merge consecutive messages of the user: templates without tools expect turns."""
    joined: list[Message] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        same = list(group)
        if role == "user" and len(same) > 1:
            same = [evolve(same[0], content="\n".join(message.content for message in same))]
        joined += same
    return joined
