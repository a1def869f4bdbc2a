"""The tools of a request and the choice among them, as parameters of our own; pure."""

import re
from collections.abc import Mapping

from attrs import field, frozen

from lllms_core.apis.fields import read_fields, read_list, read_string
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.kinds import Flag, OneOf, Text
from lllms_core.parameters.wording import cut, missing, unknown, wrong_type

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
READ = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
"""The fields of a tool that mean something here; prompts are cached without being asked."""
CHOICES = ("auto", "any", "tool", "none")


@frozen
class ToolParameters:
    """What a request says about tools."""

    values: Mapping[str, object] = field(factory=dict)
    """Parameters by the names of OpenAI's API."""
    unused: tuple[str, ...] = ()
    """The tools that the server should run, and fields without effect."""


def read_tools(tools: object, choice: object) -> ToolParameters:
    """Read `tools` and `tool_choice` (None: not given). Raises `RequestError` that names the field."""
    values: dict[str, object] = {}
    unused: list[str] = []
    if tools is not None:
        read: dict[str, object] = {}
        for index, one in enumerate(read_list(tools, "tools")):
            path = f"tools[{index}]"
            fields = read_fields(one, path)
            kind = Text().check(f"{path}.type", fields.get("type", "custom"))
            if kind != "custom":
                unused.append(f"tools.{kind}")  # by its name, which is its version, too: web_search_20250305
                continue
            unused += (f"tools.{name}" for name in fields if name not in READ)
            name, function = _read_tool(fields, path)
            if name in read:
                raise InvalidRequest(f"Invalid 'tools': several are named '{name}'.", "tools", "invalid_value")
            read[name] = {"type": "function", "function": function}
        values["tools"] = [*read.values()]
    if choice is not None:
        values |= _read_choice(choice)
    return ToolParameters(values, tuple(dict.fromkeys(unused)))


def _read_tool(fields: Mapping[str, object], path: str) -> tuple[str, Mapping[str, object]]:
    """Return a tool's name, and its function in OpenAI's form."""
    name = read_string(fields, "name", path)
    if not NAME.fullmatch(name):
        text = f"Invalid '{path}.name': '{name[:80]}' is not 1 to 64 letters, digits, '_' and '-'."
        raise InvalidRequest(text, f"{path}.name", "invalid_value")
    schema = fields.get("input_schema")
    if schema is None:
        raise missing(f"{path}.input_schema")
    if not isinstance(schema, dict):
        raise wrong_type(f"{path}.input_schema", "an object", schema)
    if schema.get("type", "object") != "object":
        text = f"Invalid '{path}.input_schema': its 'type' must be 'object'."
        raise InvalidRequest(text, f"{path}.input_schema", "invalid_value")
    strict = Flag().check(f"{path}.strict", fields.get("strict", False))
    described = Text().check(f"{path}.description", fields.get("description", ""))
    function = {"name": name, "parameters": schema, "strict": strict}
    return name, {**function, "description": described} if described else function


def _read_choice(value: object) -> dict[str, object]:
    fields = read_fields(value, "tool_choice")
    kind = OneOf(CHOICES).check("tool_choice.type", read_string(fields, "type", "tool_choice"))
    values: dict[str, object] = {}
    if Flag().check("tool_choice.disable_parallel_tool_use", fields.pop("disable_parallel_tool_use", False)):
        values["parallel_tool_calls"] = False
    if kind == "tool":
        values["tool_choice"] = {"type": "function", "function": {"name": read_string(fields, "name", "tool_choice")}}
    else:
        values["tool_choice"] = {"any": "required"}.get(kind, kind)
    for name in fields.keys() - {"type", *(["name"] if kind == "tool" else [])}:
        raise unknown(f"tool_choice.{cut(name)}")
    return values
