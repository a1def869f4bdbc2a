"""Answers in the form that a request demands: scripted ones that fit, else the smallest instances of schemas."""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from lllms_core.errors import InvalidRequest
from lllms_core.types import ChatRequest, Constraint, Tool
from lllms_mock.call_notation import FORMAT
from lllms_mock.conformity import Unkept
from lllms_mock.options import Call
from lllms_mock.smallest import conforms, smallest

_OBJECT: Mapping[str, object] = {"type": "object"}


def calls_any(scripted: Sequence[Call], request: ChatRequest) -> bool:
    """Whether an answer is calls: if one is required, or the script has some of offered tools without results."""
    if request.tool_choice == "required":
        return True
    names = {tool.name for tool in request.tools}
    return request.messages[-1].role != "tool" and any(call.name in names for call in scripted)


def choose_calls(scripted: Sequence[Call], request: ChatRequest) -> list[Call]:
    """Return the calls of an answer: the scripted ones of offered tools, or one of the first tool if one is required.

    The arguments are the scripted ones, unless they must conform to a schema and do not.
    """
    if not calls_any(scripted, request):
        return []
    required = request.tool_choice == "required"
    param = "tool_choice" if required else "tools"
    tools = {tool.name: tool for tool in request.tools}
    calls = [
        _fitted(call, tools[call.name], param) if required or tools[call.name].strict else call
        for call in scripted if call.name in tools
    ]
    if calls:
        return calls
    tool = request.tools[0]
    return [Call(name=tool.name, arguments=_arguments(tool, param))]


def choose_text(scripted: str, constraint: Constraint) -> str:
    """Return a scripted reply if it is JSON that conforms, else the smallest instance."""
    try:
        schema = json.loads(constraint.text) if constraint.kind == "json_schema" else _OBJECT
        text = scripted if _fits(scripted, schema) else _write(smallest(schema))
    except (Unkept, ValueError) as why:
        raise _refusal("the schema", why, constraint.param) from None
    for mark in filter(None, map(str.strip, FORMAT.markers)):  # within a string it is text
        text = text.replace(mark, f"\\u{ord(mark[0]):04x}{mark[1:]}")
    return text


def _fitted(call: Call, tool: Tool, param: str) -> Call:
    try:
        fits = conforms(dict(call.arguments), _object(tool))
    except Unkept as why:
        raise _refusal(f"the schema of tool '{tool.name}'", why, param) from None
    return call if fits else Call(name=tool.name, arguments=_arguments(tool, param))


def _arguments(tool: Tool, param: str) -> Mapping[str, object]:
    try:
        arguments = smallest(_object(tool))
        _write(arguments)
    except (Unkept, ValueError) as why:
        raise _refusal(f"the schema of tool '{tool.name}'", why, param) from None
    return cast("Mapping[str, object]", arguments)


def _object(tool: Tool) -> Mapping[str, object]:
    return {"type": "object", **tool.parameters}


def _fits(text: str, schema: object) -> bool:
    try:
        value = json.loads(text)
        _write(value)  # refuses NaN and infinity
    except ValueError:
        return False
    return conforms(value, schema)


def _write(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _refusal(what: str, why: Exception, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"the mock cannot answer with an instance of {what}: {why}; it writes the smallest one, or what its script "
        "says if that conforms", param, "invalid_json_schema",
    )
